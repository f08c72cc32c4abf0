import pytest
import torch

from mmkd_fm.functional import decouple_pairs, draw_num_steps


@pytest.mark.parametrize('ratio', [0, 0.25, 0.5, 0.9, 1])
@pytest.mark.parametrize('size', [0, 1, 2, 8, 33])
def test_the_first_keep_their_teacher_and_the_others_are_permuted(ratio, size):
    order = decouple_pairs(size, ratio, 0, 0)
    kept = round(ratio * size)
    assert order.tolist()[:kept] == list(range(kept))
    assert sorted(order.tolist()) == list(range(size))
    assert order.dtype == torch.int64  # an index, also of an empty batch


def test_all_pairs_are_kept_at_ratio_one():
    assert decouple_pairs(16, 1, 0, 0).tolist() == list(range(16))


def test_others_are_permuted_uniformly():
    draws = [tuple(decouple_pairs(4, 0.25, 0, i).tolist()) for i in range(3000)]
    counts = [draws.count(d) for d in set(draws)]
    assert len(counts) == 6  # 3! orders of the last three
    assert all(abs(c - 500) < 5 * (3000 * 1 / 6 * 5 / 6) ** 0.5 for c in counts)


def test_the_draw_is_a_pure_function_of_seed_and_iteration():
    before = torch.get_rng_state()
    assert not torch.equal(decouple_pairs(9, 0, 1, 3), decouple_pairs(9, 0, 2, 3))
    assert not torch.equal(decouple_pairs(9, 0, 1, 3), decouple_pairs(9, 0, 1, 4))
    assert torch.equal(decouple_pairs(9, 0, 1, 3), decouple_pairs(9, 0, 1, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_pairs_do_not_depend_on_the_number_of_steps():
    swapped = {1: [], 2: [], 4: []}
    for i in range(3000):
        swapped[draw_num_steps((1, 2, 4), 0, i)].append(decouple_pairs(2, 0, 0, i).tolist()[0])
    for one in swapped.values():  # five standard deviations
        assert abs(sum(one) / len(one) - 0.5) < 5 * (0.25 / len(one)) ** 0.5


@pytest.mark.parametrize('ratio', [-0.1, 1.5, float('nan')])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(ValueError, match=r'must be in \[0, 1\], but got'):
        decouple_pairs(4, ratio, 0, 0)
