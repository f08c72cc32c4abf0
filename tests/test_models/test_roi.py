"""Two-stage heads: the teacher scores the student's RoIs."""

import copy
import pickle
from contextlib import ExitStack, contextmanager

import pytest
import torch
from mmengine.hub import get_config
from torch import nn

from mmkd_fm import functional
from mmkd_fm.models.roi import RoIStage, find_stage, rescale
from mmkd_fm.models.taps import record
from mmkd_fm.registry import MODELS

CONFIGS = dict(
    faster='faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    mask='mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    cascade='cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    double='double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py',
    ohem='faster_rcnn/faster-rcnn_r50_fpn_ohem_1x_coco.py',
    pisa='pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py',
)
WTTM = dict(type='mmkd_fm.WTTMLoss', tap='roi_head.bbox_head', index=0, gamma=0.5)


def each(value):
    return value if isinstance(value, list) else [value]


@pytest.fixture(scope='module')
def two_stage(mmdet_scope):
    """Model config of a small two-stage detector: `two_stage(kind, width=8, num_classes=3)`."""

    def make(kind='faster', width=8, num_classes=3):
        model = get_config(f'mmdet::{CONFIGS[kind]}').model
        model.backbone.update(
            depth=18, base_channels=width, stem_channels=width, frozen_stages=-1, init_cfg=None
        )
        model.neck.update(in_channels=[width * 2**i for i in range(4)], out_channels=16)
        model.rpn_head.update(in_channels=16, feat_channels=16)
        for extractor in each(model.roi_head.bbox_roi_extractor):
            extractor.out_channels = 16
        for head in each(model.roi_head.bbox_head):
            head.update(in_channels=16, fc_out_channels=16, num_classes=num_classes)
            if kind == 'double':
                head.update(conv_out_channels=16, num_convs=1, num_fcs=1)
        if kind == 'mask':
            model.roi_head.pop('mask_roi_extractor')
            model.roi_head.pop('mask_head')
        for cfg in each(model.train_cfg.rcnn):
            cfg.sampler.num = 32
        model.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=50)
        return model

    return make


@pytest.fixture
def roi_distiller(two_stage, write_teacher):
    """Build a Distiller of two-stage models: `roi_distiller(losses=None, kind, teacher_kind)`."""

    def make(losses=None, kind='faster', teacher_kind=None, load=True, **kwargs):
        kwargs.setdefault('student', two_stage(kind))
        kwargs.setdefault('teacher', write_teacher(two_stage(teacher_kind or kind, width=12)))
        torch.manual_seed(0)
        model = MODELS.build(
            dict(type='mmkd_fm.Distiller', losses=losses or dict(wttm=WTTM), **kwargs)
        )
        if load:
            model.load_teacher()
        return model

    return make


@contextmanager
def seen(module):
    """The inputs and outputs of each forward of a module."""
    calls = []
    handle = module.register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))
    yield calls
    handle.remove()


def stage_of(roi_head, index, part):
    modules = getattr(roi_head, part)
    return modules if index is None else modules[index]


def by_hand(model, inputs, rois, index=None):
    """What mmdet's own modules give for RoIs, one after another."""
    with torch.no_grad():
        pyramid, head = model.extract_feat(inputs), model.roi_head
        extractor = stage_of(head, index, 'bbox_roi_extractor')
        feats = extractor(pyramid[: extractor.num_inputs], rois)
        return stage_of(head, index, 'bbox_head')(feats)[0]


@pytest.mark.parametrize(
    ('kind', 'teacher_kind', 'stage', 'teacher_stage'),
    [
        ('faster', 'faster', None, None),
        ('cascade', 'cascade', 0, 0),
        ('cascade', 'cascade', 2, 2),
        ('faster', 'cascade', None, 1),
        ('cascade', 'faster', 1, None),
        ('ohem', 'faster', None, None),  # which scores all candidates first
        ('pisa', 'faster', None, None),
    ],
)
def test_the_teacher_scores_the_students_rois_on_its_own_pyramid(
    roi_distiller, raw_batch, kind, teacher_kind, stage, teacher_stage
):
    def path(index):
        return 'roi_head.bbox_head' if index is None else f'roi_head.bbox_head.{index}'

    wttm = dict(WTTM, tap=path(stage), teacher_tap=path(teacher_stage))
    model = roi_distiller(dict(wttm=wttm), kind, teacher_kind)
    data = model.data_preprocessor(raw_batch(), True)
    teacher = model.teacher.model
    extractor = stage_of(model.roi_head, stage, 'bbox_roi_extractor')
    head = stage_of(model.roi_head, stage, 'bbox_head')
    of_teacher = stage_of(teacher.roi_head, teacher_stage, 'bbox_head')
    with seen(extractor) as cut, seen(head) as scored, seen(of_teacher) as theirs:
        losses = model(**data, mode='loss')
    rois, (student, _) = cut[-1][0][1], scored[-1][1]
    expected = by_hand(teacher, data['teacher_inputs'], rois, teacher_stage)
    assert len(rois) == len(student) == 64  # 32 sampled of each image
    assert set(rois[:, 0].tolist()) == {0, 1}
    assert torch.equal(theirs[0][1][0], expected)
    confidence = 1 - expected.softmax(dim=1)[:, -1]
    loss = functional.wttm_loss(student, expected, 0.5, weight=confidence)
    torch.testing.assert_close(losses['loss_wttm'], loss)
    torch.testing.assert_close(losses['wttm_confidence'], confidence.mean())


def test_a_teacher_that_is_the_student_leaves_nothing_to_learn(
    roi_distiller, two_stage, build, raw_batch, tmp_path
):
    config, path = two_stage(), str(tmp_path / 'teacher.pth')
    torch.save(build(config, seed=3).state_dict(), path)
    teacher = dict(config=dict(model=config, default_scope='mmdet'), checkpoint=path)
    model = roi_distiller(dict(wttm=dict(WTTM, gamma=1.0)), student=config, teacher=teacher)
    model.load_state_dict(torch.load(path))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    data = model.data_preprocessor(raw_batch(), True)
    losses = model(**data, mode='loss')
    assert losses['wttm_divergence'].item() == pytest.approx(0, abs=1e-6)
    assert losses['loss_wttm'].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('kind', ['faster', 'cascade', 'mask', 'double', 'ohem', 'pisa'])
def test_gradients_reach_the_box_heads_and_the_backbone(roi_distiller, raw_batch, loss_of, kind):
    taps = [f'roi_head.bbox_head.{i}' for i in range(3)]
    taps = taps if kind == 'cascade' else ['roi_head.bbox_head']
    terms = {f'wttm{i}': dict(WTTM, tap=tap) for i, tap in enumerate(taps)}
    model = roi_distiller(terms, kind, task_loss_weight=0)
    loss, losses = loss_of(model, raw_batch())
    loss.backward()
    heads = model.roi_head.bbox_head if kind == 'cascade' else [model.roi_head.bbox_head]
    for term, head in zip(terms, heads):
        assert losses[f'loss_{term}'] > 0
        assert head.fc_cls.weight.grad.abs().sum() > 0
        assert head.fc_reg.weight.grad.abs().sum() == 0
    assert model.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.teacher.model.parameters())


def test_every_parameter_gets_a_gradient(roi_distiller, raw_batch, loss_of):
    # or DDP would need find_unused_parameters
    losses = dict(wttm=WTTM, fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck'))
    model = roi_distiller(losses)
    loss_of(model, raw_batch())[0].backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_of_the_teacher_only_what_is_needed_runs(roi_distiller, raw_batch, loss_of, monkeypatch):
    """Neither its RPN with the NMS, nor its assigner, nor its predictions."""
    losses = dict(wttm=WTTM, kd=dict(type='mmkd_fm.KDLoss', tap='roi_head.bbox_head', index=0))
    model = roi_distiller(losses)
    teacher = model.teacher.model
    for owner, name in [
        (teacher.rpn_head, 'predict'),
        (teacher.rpn_head, 'predict_by_feat'),
        (teacher.rpn_head, 'loss'),
        (teacher.roi_head, 'loss'),
        (teacher.roi_head, 'predict'),
        (teacher.roi_head, 'forward'),
        (teacher.roi_head.bbox_assigner, 'assign'),
    ]:
        monkeypatch.setattr(owner, name, None)
    parts = (
        teacher.backbone, teacher.rpn_head, teacher.rpn_head.rpn_cls,
        teacher.roi_head.bbox_head, model.backbone, model.roi_head.bbox_head,
    )  # fmt: skip
    with ExitStack() as stack:
        calls = [stack.enter_context(seen(part)) for part in parts]
        loss_of(model, raw_batch())
    assert list(map(len, calls)) == [1, 0, 0, 1, 1, 1]  # once for both terms
    assert not teacher.training
    assert all(not module.training for module in teacher.modules())


def test_a_weight_of_zero_runs_nothing_more(roi_distiller, raw_batch, loss_of):
    pkd = dict(type='mmkd_fm.PKDLoss', tap='neck')
    model = roi_distiller(dict(wttm=dict(WTTM, loss_weight=0), pkd=pkd))
    with seen(model.teacher.model.roi_head.bbox_head) as calls:
        _, losses = loss_of(model, raw_batch())
    assert not calls
    assert 'loss_wttm' not in losses
    assert model.roi_stages == {}
    assert roi_distiller(dict(wttm=dict(WTTM, loss_weight=0)), load=False).teacher is None


def test_rois_are_scored_at_the_teachers_resolution(
    roi_distiller, two_stage, write_teacher, raw_batch
):
    teacher = dict(write_teacher(two_stage(width=12)), input_scale=1.5)
    model = roi_distiller(teacher=teacher)
    data = model.data_preprocessor(raw_batch(), True)
    assert data['teacher_inputs'].shape[-1] == 160  # 1.5 * 96, padded to a multiple of 32
    teacher = model.teacher.model
    head, extractor = teacher.roi_head.bbox_head, teacher.roi_head.bbox_roi_extractor
    with seen(model.roi_head.bbox_roi_extractor) as ours, seen(extractor) as cut:  # noqa: SIM117
        with seen(head) as scored:
            model(**data, mode='loss')
    rois, larger = ours[0][0][1], cut[0][0][1]
    assert torch.equal(larger[:, 0], rois[:, 0])
    assert torch.equal(larger[:, 1:], 1.5 * rois[:, 1:])
    expected = by_hand(teacher, data['teacher_inputs'], larger)
    assert torch.equal(scored[0][1][0], expected)


def test_rescaling_keeps_the_image_of_a_roi():
    rois = torch.tensor([[1.0, 2, 4, 6, 8]])
    assert rescale(rois, 1) is rois
    assert rescale(rois, 0.5).tolist() == [[1, 1, 2, 3, 4]]


def test_of_several_calls_of_the_extractor_the_first_is_the_box_heads():
    pyramid, ours, others = [torch.zeros(2, 1, 4, 4)], torch.rand(3, 5), torch.rand(2, 5)
    stage = RoIStage('roi_head', 1, 'neck')
    calls = [((pyramid, rois), ()) for rois in (ours.requires_grad_(), others)]
    records = {'roi_head.bbox_roi_extractor.1': calls}
    assert torch.equal(stage.rois(records), ours) and not stage.rois(records).requires_grad
    assert stage.num_images(records) == 2


def test_classes_are_mapped(roi_distiller, two_stage, write_teacher, raw_batch):
    teacher = write_teacher(two_stage(num_classes=5))
    with pytest.raises(ValueError, match='the student has 3 classes, the teacher 5.*class_map'):
        roi_distiller(teacher=teacher)
    model = roi_distiller(dict(wttm=dict(WTTM, class_map=[4, -1, 0])), teacher=teacher)
    data = model.data_preprocessor(raw_batch(), True)
    of_teacher = model.teacher.model.roi_head.bbox_head
    with seen(model.roi_head.bbox_head) as ours, seen(of_teacher) as theirs:
        losses = model(**data, mode='loss')
    s, t = ours[0][1][0][:, [0, 2, 3]], theirs[0][1][0][:, [4, 0, 5]]
    loss = functional.wttm_loss(s, t, 0.5, weight=1 - t.softmax(dim=1)[:, -1])
    torch.testing.assert_close(losses['loss_wttm'], loss)


@pytest.mark.parametrize('loss', ['KDLoss', 'TTMLoss', 'DKDLoss', 'DISTLoss'])
@pytest.mark.parametrize('normaliser', ['rows', 'images'])
def test_every_logit_loss_compares_rois(roi_distiller, raw_batch, loss_of, loss, normaliser):
    term = dict(type=f'mmkd_fm.{loss}', tap='roi_head.bbox_head', index=0, normaliser=normaliser)
    model = roi_distiller(dict(x=dict(term, weighting='none')))
    total, losses = loss_of(model, raw_batch())
    total.backward()
    assert losses['loss_x'] > 0
    if loss != 'DISTLoss':
        model = roi_distiller(dict(x=dict(term, weighting='none', normaliser='weight')))
        mean = loss_of(model, raw_batch())[1]['loss_x']
        torch.testing.assert_close(losses['loss_x'], mean * (1 if normaliser == 'rows' else 32))


@pytest.mark.parametrize('normaliser', ['weight', 'rows'])
def test_rois_can_be_left_out(roi_distiller, normaliser):
    terms = dict(wttm=dict(WTTM, normaliser=normaliser))
    loss = roi_distiller(terms, load=False).distill_losses['wttm']
    student, teacher = torch.randn(2, 6, 4).unbind()
    ignore = torch.tensor([False, True, False, False, True, True])
    expected = loss(student[~ignore], teacher[~ignore])
    for name, value in loss(student, teacher, ignore=ignore).items():
        torch.testing.assert_close(value, expected[name])


def test_images_without_boxes(roi_distiller, raw_batch, loss_of):
    loss, losses = loss_of(roi_distiller(), raw_batch(boxes=(0, 0)))
    loss.backward()
    assert losses['loss_wttm'].isfinite()


def test_a_teacher_that_gives_nan_is_named(roi_distiller, raw_batch, loss_of):
    model = roi_distiller()
    model.teacher.model.roi_head.bbox_head.fc_cls.bias.fill_(float('nan'))
    with pytest.raises(FloatingPointError, match="loss_wttm.*NaN at 'roi_head.bbox_head'"):
        loss_of(model, raw_batch())


def test_rois_of_images_that_the_teacher_has_not_seen_are_refused(roi_distiller, raw_batch):
    model = roi_distiller()  # a TridentNet repeats its images in training
    data = model.data_preprocessor(raw_batch(), True)
    repeated = dict(inputs=data['inputs'].repeat(3, 1, 1, 1), data_samples=data['data_samples'] * 3)
    with pytest.raises(
        ValueError, match='of 6 images, but the teacher was given 2.*can not be distilled'
    ):
        model.loss(**repeated, teacher_inputs=data['teacher_inputs'])


def test_copies_share_the_teacher_and_pickles_drop_it(roi_distiller, raw_batch, loss_of):
    model = roi_distiller()
    twin = copy.deepcopy(model)
    assert twin.teacher is model.teacher
    results = []
    for owner in (model, twin):
        torch.manual_seed(1)  # of the sampler
        results.append(loss_of(owner, raw_batch())[0])
    assert torch.equal(*results)
    assert len(pickle.dumps(model)) < 1.2 * len(pickle.dumps(model.student)) + 1e5
    assert pickle.loads(pickle.dumps(model)).teacher is None


# what is refused


def test_a_cascade_that_teaches_a_single_head_is_told_its_option(roi_distiller, two_stage):
    """Which of both models is meant, and that the student's tap is right."""
    message = (
        r"teacher_tap='roi_head\.bbox_head' of the teacher \(CascadeRCNN\): .*"
        r"Valid: .*teacher_tap='roi_head\.bbox_head\.2', with index=0"
    )
    with pytest.raises(ValueError, match=message):
        roi_distiller(dict(wttm=WTTM), 'faster', 'cascade', load=False)


def test_stages_are_found(two_stage, build):
    faster, cascade = build(two_stage()), build(two_stage('cascade'))
    assert find_stage(faster, 'roi_head.bbox_head') == RoIStage('roi_head', None, 'neck')
    stage = find_stage(cascade, 'roi_head.bbox_head.2')
    assert stage == RoIStage('roi_head', 2, 'neck')
    assert stage.extractor == 'roi_head.bbox_roi_extractor.2'
    assert stage.head == 'roi_head.bbox_head.2'
    assert find_stage(faster, 'neck.fpn_convs.0') is None
    assert find_stage(faster, 'roi_head') is None


@pytest.mark.parametrize(
    ('kind', 'tap', 'message'),
    [
        ('faster', 'roi_head.bbox_head.fc_cls', r"Valid: tap='roi_head\.bbox_head', with index=0"),
        ('faster', 'roi_head.bbox_roi_extractor', 'masks and box deltas are not'),
        ('cascade', 'roi_head.bbox_head', r"tap='roi_head\.bbox_head\.0'.*\.2', with index=0"),
        ('cascade', 'roi_head.bbox_head.3', r"no module '3' in 'roi_head\.bbox_head'"),
        ('faster', 'roi_head.box_head', "did you mean 'bbox_head'"),
    ],
)
def test_other_modules_of_roi_heads_are_refused(roi_distiller, kind, tap, message):
    with pytest.raises(ValueError, match=message):
        roi_distiller(dict(wttm=dict(WTTM, tap=tap)), kind, load=False)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(index=1), r'needs the class scores of a box head.*index=0'),
        (dict(anchors='max'), r"anchors='max' takes the best anchor"),
        (dict(levels=[0]), r'feature maps .* expected.*\(RoIs\)'),
        (dict(tap=dict(scores='roi_head.bbox_head', boxes='neck')), 'one tap of both'),
        (dict(teacher_tap='neck', teacher_index=None), 'one tap of both'),
    ],
)
def test_what_does_not_fit_rois_is_refused(roi_distiller, change, message):
    with pytest.raises(ValueError, match=message):
        roi_distiller(dict(wttm=dict(WTTM, **change)), load=False)


def test_a_sigmoid_box_head_is_refused(roi_distiller, two_stage):
    student = two_stage()
    student.roi_head.bbox_head.loss_cls.use_sigmoid = True
    with pytest.raises(ValueError, match=r'a softmax with the background as its last class'):
        roi_distiller(student=student, load=False)


def test_a_head_that_needs_more_than_rois_is_refused(roi_distiller, two_stage, mmdet_scope):
    config = get_config('mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py').model
    config.backbone.init_cfg = None
    losses = dict(wttm=dict(WTTM, tap='roi_head.bbox_head.0'))
    with pytest.raises(ValueError, match='scores no RoIs alone but needs object_feats'):
        roi_distiller(losses, student=config, load=False)


@pytest.mark.parametrize('roi_is', ['student', 'teacher'])
def test_rois_and_locations_are_not_compared(roi_distiller, retinanet, write_teacher, roi_is):
    other = dict(WTTM, tap='bbox_head', teacher_tap='roi_head.bbox_head')
    given = dict(student=retinanet())
    if roi_is == 'student':
        other = dict(other, tap='roi_head.bbox_head', teacher_tap='bbox_head')
        given = dict(teacher=write_teacher(retinanet()))
    with pytest.raises(ValueError, match='No RoI belongs to a location.*distil features'):
        roi_distiller(dict(wttm=other), load=False, **given)


def test_features_of_a_two_stage_teacher_teach_a_dense_student(
    roi_distiller, retinanet, raw_batch, loss_of
):
    losses = dict(fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck'))
    model = roi_distiller(losses, student=retinanet())
    assert model.distill_losses['fmkt'].pairs == [(0, 1), (1, 2), (2, 3), (3, 4)]  # P3 to P6
    loss, losses = loss_of(model, raw_batch())
    loss.backward()
    assert losses['loss_fmkt'] > 0


@pytest.mark.parametrize(
    'name',
    [
        'detr/detr_r50_8xb2-150e_coco',
        'deformable_detr/deformable-detr_r50_16xb2-50e_coco',
        'dino/dino-4scale_r50_8xb2-12e_coco',
    ],
)
def test_queries_are_refused_because_they_have_no_order(retinanet, name, mmdet_scope):
    config = get_config(f'mmdet::{name}.py').model
    config.backbone.update(depth=18, init_cfg=None)
    config.neck.in_channels = (
        [512] if 'deform' not in name and 'dino' not in name else [128, 256, 512]
    )
    teacher = dict(config=dict(model=config, default_scope='mmdet'))
    losses = dict(wttm=dict(WTTM, tap='bbox_head'))
    with pytest.raises(ValueError, match='scores queries. Queries have no order'):
        MODELS.build(dict(type='mmkd_fm.Distiller', student=config, teacher=teacher, losses=losses))


def test_inputs_of_a_module_are_recorded(two_stage, build):
    detector = build(two_stage()).eval()
    image = torch.randn(1, 3, 64, 64)
    with record(detector, ['neck'], inputs=['backbone']) as records:
        detector.extract_feat(image)
    ((arguments, _),) = records['backbone']
    assert len(arguments) == 1
    assert arguments[0] is image
