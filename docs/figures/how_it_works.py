"""Draws how_it_works.png: `python docs/figures/how_it_works.py`."""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

STUDENT, TEACHER, EXTRA, LOSS = '#dbe9f9', '#e6e6e6', '#fdebc8', '#f8d7da'
INK = '#222222'

figure, axes = plt.subplots(figsize=(12, 5.6), dpi=110)
axes.set_xlim(0, 120)
axes.set_ylim(0, 56)
axes.axis('off')


def box(x, y, width, height, text, colour, **style):
    """A labelled box with its lower left corner at (x, y)."""
    patch = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle='round,pad=0.2,rounding_size=1',
        facecolor=colour,
        edgecolor=INK,
        linewidth=1,
        **style,
    )
    axes.add_patch(patch)
    axes.text(
        x + width / 2, y + height / 2, text, ha='center', va='center', fontsize=9.5, color=INK
    )


def arrow(start, end, text='', offset=(0, 1.2), **style):
    """An arrow with a label at its middle."""
    style = dict(dict(arrowstyle='-|>', mutation_scale=12, color=INK, linewidth=1.1), **style)
    axes.add_patch(FancyArrowPatch(start, end, shrinkA=2, shrinkB=2, **style))
    middle = ((start[0] + end[0]) / 2 + offset[0], (start[1] + end[1]) / 2 + offset[1])
    axes.text(*middle, text, ha='center', fontsize=8.5, color=INK)


box(1, 24, 11, 8, 'raw batch', 'white')
box(15.5, 42, 15, 7, "teacher's view", TEACHER)
box(15.5, 7, 15, 7, "student's view", STUDENT)
arrow((10, 32), (17, 42), 'its mean, std,\norder, padding', offset=(-6.5, 0.5))
arrow((10, 24), (17, 14))

for y, colour, name in ((42, TEACHER, 'teacher'), (7, STUDENT, 'student')):
    for x, part in ((35, 'backbone'), (51, 'neck'), (91, 'head')):
        box(x, y, 11, 7, f'{name}\n{part}', colour)
    arrow((30, y + 3.5), (35, y + 3.5))
    arrow((46, y + 3.5), (51, y + 3.5))
    arrow((62, y + 3.5), (91, y + 3.5))
box(107, 7, 11, 7, "student's\nown losses", LOSS)
arrow((102, 10.5), (107, 10.5))
axes.text(
    1,
    51.5,
    'frozen: eval mode, no gradient, in no file; runs only as deep as its taps need',
    fontsize=9,
    style='italic',
    color='#555555',
)
axes.text(
    1,
    2.5,
    'unedited: same names, same losses; this is all that is saved and exported',
    fontsize=9,
    style='italic',
    color='#555555',
)

box(
    55,
    18.5,
    20,
    8.5,
    'flow of each level\n$Z \\leftarrow Z - v_\\theta(Z, t)/N$\nt = 1 ... 1/N',
    EXTRA,
)
box(52, 31.5, 26, 6, 'FM-KT loss (PKD metric)', LOSS)
box(87, 25.5, 19, 7, 'WTTM loss\n$U_\\gamma(p)\\,KL(\\hat p\\,\\|\\,q)$', LOSS)
box(30, 19.5, 14, 6, 'Theta loss', LOSS)
arrow((57, 14), (61, 18.5), '$X^S$', offset=(2.2, -0.6))
arrow((65, 27), (65, 31.5), 'estimates $X^S - v$', offset=(8.6, -0.4))
arrow((57, 42), (61, 37.5), '$X^T$', offset=(2.2, 0))
arrow((55, 22.5), (44, 22.5), 'mean,\ndetached', offset=(0, 1))
arrow((53, 14), (39, 19.5), '$X^S$', offset=(-3, -1.2))
arrow((96.5, 14), (96.5, 25.5), 'class logits', offset=(5.6, 0))
arrow((96.5, 42), (96.5, 32.5), 'class logits', offset=(5.6, 0))
axes.text(107, 40.5, 'training only', fontsize=9, color='#555555', ha='left')
for y, colour, text in ((37.5, EXTRA, 'trained extras'), (34.5, LOSS, 'losses')):
    axes.add_patch(plt.Rectangle((107, y - 0.6), 2.5, 1.8, facecolor=colour, edgecolor=INK))
    axes.text(110.5, y + 0.2, text, fontsize=8.5, va='center')

figure.savefig(Path(__file__).with_suffix('.png'), bbox_inches='tight')
