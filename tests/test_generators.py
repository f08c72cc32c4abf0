import random

import numpy as np
import pytest
import torch

from mmkd_fm.checkpoint import load_from_local
from mmkd_fm.generators import generator_state, preserved_generators, set_generator_state


def draw():
    return random.random(), np.random.rand(), torch.rand(3).tolist()


def test_generators_are_left_as_they_were():
    state = generator_state()
    expected = draw()
    set_generator_state(state)
    with preserved_generators():
        torch.manual_seed(1)
        assert draw() != expected
    assert draw() == expected


def test_generators_are_left_as_they_were_by_an_error():
    state = generator_state()
    expected = draw()
    set_generator_state(state)
    with pytest.raises(KeyError), preserved_generators():
        draw()
        raise KeyError
    assert draw() == expected


def test_a_state_may_come_from_a_file(tmp_path):
    state = generator_state()
    state['python'] = list(state['python'])  # as some formats give tuples back
    torch.save(state, tmp_path / 'state.pth')
    expected = draw()
    set_generator_state(load_from_local(str(tmp_path / 'state.pth')))
    assert draw() == expected


@pytest.fixture
def cuda(monkeypatch):
    """A STUB of a node's GPUs, `cuda(count, current=0)`: CPU generators stand in for theirs.

    What is tested runs torch's own functions down to the generators.
    """

    def make(count, current=0):
        devices = tuple(torch.Generator().manual_seed(i) for i in range(count))
        monkeypatch.setattr(torch.cuda, 'default_generators', devices)
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
        monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
        monkeypatch.setattr(torch.cuda.random, 'device_count', lambda: count)
        monkeypatch.setattr(torch.cuda.random, 'current_device', lambda: current)
        monkeypatch.setattr(torch.cuda.random, '_lazy_init', lambda: None)
        monkeypatch.setattr(torch.cuda.random, '_lazy_call', lambda call, **kwargs: call())
        return devices

    return make


@pytest.mark.parametrize('devices', [(8, 3, 1, 0), (1, 0, 8, 3), (8, 0, 8, 3)], ids=str)
def test_a_process_resumes_on_its_own_device(devices, cuda):
    """Saved on a node of some GPUs and resumed where another number of them is visible."""
    saved_count, saved_on, count, current = devices
    saved = cuda(saved_count, saved_on)
    state = generator_state()
    expected = torch.rand(3, generator=saved[saved_on])
    visible = cuda(count, current)
    for device in visible:
        device.manual_seed(100)
    others = torch.Generator().manual_seed(100).get_state()
    set_generator_state(state)
    assert torch.equal(torch.rand(3, generator=visible[current]), expected)
    for index, device in enumerate(visible):
        assert index == current or torch.equal(device.get_state(), others)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_the_generator_of_the_gpu_is_left_as_it_was():
    torch.cuda.init()
    state = generator_state()
    expected = torch.rand(3, device='cuda')
    set_generator_state(state)
    with preserved_generators():
        torch.rand(3, device='cuda')
    assert torch.equal(torch.rand(3, device='cuda'), expected)
