import random

import pytest

from mmkd_fm.functional import check_num_steps, draw_num_steps, warm_up_num_steps


def test_a_draw_is_a_pure_function_of_seed_and_iteration():
    draws = [draw_num_steps((1, 2, 4), 3, i) for i in range(50)]
    assert [draw_num_steps((1, 2, 4), 3, i) for i in reversed(range(50))] == draws[::-1]
    assert draws != [draw_num_steps((1, 2, 4), 4, i) for i in range(50)]


def test_draws_are_the_same_everywhere():
    # written down once: resumed runs and other machines must draw the same
    assert [draw_num_steps((1, 2, 4, 8), 0, i) for i in range(12)] == [
        2, 8, 8, 4, 4, 2, 2, 8, 8, 8, 2, 2
    ]  # fmt: skip


def test_the_global_generator_is_left_alone():
    random.seed(0)
    before = random.getstate()
    draw_num_steps((1, 2, 4), 0, 0)
    assert random.getstate() == before


@pytest.mark.parametrize('choices', [(1, 2), (1, 2, 4), (0, 1, 2, 4, 8)])
def test_all_choices_occur_uniformly(choices):
    draws = [draw_num_steps(choices, 0, i) for i in range(4000)]
    expected = len(draws) / len(choices)
    for choice in choices:  # 5 standard deviations of a binomial
        assert abs(draws.count(choice) - expected) < 5 * (expected * (1 - 1 / len(choices))) ** 0.5


def test_a_single_choice_is_taken():
    assert {draw_num_steps([4], 0, i) for i in range(10)} == {4}


@pytest.mark.parametrize(
    ('given', 'expected'), [(4, (4,)), ([1, 2, 4], (1, 2, 4)), ((0, 1), (0, 1)), ([8], (8,))]
)
def test_one_number_or_several(given, expected):
    assert check_num_steps(given) == expected


@pytest.mark.parametrize('given', [0, [], [0], -1, [1, -2], 1.0, [1, 2.5], '4', None, True])
def test_numbers_of_steps_that_are_none_are_refused(given):
    with pytest.raises(ValueError, match='num_steps must be a whole number of steps from 1, or a'):
        check_num_steps(given)


def test_the_warm_up_doubles_the_limit():
    limits = [warm_up_num_steps(16, epoch, warmup_epochs=10) for epoch in range(160)]
    expected = [1] * 10 + [2] * 20 + [4] * 40 + [8] * 80 + [16] * 10
    assert limits == expected


def test_the_warm_up_never_raises_the_number_of_steps():
    assert [warm_up_num_steps(n, 30, 10) for n in (0, 1, 2, 4, 8)] == [0, 1, 2, 4, 4]
    assert [warm_up_num_steps(n, 0, 0) for n in (0, 1, 8)] == [0, 1, 8]
