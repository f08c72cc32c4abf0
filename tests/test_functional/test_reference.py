"""Reference values, see tests/data/README.md: equal to 1e-9 relative in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmkd_fm import functional

REFERENCE = np.load(Path(__file__).parents[1] / 'data' / 'reference.npz')
CASES = json.loads(str(REFERENCE['cases']))


def test_all_losses_have_reference_values():
    assert {case['loss'] for case in CASES} == {
        'ttm_loss', 'wttm_loss', 'pkd_loss', 'cwd_loss', 'mse_loss', 'kd_loss', 'dkd_loss',
        'dist_loss',
    }  # fmt: skip
    assert len(CASES) == 41


@pytest.mark.parametrize('case', CASES, ids=lambda c: f'{c["case"]}-{c["loss"]}')
def test_value_and_gradient(case):
    student = torch.from_numpy(REFERENCE[f'{case["inputs"]}/student']).requires_grad_()
    teacher = torch.from_numpy(REFERENCE[f'{case["inputs"]}/teacher'])
    arguments = dict(case['params'])
    if case['loss'] == 'dkd_loss':
        arguments['target'] = torch.from_numpy(REFERENCE[f'{case["inputs"]}/target'])
    loss = getattr(functional, case['loss'])(student, teacher, **arguments)
    (grad,) = torch.autograd.grad(loss, student)
    expected = REFERENCE[f'{case["case"]}/grad']
    assert loss.item() == pytest.approx(float(REFERENCE[f'{case["case"]}/loss']), rel=1e-9)
    np.testing.assert_allclose(grad.numpy(), expected, rtol=0, atol=1e-9 * np.abs(expected).max())
