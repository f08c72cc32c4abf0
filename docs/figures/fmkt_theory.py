"""Draws the figures of docs/fmkt.md and prints its tables: `python docs/figures/fmkt_theory.py`.

Three toys, each a few seconds of training of a small network: two modes of the teacher, what
several steps do, and the trap of velocity matching.
"""

from pathlib import Path

import matplotlib
import torch
from torch import nn

from mmkd_fm.functional import mse_loss, pkd_loss, transport

matplotlib.use('Agg')
import matplotlib.pyplot as plt

SERIAL, MATCHING, EXACT, GREY = '#1f5fa8', '#c2571a', '#222222', '#9a9a9a'
METRICS = {'MSE': mse_loss, 'PKD': pkd_loss}


def perceptron(inputs, outputs, width=64):
    """A network of points, shape (N, D)."""
    layers = [nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def convolutions(inputs, outputs, width=16):
    """A network of signals, shape (N, D, L), that sees two pixels to each side."""
    layers = [nn.Conv1d(inputs, width, 3, padding=1), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv1d(width, outputs, 3, padding=1))


def velocity(net, z, t, *more):
    """The network's velocity at the state z and the times t, shape (N,)."""
    return net(torch.cat([z, t.reshape(-1, *[1] * (z.ndim - 1)).expand_as(z[:, :1]), *more], dim=1))


def carry(net, x, count, *more):
    """Transport x serially; what is in `more` is given to the network at each step."""
    return transport(x, lambda z, t: velocity(net, z, t, *more), count)


def fit(parameters, loss, steps, rate=3e-3):
    """Minimise `loss()` by Adam with a cosine decay; returns the losses."""
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        decay.step()
        losses.append(value.item())
    return losses


# Two modes


def draw_modes(count, paired=True):
    """X^S of shape (N, 1), X^T around -1 or 1, and the mode; the student half knows the mode."""
    mode = torch.randint(0, 2, (count, 1)).float() * 2 - 1
    teacher = mode + 0.1 * torch.randn(count, 1)
    x = 0.5 * mode + torch.randn(count, 1)
    return x, teacher if paired else teacher[torch.randperm(count)], mode


def fit_modes(serial, paired, steps):
    """Train on the two modes: serially, or fed with the interpolated teacher."""
    torch.manual_seed(0)
    net = perceptron(2, 1)

    def loss():
        x, teacher, _ = draw_modes(1024, paired)
        if serial:
            return (carry(net, x, 4).estimates - teacher).square().mean()
        t = torch.rand(len(x))
        z = t[:, None] * x + (1 - t[:, None]) * teacher
        return (velocity(net, z, t) - (x - teacher)).square().mean()

    fit(net.parameters(), loss, steps)
    return net


@torch.no_grad()
def modes_figure(path):
    """Outputs against X^S and their histograms, for both ways of training and of pairing."""
    figure, axes = plt.subplots(
        2, 4, figsize=(12.4, 5.6), dpi=110, height_ratios=(2, 1), layout='constrained'
    )
    print('| training | pairs | K | MSE to X^T | RMS to cond. mean | in a mode | mode right |')
    print('|---|---|---|---|---|---|---|')
    cases = [(serial, paired) for serial in (True, False) for paired in (True, False)]
    for (upper, lower), (serial, paired) in zip(axes.T, cases):
        with torch.enable_grad():
            net = fit_modes(serial, paired, steps=1000 if serial else 2000)
        torch.manual_seed(1)
        x, teacher, mode = draw_modes(20000)
        best = torch.tanh(x / 2) if paired else torch.zeros_like(x)
        name = 'serial' if serial else 'ordinary flow matching'
        pairs = 'own teacher' if paired else 'permuted teacher'
        for count in (1, 4, 32):
            out = carry(net, x, count).endpoint
            mse, rms = (out - teacher).square().mean(), (out - best).square().mean().sqrt()
            inside = ((out.abs() - 1).abs() < 0.3).float().mean()
            right = (out.sign() == mode).float().mean()
            row = f'| {name} | {pairs} | {count} | {mse:.2f} | {rms:.3f}'
            print(f'{row} | {inside:.2f} | {right:.2f} |')
        count = 4 if serial else 32
        out = carry(net, x, count).endpoint
        order = x[:, 0].argsort()[::50]
        upper.plot(x[::40], teacher[::40], '.', color=GREY, ms=2, alpha=0.5, label='teacher')
        upper.plot(x[order], best[order], '--', color=EXACT, lw=1.2, label='conditional mean')
        colour = SERIAL if serial else MATCHING
        upper.plot(x[order], out[order], color=colour, lw=2, label=f'output, {count} steps')
        upper.set(title=f'{name},\n{pairs}', xlabel='$X^S$', xlim=(-3.5, 3.5), ylim=(-1.6, 2.6))
        upper.legend(loc='upper left', fontsize=8, framealpha=1)
        for values, style in ((teacher, dict(color=GREY)), (out, dict(color=colour, alpha=0.6))):
            lower.hist(values[:, 0].numpy(), bins=60, range=(-1.6, 1.6), density=True, **style)
        lower.set(xlabel='output (coloured), teacher (grey)', yticks=[], ylim=(0, 4))
    axes[0, 0].set_ylabel('output')
    axes[1, 0].set_ylabel('density')
    figure.savefig(path)


# Several steps


def swirl(z, t):
    """A smooth velocity of the plane."""
    return torch.stack([z[:, 1] + torch.sin(2 * z[:, 0]), torch.cos(z[:, 1]) - t * z[:, 0]], dim=1)


def bends(x):
    """A teacher that is a function of each point, shape (N, 2)."""
    first, second = 1.5 * x[:, 0], x[:, 1]
    return torch.stack([first.sin() * second.cos(), (x[:, 0] + second).cos()], dim=1)


def blur(x):
    """A teacher that collects what lies up to 9 pixels away, for x of shape (N, 1, L)."""
    window = torch.hann_window(19, periodic=False)
    return nn.functional.conv1d(x, (window / window.norm())[None, None], padding=9)


def errors_of_steps(network, shape, teacher_of, informed, count):
    """Train with `count` steps; errors of the mean and of single estimates, spread, last error."""
    torch.manual_seed(0)
    net = network(shape[0] * (2 if informed else 1) + 1, shape[0])

    def loss():
        x = torch.randn(128, *shape)
        flow = carry(net, x, count, *[x] * informed)
        return (flow.estimates - teacher_of(x)).square().mean()

    fit(net.parameters(), loss, steps=800, rate=5e-3)
    with torch.no_grad():
        x = torch.randn(4096, *shape)
        teacher, flow = teacher_of(x), carry(net, x, count, *[x] * informed)
        single = (flow.estimates - teacher).square().flatten(1).mean(dim=1)
        mean = (flow.endpoint - teacher).square().mean()
        spread = flow.estimates.var(dim=0, unbiased=False).mean()
    return [float(value / teacher.var()) for value in (mean, single.mean(), spread, single[-1])]


def steps_figure(path):
    """Truncation error, spread, and the errors of flows trained with several steps."""
    figure, axes = plt.subplots(1, 4, figsize=(12.6, 3.9), dpi=110, layout='constrained')
    torch.manual_seed(0)
    x = torch.randn(64, 2, dtype=torch.float64)
    limit = transport(x, swirl, 4096, solver='heun')
    counts = [2**k for k in range(9)]
    for solver, colour in (('euler', SERIAL), ('midpoint', MATCHING), ('heun', GREY)):
        flows = [transport(x, swirl, count, solver=solver) for count in counts]
        errors = [(f.endpoint - limit.endpoint).norm(dim=1).mean().item() for f in flows]
        slope = (torch.tensor(errors[-2]) / errors[-1]).log2()
        axes[0].loglog(counts, errors, 'o-', color=colour, ms=4, label=f'{solver}: {-slope:.2f}')
        if solver == 'euler':
            spread = [f.estimates.var(dim=0, unbiased=False).mean().sqrt().item() for f in flows]
            axes[1].semilogx(counts, spread, 'o-', color=colour, ms=4, label='Euler')
    final = limit.estimates.var(dim=0, unbiased=False).mean().sqrt().item()
    axes[1].axhline(final, ls='--', color=EXACT, lw=1, label='limit')
    axes[0].set(title='truncation error, given field', ylabel='$|Z_0(N) - Z_0(\\infty)|$')
    axes[0].legend(title='slope at the end', fontsize=8)
    axes[1].set(title='spread, same field', ylabel='deviation', ylim=(0, None))
    axes[1].legend(fontsize=8)
    print('\n| teacher | network sees | N | error of the mean | mean error | spread | last error |')
    print('|---|---|---|---|---|---|---|')
    trained = (1, 2, 4, 8)
    for axis, title, toy in (
        (axes[2], 'point by point', (perceptron, (2,), bends)),
        (axes[3], 'wide blur', (convolutions, (1, 32), blur)),
    ):
        for informed, colour, sees in (
            (False, SERIAL, 'Z and t'),
            (True, MATCHING, 'Z, t and $X^S$'),
        ):
            rows = [errors_of_steps(*toy, informed, count) for count in trained]
            for count, row in zip(trained, rows):
                values = ' | '.join(f'{value:.3f}' for value in row)
                print(f'| {title} | {sees} | {count} | {values} |')
            mean, single, _, _ = zip(*rows)
            axis.semilogx(trained, mean, 'o-', color=colour, ms=4, label=f'network sees {sees}')
            axis.fill_between(trained, mean, single, color=colour, alpha=0.2, lw=0)
        axis.set(title=f'trained: {title}', ylabel='MSE / variance of $X^T$', ylim=(0, 0.5))
        axis.set_xticks(trained, trained)
        axis.minorticks_off()
        axis.legend(fontsize=8, loc='upper right', title='error of the mean\n(shaded: + spread)')
    for axis in axes:
        axis.set_xlabel('steps N')
    figure.savefig(path)


# The trap of velocity matching


def draw_teacher(count):
    """X^S of shape (N, 4), its three functions in the teacher, and X^T of shape (N, 6)."""
    x = torch.randn(count, 4)
    functions = [x[:, 0], 2**0.5 * (2 * x[:, 1]).sin(), x[:, 2] * x[:, 3]]
    known = torch.stack(functions, dim=1)
    mixing = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    return x, known, torch.cat([known, torch.randn(count, 3)], dim=1) @ mixing.T


class Matching(nn.Module):
    """The flow loss in its different forms, with one step."""

    def __init__(self, form, metric):
        super().__init__()
        self.form, self.metric, self.net = form, METRICS[metric], perceptron(5, 4)
        self.bn, self.map, self.decode = nn.BatchNorm1d(6), nn.Linear(6, 4, False), nn.Linear(4, 6)
        if form in ('T frozen, orthogonal', 'T + tied decoder'):
            nn.init.orthogonal_(self.map.weight)
        if form in ('T detached', 'T frozen, orthogonal'):
            self.bn.requires_grad_(False), self.map.requires_grad_(False)

    def forward(self, x, teacher):
        """The flow's result, T(X^T), the flow loss, and what is added to it."""
        flow, mapped = carry(self.net, x, 1), self.map(self.bn(teacher))
        added = mapped.new_zeros(())
        if self.form == 'T + free decoder':
            added = mse_loss(self.decode(mapped), teacher)
        elif self.form == 'T + tied decoder':
            added = mse_loss(mapped @ self.map.weight, teacher)
        if self.form == 'endpoint, decoded':
            loss = self.metric(self.decode(flow.endpoint), teacher)
        elif self.form == 'T trained, endpoint':
            loss = self.metric(flow.endpoint, mapped)
        else:
            loss = self.metric(flow.velocities[0], x - mapped)
        return flow.endpoint, mapped, loss, added


FORMS = ['T trained', 'T trained, endpoint', 'T detached', 'T frozen, orthogonal']
FORMS += ['T + free decoder', 'T + tied decoder', 'endpoint, decoded']


def probe(features, known):
    """R^2 on the second half of a linear map from features to `known`, fitted on the first."""
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    (fitted, held_out), (a, b) = features.chunk(2), known.double().chunk(2)
    error = held_out @ torch.linalg.lstsq(fitted, a, driver='gelsd').solution - b
    return 1 - error.square().mean(dim=0) / b.var(dim=0)


def measure(form, metric, seed):
    """Flow loss, deviation and rank of T(X^T), size of v by its target, R^2 of each function."""
    torch.manual_seed(seed)
    matching = Matching(form, metric)

    def loss():
        x, _, teacher = draw_teacher(256)
        return sum(matching(x, teacher)[2:])

    fit(matching.parameters(), loss, steps=1000)
    matching.eval()
    with torch.no_grad():
        x, known, teacher = draw_teacher(16384)
        result, mapped, value, _ = matching(x, teacher)
    variances = torch.linalg.eigvalsh(torch.cov(mapped.T))
    rank = variances.sum() ** 2 / variances.square().sum()
    size = (x - result).std() / (x - mapped).std()
    return torch.tensor([value, mapped.std(dim=0).mean(), rank, size, *probe(result, known)])


def noise_curves(form, metric):
    """Flow losses and deviations of T(X^T), where the teacher is nothing but noise."""
    torch.manual_seed(0)
    matching, deviations = Matching(form, metric), []

    def loss():
        _, mapped, value, _ = matching(torch.randn(512, 4), torch.randn(512, 6))
        deviations.append(mapped.std(dim=0).mean().item())
        return value

    return fit(matching.parameters(), loss, steps=400, rate=1e-2), deviations


def trap_figure(path):
    """Loss and spread of T on noise; R^2 of what the teacher knows from the flow's result."""
    figure, axes = plt.subplots(
        1, 3, figsize=(12.4, 4.2), dpi=110, width_ratios=(1, 1, 1.9), layout='constrained'
    )
    for metric, colour in (('MSE', SERIAL), ('PKD', MATCHING)):
        for form, style in (('T trained', '-'), ('T frozen, orthogonal', '--')):
            for axis, values in zip(axes, noise_curves(form, metric)):
                axis.plot(values, style, color=colour, lw=1.5, label=f'{metric}, {form}')
    axes[0].set(title='flow loss, teacher = noise', xlabel='iteration', ylim=(0, 2.6))
    axes[1].set(title='deviation of T($X^T$), both alike', xlabel='iteration', ylim=(0, 1.4))
    axes[0].legend(fontsize=8)
    x, known, _ = draw_teacher(16384)
    plain = probe(x, known)
    print('\n| form | metric | loss | std of T | rank of T | size of v | easy | wave | product |')
    print('|---|---|---|---|---|---|---|---|---|')
    print('| X^S itself | | | | | |', ' | '.join(f'{value:.2f}' for value in plain), '|')
    for offset, (metric, colour) in zip((0.2, -0.2), (('MSE', SERIAL), ('PKD', MATCHING))):
        for place, form in enumerate(FORMS):
            runs = torch.stack([measure(form, metric, seed) for seed in range(3)])
            loss, deviation, rank, size, *scores = runs.mean(dim=0).tolist()
            row = f'| {form} | {metric} | {loss:.4f} | {deviation:.2f} | {rank:.1f} | {size:.2f}'
            print(row, *(f'{value:.2f}' for value in scores), '', sep=' | ')
            means = runs[:, 4:].mean(dim=1)
            label = metric if place == 0 else None
            axes[2].barh(place - offset, means.mean(), 0.36, color=colour, label=label)
            axes[2].plot(means, [place - offset] * 3, '|', color=EXACT, ms=7)
    axes[2].axvline(plain.mean(), ls=':', color=EXACT, lw=1.2, label='$X^S$ itself')
    axes[2].set(title="R$^2$ of the teacher's predictable part from the flow's result")
    axes[2].set(xlim=(0, 1.32), xticks=[0, 0.25, 0.5, 0.75, 1])
    axes[2].set_yticks(range(len(FORMS)), FORMS)
    axes[2].invert_yaxis()
    axes[2].legend(fontsize=8, loc='center right')
    figure.savefig(path)


if __name__ == '__main__':
    torch.set_num_threads(1)
    folder = Path(__file__).parent
    modes_figure(folder / 'fmkt_modes.png')
    steps_figure(folder / 'fmkt_steps.png')
    trap_figure(folder / 'fmkt_trap.png')
