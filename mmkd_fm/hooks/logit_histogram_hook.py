"""Draw histograms of the diagnostics of the logit losses."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import Tensor

from mmkd_fm.hooks.unwrapped_model import unwrapped_model
from mmkd_fm.models.distiller import EXTRAS
from mmkd_fm.registry import HOOKS


@HOOKS.register_module()
class LogitHistogramHook(Hook):
    """Hands a figure for each logit loss to the visualizer: histograms of a batch's diagnostics.

    The losses (those with the attribute `keep_values`, such as WTTM, TTM and KD) are asked to keep
    the values of each sample in the iterations that are drawn only. The figures, named
    `<term>_diagnostics`, go to every backend of the visualizer. Process 0 draws, of its own batch.
    The means there are of the kept samples as they are, those in the log are weighted.

    Args:
        interval: Draw in the last iteration of every so many epochs.
        by_epoch: Otherwise `interval` counts iterations.

    Raises:
        ValueError: If the interval is not a positive whole number.

    Example:
        >>> default_hooks = dict(distill_histograms=dict(type='mmkd_fm.LogitHistogramHook'))
    """

    def __init__(self, interval: int = 1, by_epoch: bool = True) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(f'interval must be a whole number from 1, but got {interval!r}')
        self.interval = interval
        self.by_epoch = by_epoch

    def before_train(self, runner) -> None:
        """Find the losses that can keep values."""
        model = unwrapped_model(runner)
        terms = getattr(model, EXTRAS, {}).items()
        self._losses = {name: loss for name, loss in terms if hasattr(loss, 'keep_values')}
        if not self._losses:
            runner.logger.warning(
                f'LogitHistogramHook draws nothing: it expects a distillation loss that keeps its '
                f'values, such as mmkd_fm.WTTMLoss, but {type(model).__name__} has the terms: '
                f'{", ".join(name for name, _ in terms) or "none"}. Add one, or leave the hook out'
            )

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Ask for the values of an iteration that will be drawn."""
        epoch = len(runner.train_dataloader) if self.by_epoch else 1
        due = self.every_n_train_iters(runner, self.interval * epoch) and is_main_process()
        for loss in self._losses.values():
            loss.keep_values = due

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Draw the values, and free them."""
        for name, loss in self._losses.items():
            if loss.keep_values and loss.values:
                title = f'{name}, iteration {runner.iter + 1}'
                image = draw(title, loss.values)
                runner.visualizer.add_image(f'{name}_diagnostics', image, step=runner.iter + 1)
            loss.keep_values, loss.values = False, {}


def draw(title: str, values: dict[str, Tensor]) -> np.ndarray:
    """A histogram of each value with its mean, as a picture: RGB, uint8, (height, width, 3).

    Args:
        title: Of the figure.
        values: Values of each sample by name, shape (M,).
    """
    figure = Figure(figsize=(3.2 * len(values), 2.8), layout='constrained')
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (name, value) in zip(
        figure.subplots(1, len(values), squeeze=False)[0], values.items()
    ):
        value = value.double().cpu().numpy()  # in float32 50 bins of nearly equal values are none
        value = value[np.isfinite(value)]
        axes.hist(value, bins=50)
        if len(value):  # on a linear scale the background would hide the objects
            axes.set_yscale('log')
            axes.set_ylim(bottom=0.8)
        axes.set_title(f'{name}, mean {value.mean():.3g}' if len(value) else f'{name}, no samples')
        axes.set_ylabel('samples')
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
