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
