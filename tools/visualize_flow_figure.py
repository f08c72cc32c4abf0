"""What visualize_flow.py shows: the picture of a flow, and the table of its distances."""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from visualize_flow_trace import LevelFlow

SHOWN_STEPS = 8  # of more steps, these many are drawn
DPI = 110
CELL = 1.24  # inches, width of a map
HEAD, PANEL, FOOT = 1.0, 2.3, 0.5  # inches: titles, distances against time, their axis
COLOURS = ('#2166ac', '#d1663a', '#3a8f4d', '#8e4fa8', '#555555', '#b8860b')
CURVES = dict(
    estimates=('estimate of a step', dict(linestyle='', marker='o', markersize=4.5)),
    means=('mean of the estimates so far', dict(linestyle='--')),
    states=('state that the step ends in', dict(linestyle=':')),
)


def _standardise(value: Tensor) -> Tensor:
    """Zero mean and unit deviation of each row of (..., positions)."""
    spread = value.std(-1, keepdim=True, unbiased=False)
    return (value - value.mean(-1, keepdim=True)) / spread.clamp_min(1e-6)


def colour(flow: LevelFlow, image_shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The maps of a level as pictures, without the padding of the batch.

    Args:
        flow: The level.
        image_shape: Height and width of the image in pixels.

    Returns:
        By the names of ``flow.maps``, RGB in [0, 1], shape (n, h, w, 3); and `change`, shape
        (h, w): how much the flow moves each position of the standardised map (RMS over channels).
    """
    h, w = (ceil(side / flow.stride) for side in image_shape)
    height, width = flow.maps['student'].shape[-2:]
    cropped = {  # a teacher that sees the image larger has larger maps
        key: value[..., : ceil(h * value.shape[-2] / height), : ceil(w * value.shape[-1] / width)]
        for key, value in flow.maps.items()
    }
    flat = {key: _standardise(value.flatten(2)) for key, value in cropped.items()}
    axes = torch.linalg.eigh(flat['teacher'][0] @ flat['teacher'][0].T)[1][:, -3:].flip(1)
    axes = axes * torch.where(axes.sum(0) < 0, -1, 1)  # a component has no sign of its own
    spread = 2.5 * (axes.T @ flat['teacher'][0]).std(-1, keepdim=True, unbiased=False)
    pictures = {}
    for key, value in flat.items():
        rgb = (0.5 + 0.5 * (axes.T @ value) / spread.clamp_min(1e-6)).clamp(0, 1)
        rgb = torch.cat([rgb, rgb.new_full((len(rgb), 3 - rgb.shape[1], rgb.shape[2]), 0.5)], 1)
        pictures[key] = rgb.unflatten(2, cropped[key].shape[2:]).permute(0, 2, 3, 1).numpy()
    change = (flat['means'][-1] - flat['student'][0]).square().mean(0).sqrt()
    pictures['change'] = change.unflatten(0, cropped['student'].shape[2:]).numpy()
    return pictures


def draw_flow(
    image: np.ndarray, flows: list[LevelFlow], title: str, show: str = 'states'
) -> Figure:
    """A row of maps for each level and, below, their distances against time.

    Args:
        image: Pixels as the models see them, RGB, shape (H, W, 3).
        flows: The levels.
        title: Text above.
        show: What is drawn of each step: 'states' or 'estimates'.

    Returns:
        The figure; its axes are the maps, row by row, and last the distances.
    """
    count = len(flows[0].times)
    shown = np.linspace(0, count - 1, min(count, SHOWN_STEPS)).round().astype(int)
    columns = len(shown) + 5
    row_height = CELL * float(np.clip(image.shape[0] / image.shape[1], 0.4, 2)) + 0.3
    height = HEAD + row_height * len(flows) + PANEL + FOOT
    figure = Figure(figsize=(max(CELL * columns, 9), height), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.text(0.012, 1 - 0.08 / height, title, va='top', fontsize=9.5, linespacing=1.4)
    grid = figure.add_gridspec(
        len(flows),
        columns,
        left=0.012,
        right=0.988,
        top=1 - HEAD / height,
        bottom=(PANEL + FOOT) / height,
        wspace=0.07,
        hspace=0.25,
    )
    for row, flow in enumerate(flows):
        for column, (pixels, head, foot) in enumerate(_cells(image, flow, shown, show)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(pixels, interpolation='nearest', cmap='magma', vmin=0)
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(foot, fontsize=8.5, labelpad=3)
            if row == 0:
                axes.set_title(head, fontsize=8.5, pad=4)
    width = figure.get_figwidth()
    box = (0.85 / width, FOOT / height, 1 - 3.65 / width, (PANEL - 0.5) / height)
    _draw_distances(figure.add_axes(box), flows)
    return figure


def _cells(image: np.ndarray, flow: LevelFlow, shown: np.ndarray, show: str) -> list[tuple]:
    """Pixels, heading and caption of each map in a row."""
    pictures, distances = colour(flow, image.shape[:2]), flow.distances
    # an estimate is made where the step starts, a state is where it ends
    times = flow.times if show == 'estimates' else flow.ends
    steps = [
        (pictures[show][k], f'{show[:-1]}\nt = {times[k]:.3g}', f'{distances[show][k]:.4f}')
        for k in shown
    ]
    return [
        (image, 'image', f'{flow.name}, stride {flow.stride}'),
        (pictures['student'][0], 'student $X^S$\nt = 1', f'{distances["student"][0]:.4f}'),
        *steps,
        (pictures['means'][-1], 'mean estimate\n(passed on)', f'{distances["means"][-1]:.4f}'),
        (pictures['teacher'][0], 'teacher $X^T$', ''),
        (pictures['change'], 'change by the\nflow (own scale)', f'{flow.change:.4f}'),
    ]


def _draw_distances(axes, flows: list[LevelFlow]) -> None:
    """Distances against time, as shares of that of the student's own features."""
    levels = []
    for flow, ink in zip(flows, COLOURS * len(flows)):
        student = flow.distances['student'][0]
        for kind, (_, style) in CURVES.items():
            times, values = flow.times, flow.distances[kind]
            if kind == 'states':
                times, values = [times[0], *flow.ends], [student, *values]
            axes.plot(times, 100 * np.array(values) / max(student, 1e-12), color=ink, **style)
        levels.append(Line2D([], [], color=ink, linewidth=3, label=flow.name))
    kinds = [Line2D([], [], color='black', label=text, **style) for text, style in CURVES.values()]
    axes.axhline(100, color='#aaaaaa', linewidth=0.8, zorder=0)
    axes.set(xlim=(1.02, -0.02), ylabel="% of $X^S$'s")
    axes.set_xlabel('t: 1 at the student, 0 at the teacher', fontsize=8.5)
    axes.set_title('distance to the teacher', fontsize=9, loc='left')
    axes.tick_params(labelsize=8.5)
    axes.ticklabel_format(useOffset=False)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(handles=levels + kinds, loc='center left', bbox_to_anchor=(1.01, 0.5), fontsize=8.5)


def distance_table(flows: list[LevelFlow], title: str) -> Table:
    """Distances to the teacher: a row for each step, a column for each level."""
    caption = 'estimate of the step / mean of the estimates so far'
    table = Table(title=title, caption=caption, title_justify='left', box=SIMPLE_HEAD, padding=0)
    table.add_column('t', no_wrap=True)
    for flow in flows:
        table.add_column(flow.name, justify='right', no_wrap=True)
    student = (f'{flow.distances["student"][0]:.4f}' for flow in flows)
    table.add_row('student', *student, end_section=True)
    for k, t in enumerate(flows[0].times):
        pairs = [(flow.distances['estimates'][k], flow.distances['means'][k]) for flow in flows]
        table.add_row(f'{t:.3g}', *(f'{estimate:.4f} / {mean:.4f}' for estimate, mean in pairs))
    return table
