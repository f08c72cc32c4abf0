"""Draws the figures of docs/wttm.md and prints its tables: `python docs/figures/wttm_theory.py`.

Nothing is trained: the weight U, the gradients of TTM, WTTM and KD, and what separates KD from TTM.
"""

from pathlib import Path

import matplotlib
import torch

from mmkd_fm.functional import FORMS, kd_loss, power_sum, ttm_loss, wttm_loss

matplotlib.use('Agg')
import matplotlib.pyplot as plt

BLUES = ['#9dbfe3', '#5d93cc', '#1f5fa8', '#0d3261']
TTM, WTTM, KD, GREY = '#1f5fa8', '#c2571a', '#222222', '#9a9a9a'
GAMMAS = (0.1, 0.3, 0.7)


def spread(confidence, classes):
    """Logits (M, C): the greatest probability given, the rest spread evenly."""
    rest = ((1 - confidence) / (classes - 1)).clamp(min=1e-300)[:, None]
    return torch.cat([confidence[:, None], rest.expand(-1, classes - 1)], dim=1).log()


def concentrated(confidence, classes):
    """Logits (M, C): as many classes as fit have the greatest probability, one has the rest."""
    left = 1 - confidence[:, None] * torch.arange(classes)
    return left.clamp(min=1e-300).minimum(confidence[:, None]).log()


def weight_figure(path):
    """U against the teacher's confidence, for some numbers of classes and powers."""
    figure, axes = plt.subplots(
        1, 3, figsize=(12.4, 3.9), dpi=110, sharey=True, layout='constrained'
    )
    for axis, gamma in zip(axes, GAMMAS):
        for classes, colour in zip((2, 10, 100, 1000), BLUES):
            confidence = torch.linspace(1 / classes, 1, 800, dtype=torch.float64)
            weights = power_sum(spread(confidence, classes), gamma)
            axis.plot(confidence, weights, color=colour, lw=2, label=f'C = {classes}')
        least = power_sum(concentrated(confidence, 1000), gamma)
        axis.plot(confidence, least, '--', color=WTTM, lw=1.2, zorder=1.5, label='few, any C')
        axis.set(title=f'$\\gamma$ = {gamma}', xlabel="the teacher's greatest probability")
        axis.set(yscale='log', ylim=(0.9, 700), xlim=(0, 1.01))
    axes[0].set_ylabel('weight U')
    axes[2].legend(fontsize=8, loc='upper right', title='rest spread evenly over')
    figure.savefig(path)


EXAMPLES = {
    'easy: sure and right': [7, 1, 0.5, 0, 0, -0.5, -1, -1, -1.5, -2],
    'ambiguous: three classes': [3, 2.8, 2.2, 0, 0, -0.5, -1, -1, -1.5, -2],
    'wrong: sure of class 3': [2, 1, 0.5, 6.5, 0, -0.5, -1, -1, -1.5, -2],
}
STUDENT = [3, 1, 1.5, 0.5, 0.2, 0, -0.2, -0.5, -0.5, -1]
LOSSES = {
    'KD': (kd_loss, KD, lambda gamma: 1 / gamma),
    'TTM': (ttm_loss, TTM, lambda gamma: gamma),
    'WTTM': (wttm_loss, WTTM, lambda gamma: gamma),
}


def gradients_figure(path, gamma=0.25):
    """Gradients with respect to one student's logits, for three teachers."""
    teachers = torch.tensor(list(EXAMPLES.values()), dtype=torch.float64)
    student = torch.tensor([STUDENT] * len(teachers), dtype=torch.float64, requires_grad=True)
    weights = power_sum(teachers, gamma)
    gradients = {
        name: torch.autograd.grad(loss(student, teachers, power(gamma), reduction='sum'), student)[
            0
        ]
        for name, (loss, _, power) in LOSSES.items()
    }
    # as the weights of the terms would: the three examples together have the size 1
    sizes = {name: grad.norm(dim=1).mean() for name, grad in gradients.items()}
    q = student.detach().softmax(dim=1)
    p, p_hat = teachers.softmax(dim=1), (gamma * teachers).softmax(dim=1)
    figure, axes = plt.subplots(
        2, 3, figsize=(12.4, 5.6), dpi=110, sharey='row', layout='constrained'
    )
    print('| teacher | greatest p | U | size of the gradient: ' + ' | '.join(gradients) + ' |')
    print('|---|---|---|---|---|---|')
    place = torch.arange(q.shape[1])
    for i, ((upper, lower), name) in enumerate(zip(axes.T, EXAMPLES)):
        for offset, (values, label, colour) in enumerate(
            ((p, 'p, teacher', GREY), (p_hat, '$\\hat p$', BLUES[0]), (q, 'q, student', '#555555'))
        ):
            upper.bar(place + 0.27 * (offset - 1), values[i], 0.25, color=colour, label=label)
        for offset, (method, grad) in enumerate(gradients.items()):
            step = -grad[i] / sizes[method]
            x = place + 0.27 * (offset - 1)
            lower.bar(x, step, 0.25, color=LOSSES[method][1], label=method)
        lower.axhline(0, color=KD, lw=0.8)
        upper.set(title=f'{name}, U = {weights[i]:.2f}', xticks=place)
        lower.set(xlabel='class', xticks=place)
        norms = [(grad[i].norm() / sizes[method]).item() for method, grad in gradients.items()]
        row = ' | '.join(f'{norm:.2f}' for norm in norms)
        print(f'| {name} | {p[i].max():.2f} | {weights[i]:.2f} | {row} |')
    axes[0, 0].set_ylabel('probability')
    axes[1, 0].set_ylabel('push on the logit')
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].legend(fontsize=8)
    figure.savefig(path)


def triangle(count=220):
    """Points of the simplex of three classes: log probabilities (M, 3) and places (M, 2)."""
    i, j = torch.meshgrid(torch.arange(1, count), torch.arange(1, count), indexing='ij')
    inside = i + j < count
    p = torch.stack([i[inside], j[inside], (count - i - j)[inside]], dim=1).double() / count
    return p.log(), to_plane(p)


def to_plane(p):
    """Corners: class 0 on top, 1 on the left, 2 on the right."""
    corners = torch.tensor([[0.5, 3**0.5 / 2], [0, 0], [1, 0]], dtype=torch.float64)
    return p @ corners


def renyi_figure(path, temperature=4):
    """The divergence of KD, the Renyi entropy, and their difference: TTM."""
    figure, axes = plt.subplots(1, 3, figsize=(12.4, 4.3), dpi=110, layout='constrained')
    q, place = triangle()
    teacher = torch.tensor([[0.80, 0.16, 0.04]], dtype=torch.float64).log()
    t, read = temperature, FORMS['softmax']
    kd = t * read.kl(q / t, teacher.expand_as(q) / t)
    penalty = -(t - 1) * read.renyi_entropy(q, 1 / t)
    ttm = read.kl(q, teacher.expand_as(q) / t)
    constant = (t - 1) * read.entropy(teacher / t)
    assert torch.allclose(ttm, kd + penalty + constant, rtol=0, atol=1e-10)
    p, p_hat = to_plane(teacher.exp())[0], to_plane((teacher / t).softmax(dim=1))[0]
    # finer where it is low
    levels = (1.4 * torch.linspace(0, 1, 15) ** 2).tolist()
    for axis, values, title in (
        (axes[0], kd, f'KD: {t} D($p_T$ || $q_T$)'),
        (axes[1], penalty, f'$-$ {t - 1} $H_{{1/{t}}}$(q)'),
        (axes[2], ttm, '= TTM: D($p_T$ || q)'),
    ):
        lowest = values.argmin()
        drawn = axis.tricontourf(
            *place.T, (values - values[lowest]).clamp(max=1.399), levels=levels, cmap='Blues_r'
        )
        axis.plot(*p, 'o', color=WTTM, ms=8, label='p, teacher')
        axis.plot(*p_hat, 's', color=WTTM, ms=8, label='$p_T$, tempered teacher')
        axis.plot(*place[lowest], 'x', color='white', ms=6, mew=2)
        axis.set(title=title, aspect='equal', xlim=(-0.1, 1.1), ylim=(-0.1, 1))
        for text, x, y in (('class 0', 0.5, 0.89), ('1', -0.03, -0.06), ('2', 1.03, -0.06)):
            axis.text(x, y, text, ha='center', fontsize=9)
        axis.axis('off')
    figure.colorbar(
        drawn, ax=axes, shrink=0.8, ticks=levels[::4], format='%.2f', label='above the minimum'
    )
    axes[0].legend(fontsize=8, loc='upper left', bbox_to_anchor=(-0.08, 1.02))
    figure.savefig(path)


def dense_tables():
    """Weights and transformed scores of a dense head of 80 classes."""
    print('\n| form | gamma | greatest U | background | half an object | an object |')
    print('|---|---|---|---|---|---|')
    scores = torch.full((3, 80), 0.001, dtype=torch.float64)
    scores[:, 0] = torch.tensor([0.001, 0.5, 0.95])
    for form, outcomes in (('bernoulli', 2), ('background_softmax', 81)):
        for gamma in (0.9, *GAMMAS[::-1]):
            weights = FORMS[form].power_sum(scores.logit(), gamma).reshape(3, -1)[:, 0]
            row = ' | '.join(f'{value:.3g}' for value in weights.tolist())
            print(f'| {form} | {gamma} | {outcomes ** (1 - gamma):.3g} | {row} |')
    p = torch.tensor([0.001, 0.01, 0.05, 0.3, 0.5, 0.9, 0.99], dtype=torch.float64)
    print('\n| gamma |', ' | '.join(f'p = {value:g}' for value in p.tolist()), '|')
    print('|---' * (len(p) + 1) + '|')
    for gamma in (0.9, *GAMMAS[::-1]):
        p_hat = (gamma * p.logit()).sigmoid().tolist()
        print(f'| {gamma} |', ' | '.join(f'{value:.2g}' for value in p_hat), '|')


if __name__ == '__main__':
    torch.set_num_threads(1)
    folder = Path(__file__).parent
    weight_figure(folder / 'wttm_weight.png')
    gradients_figure(folder / 'wttm_gradients.png')
    renyi_figure(folder / 'wttm_renyi.png')
    dense_tables()
