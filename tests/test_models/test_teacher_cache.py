"""TeacherCache: what the teacher gives, computed once for each view."""

import copy
import pickle

import pytest
import torch
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from torch import nn

from mmkd_fm.models.taps import Tap, read, tensors
from mmkd_fm.models.teacher import FrozenTeacher
from mmkd_fm.models.teacher_cache import TeacherCache
from mmkd_fm.registry import MODELS

PATHS = ['backbone', 'neck', 'bbox_head']


@pytest.fixture(scope='module')
def written(retinanet, write_teacher):
    """Arguments of a RetinaNet teacher."""
    return write_teacher(retinanet(), seed=1)


@pytest.fixture
def make(written):
    """Build a loaded teacher: `make(cache=1)`."""

    def make(**kwargs):
        teacher = FrozenTeacher(**dict(written, **kwargs))
        teacher.load('cpu')
        return teacher

    return make


@pytest.fixture
def views():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def logged(caplog):
    """Messages of the cache in the log: `logged()`."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: [m for m in (r.getMessage() for r in caplog.records) if 'teacher cache' in m]
    logger.removeHandler(caplog.handler)


def outputs(teacher, inputs, paths=PATHS):
    """All tensors that the teacher gives at the paths."""
    records = teacher.forward(inputs, paths)
    return [x for path in paths for x in tensors(read(records, Tap(path), teacher.model))]


def sizes_of_runs(model):
    """Batch sizes of the forwards of a model, as they come."""
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    return sizes


def equal(first, second):
    return len(first) == len(second) and all(map(same, first, second))


def same(first, second):
    return first.dtype == second.dtype and torch.equal(first, second)


def counts(teacher):
    return teacher.cache.hits, teacher.cache.misses


# what is read is what the teacher gives


def test_outputs_are_those_of_one_image_at_a_time_and_close_to_those_of_the_batch(make, views):
    plain, cached = make(), make(cache=1)
    alone = [outputs(plain, view[None]) for view in views]
    expected = [torch.cat(parts) for parts in zip(*alone)]
    for _ in range(2):
        assert equal(outputs(cached, views), expected)
    assert equal(outputs(cached, views[[2, 0]]), [x[[2, 0]] for x in expected])
    assert equal(outputs(cached, views[1:2]), alone[1])
    for got, of_batch in zip(expected, outputs(plain, views)):
        torch.testing.assert_close(got, of_batch, rtol=1e-4, atol=1e-5)


def test_the_structure_is_kept(make, views):
    plain, cached = (teacher.forward(views, PATHS) for teacher in (make(), make(cache=1)))
    scores, boxes = cached['bbox_head'][0][0]
    assert len(scores) == len(boxes) == len(plain['bbox_head'][0][0][0]) == 5
    for path in PATHS:
        ((ours, versions),), ((theirs, _),) = cached[path], plain[path]
        assert [x.shape for x in tensors(ours)] == [x.shape for x in tensors(theirs)]
        assert len(versions) == len(tensors(ours))
        assert not any(x.requires_grad for x in tensors(ours))


def test_the_teacher_runs_once_for_each_view_and_on_it_alone(make, views):
    teacher = make(cache=1)
    sizes = sizes_of_runs(teacher.model)
    for chosen in ([0, 1], [1, 0], [0, 2, 0], [2, 1]):
        outputs(teacher, views[chosen])
    assert sizes == [1, 1, 1]
    assert counts(teacher) == (6, 3)
    twice = make(cache=1)
    outputs(twice, views[[0, 0]])
    assert counts(twice) == (1, 1)


def test_another_view_or_tap_is_computed(make, views):
    teacher, plain = make(cache=1), make()
    changed = views.clone()
    changed[0, 2, 63, 63] += 1e-6
    padded = nn.functional.pad(views[1:2], (0, 32))
    reshaped = views[2:].reshape(1, 3, 32, 128)  # of the same bytes
    outputs(teacher, views)
    for i, inputs in enumerate((changed, padded, reshaped)):
        got, expected = outputs(teacher, inputs), outputs(plain, inputs)
        for a, b in zip(got, expected):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert teacher.cache.misses == 4 + i
    outputs(teacher, views[:1], ['neck'])
    assert teacher.cache.misses == 7
    outputs(teacher, views[:1], ['bbox_head', 'neck', 'backbone'])  # the order doesn't matter
    assert teacher.cache.misses == 7


def test_precisions_are_told_apart(make, views):
    plain, cached = make(), make(cache=1)

    def run(teacher, enabled):
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            return outputs(teacher, views[:1])

    assert not equal(run(plain, True), run(plain, False))
    for enabled in (False, True, False, True):
        assert equal(run(cached, enabled), run(plain, enabled))
    assert counts(cached) == (2, 2)


def test_what_is_read_may_be_changed(make, views):
    teacher = make(cache=1)
    expected = [x.clone() for x in outputs(teacher, views)]
    given = views.clone()
    for chosen in (slice(None), slice(0, 1)):
        for x in outputs(teacher, given[chosen]):
            x.fill_(7)
    given.fill_(7)
    assert equal(outputs(teacher, views), expected)
    assert teacher.cache.misses == 3
    records = teacher.forward(views, ['neck'])
    records['neck'][0][0][0].add_(1)
    with pytest.raises(RuntimeError, match="'neck'.*modified the output in place"):
        read(records, Tap('neck'), teacher.model)


@pytest.mark.parametrize('cache', [None, 1])
def test_what_the_teacher_changes_after_a_tap_is_an_error(make, views, cache):
    teacher = make(cache=cache)
    with pytest.raises(RuntimeError, match=r"'backbone.bn1'.*modified the output in place"):
        outputs(teacher, views, ['backbone.bn1', 'neck'])
    with pytest.raises(ValueError, match=r"'bbox_head.retina_cls'.*was called 5 times"):
        outputs(teacher, views, ['bbox_head.retina_cls', 'bbox_head'])


# what empties it


def test_another_checkpoint_empties_it(make, views, retinanet, write_teacher):
    teacher = make(cache=1)
    before = outputs(teacher, views[:1])
    teacher.checkpoint = write_teacher(retinanet(), seed=2)['checkpoint']
    teacher.load('cpu')
    assert counts(teacher) == (0, 0)
    after = outputs(teacher, views[:1])
    assert not equal(after, before)
    assert equal(after, outputs(make(checkpoint=teacher.checkpoint), views[:1]))


def test_moves_and_casts_empty_it(distiller, teachers, raw_batch, loss_of):
    model = distiller(teacher=dict(teachers['retinanet'], cache=1))
    loss_of(model, raw_batch())
    assert len(model.teacher.cache.kept) == 2
    model.double()
    assert model.teacher.cache.kept == {}


# its size


@pytest.mark.parametrize('size', [0, -1, float('nan'), True, '1', [1]])
def test_sizes_are_above_0(written, size):
    with pytest.raises(ValueError, match=r'teacher.cache is the memory in gigabytes.*leave it out'):
        FrozenTeacher(**written, cache=size)


def test_nothing_is_kept_beyond_its_size(make, views, logged):
    whole = make(cache=1)
    expected = outputs(whole, views)
    taken = 1e9 - whole.cache.room
    values = sum(x.numel() * x.element_size() for x in expected)
    assert taken == values + 1000 * len(views) * len(expected)  # tensors take more than values
    assert logged() == []

    teacher = make(cache=0.7e-9 * taken)  # two of three
    outputs(teacher, views[:1])
    for _ in range(3):
        assert equal(outputs(teacher, views), expected)
    assert len(teacher.cache.kept) == 2
    assert counts(teacher) == (5, 5)
    (line,) = logged()
    assert 'GB are full with 2 views; 25% of the views so far had come before' in line
    assert 'raise model.teacher.cache, or leave it out' in line


def test_kept_tensors_hold_no_more_memory_than_is_counted():
    cache = TeacherCache(1)
    whole = torch.zeros(1, 1000, 1)
    cache(torch.zeros(1, 3, 2, 2), lambda view: (whole[:, :10], view))
    for part in next(iter(cache.kept.values())):
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


def test_emptied_it_has_all_its_room_again():
    views = torch.randn(2, 3, 4, 4)
    cache = TeacherCache(1.5e-9 * (1000 + 4 * views[0].numel()))  # one of two
    for _ in range(3):
        for _ in range(2):
            assert torch.equal(cache(views, lambda view: view), views)
        assert len(cache.kept) == 1 and cache.full
        assert (cache.hits, cache.misses) == (1, 3)
        cache.clear()
        assert not cache.kept and not cache.full


# what it can't keep


@pytest.mark.parametrize(
    ('output', 'message'),
    [
        (torch.zeros(()), r'whose first axis is that of the images.*the shape \(\); leave'),
        (
            (torch.zeros(1, 2), [torch.zeros(5, 2)]),
            r'the shape \(5, 2\); leave model.teacher.cache',
        ),
        (dict(a=torch.zeros(0, 2)), r'the shape \(0, 2\); leave'),
        ((torch.zeros(1), 'text'), 'keeps tensors, but the teacher gave str; leave model.teacher'),
        (None, 'gave NoneType'),
    ],
)
def test_outputs_that_are_not_of_one_image_are_refused(output, message):
    cache = TeacherCache(1)
    with pytest.raises(ValueError, match=message):
        cache(torch.zeros(2, 3, 4, 4), lambda view: output)
    assert cache.kept == {}


def test_dicts_are_kept():
    cache = TeacherCache(1)
    inputs = torch.randn(2, 3, 4, 4)
    for _ in range(2):
        got = cache(inputs, lambda x: dict(mean=x.mean((2, 3)), more=[x, dict(twice=2 * x)]))
        assert torch.equal(got['mean'], inputs.mean((2, 3)))
        assert torch.equal(got['more'][0], inputs) and torch.equal(
            got['more'][1]['twice'], 2 * inputs
        )
    assert (cache.hits, cache.misses) == (2, 2)


# in a Distiller


def assert_losses_close(first, second):
    assert list(first) == list(second)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-6)


BOTH = dict(type='mmkd_fm.MSELoss', tap='backbone', levels=[1, 2])


@pytest.mark.parametrize('scale', [1, 1.5])
@pytest.mark.parametrize('kind', ['retinanet', 'gfl'])
def test_losses_are_those_without(
    distiller, teachers, distill_losses, raw_batch, loss_of, iteration, kind, scale
):
    iteration(0)
    losses = dict(distill_losses, mse=BOTH)
    if scale != 1:  # the scores of other strides do not correspond
        losses = dict(pkd=losses['pkd'])
    plain, cached = (
        distiller(
            kind, losses, model_seed=0, teacher=dict(teachers[kind], input_scale=scale, **more)
        )
        for more in ({}, dict(cache=1))
    )
    cached.load_state_dict(plain.state_dict())
    first, second = raw_batch(boxes=(3, 2, 1)), raw_batch(boxes=(2, 2, 2), seed=1)
    _, expected = loss_of(plain, first)
    _, got = loss_of(cached, first)
    assert_losses_close(expected, got)
    loss_of(cached, second)
    sizes = sizes_of_runs(cached.teacher.model)
    total, again = loss_of(cached, first)
    assert sizes == [] and counts(cached.teacher) == (3, 6)
    assert all(torch.equal(torch.as_tensor(again[k]), torch.as_tensor(got[k])) for k in terms(got))
    total.backward()
    assert all(p.grad is not None for p in cached.distill_losses.parameters())


def terms(losses):
    return [name for name, value in losses.items() if isinstance(value, torch.Tensor)]


def test_box_heads_score_rois_on_the_kept_pyramid(mmdet_scope, write_teacher, raw_batch, loss_of):
    student, teacher = small_faster_rcnn(8), write_teacher(small_faster_rcnn(12))
    losses = dict(
        wttm=dict(type='mmkd_fm.WTTMLoss', tap='roi_head.bbox_head', index=0, gamma=0.5),
        pkd=dict(type='mmkd_fm.PKDLoss', tap='neck'),
    )

    def run(model, seed):
        torch.manual_seed(seed)  # of the sampler
        return loss_of(model, raw_batch(boxes=(3, 2)))[1]

    models = []
    for more in ({}, dict(cache=1)):
        torch.manual_seed(0)
        config = dict(student=student, teacher=dict(teacher, **more), losses=losses)
        model = MODELS.build(copy.deepcopy(dict(config, type='mmkd_fm.Distiller')))
        model.load_teacher()
        models.append(model)
    plain, cached = models
    for seed in (0, 1):  # other RoIs, the same pyramid
        expected, got = run(plain, seed), run(cached, seed)
        assert_losses_close(
            {k: expected[k] for k in terms(expected)}, {k: got[k] for k in terms(got)}
        )
    assert counts(cached.teacher) == (2, 2)


def small_faster_rcnn(width):
    model = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').model
    model.backbone.update(
        depth=18, base_channels=width, stem_channels=width, frozen_stages=-1, init_cfg=None
    )
    model.neck.update(in_channels=[width * 2**i for i in range(4)], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.roi_head.bbox_roi_extractor.out_channels = 16
    model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=16, num_classes=3)
    model.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=50)
    return model


def test_with_weights_0_there_is_none(distiller, teachers):
    losses = dict(pkd=dict(type='mmkd_fm.PKDLoss', tap='neck', loss_weight=0))
    assert distiller(losses=losses, teacher=dict(teachers['retinanet'], cache=1)).teacher is None


def test_copies_share_it_and_pickles_drop_it(distiller, teachers, raw_batch, loss_of):
    model = distiller(teacher=dict(teachers['retinanet'], cache=1), losses=dict(mse=BOTH))
    loss_of(model, raw_batch())
    average = copy.deepcopy(model)
    assert average.teacher is model.teacher
    loss_of(average, raw_batch())
    assert counts(model.teacher) == (2, 2)
    pickled = pickle.dumps(model)
    assert b'TeacherCache' not in pickled
    assert pickle.loads(pickled).teacher is None
    assert not any('cache' in name for name in model.state_dict())
