"""The mathematics: tensors in, tensors out, torch only, no state."""

from mmkd_fm.functional.divergences import cosine_loss, cwd_loss, mse_loss, pkd_loss
from mmkd_fm.functional.forms import FORMS, get_form, with_background
from mmkd_fm.functional.logit_divergences import dist_loss, dkd_loss, kd_loss
from mmkd_fm.functional.pairing import decouple_pairs
from mmkd_fm.functional.schedules import (
    RectifiedFlow,
    Schedule,
    VESchedule,
    VPSchedule,
    get_schedule,
    register_schedule,
)
from mmkd_fm.functional.steps import check_num_steps, draw_num_steps, warm_up_num_steps
from mmkd_fm.functional.transport import Transport, transport
from mmkd_fm.functional.wttm import power_sum, ttm_loss, wttm_loss

__all__ = [
    'FORMS',
    'RectifiedFlow',
    'Schedule',
    'Transport',
    'VESchedule',
    'VPSchedule',
    'check_num_steps',
    'cosine_loss',
    'cwd_loss',
    'decouple_pairs',
    'dist_loss',
    'dkd_loss',
    'draw_num_steps',
    'get_form',
    'get_schedule',
    'kd_loss',
    'mse_loss',
    'pkd_loss',
    'power_sum',
    'register_schedule',
    'transport',
    'ttm_loss',
    'warm_up_num_steps',
    'with_background',
    'wttm_loss',
]
