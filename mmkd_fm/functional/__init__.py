"""The mathematics: tensors in, tensors out, torch only, no state."""

from mmkd_fm.functional.divergences import cwd_loss, mse_loss, pkd_loss
from mmkd_fm.functional.schedules import RectifiedFlow, get_schedule
from mmkd_fm.functional.steps import draw_num_steps
from mmkd_fm.functional.transport import Transport, transport
from mmkd_fm.functional.wttm import (
    background_softmax_wttm,
    bernoulli_wttm,
    power_sum,
    ttm_loss,
    wttm_loss,
)

__all__ = [
    'RectifiedFlow',
    'Transport',
    'background_softmax_wttm',
    'bernoulli_wttm',
    'cwd_loss',
    'draw_num_steps',
    'get_schedule',
    'mse_loss',
    'pkd_loss',
    'power_sum',
    'transport',
    'ttm_loss',
    'wttm_loss',
]
