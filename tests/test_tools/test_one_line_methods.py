"""Which methods there are for a pair of models, and which are taken by default."""

import pytest
from mmdet.models import AutoAssignHead, GFLHead
from mmdet.models.task_modules import AnchorGenerator
from mmengine.config import Config
from mmengine.hub import get_config

import one_line
from one_line_methods import OF_GFL, default_names, methods_of

STAGES = [f'wttm_{i}' for i in range(3)]
HEADS = {
    'dense': (dict(bbox_head=dict()), 'wttm', ['wttm']),
    'gfl': (dict(bbox_head=dict(loss_dfl=dict())), 'wttm_boxes', ['wttm_boxes']),
    'roi': (dict(roi_head=dict(bbox_head=dict())), 'wttm', ['wttm']),
    'cascade': (dict(roi_head=dict(bbox_head=[dict()] * 3)), 'wttm', STAGES),
    'none': (dict(), 'cwd', ['cwd']),
    'objectness': (dict(bbox_head=dict(loss_obj=dict())), 'cwd', ['cwd']),
    'yolox': (dict(bbox_head=dict(type='YOLOXHead')), 'cwd', ['cwd']),
    'autoassign': (dict(bbox_head=dict(type=AutoAssignHead)), 'cwd', ['cwd']),
}


@pytest.mark.parametrize('kind', HEADS)
def test_methods_depend_on_the_student_s_heads(kind):
    model, name, chosen = HEADS[kind]
    methods = methods_of(Config(dict(model=model)), Config(dict(model=model)))
    assert {'fmkt', 'pkd', 'cwd'} <= set(methods.losses)
    assert methods.choose([name, 'pkd']) == [*chosen, 'pkd']
    assert 'distill_state' in methods.hooks


@pytest.mark.parametrize('student', ['dense', 'gfl', 'roi'])
def test_one_stage_and_two_are_two_families(student):
    """Their features need a map of the channels and a low weight: docs/results."""
    teacher = 'dense' if student == 'roi' else 'roi'
    models = [Config(dict(model=HEADS[kind][0])) for kind in (student, teacher)]
    losses = methods_of(*models).losses
    assert set(losses) == {'fmkt', 'pkd', 'cwd'}
    assert losses.fmkt.objective.project
    assert losses.fmkt.loss_weight < methods_of(models[0], models[0]).losses.fmkt.loss_weight
    distilled = Config(dict(model=dict(student=models[1].model)))  # it can teach too
    assert methods_of(models[0], distilled).losses == losses


GFL = 'mmdet::gfl/gfl_r{}_fpn_{}_coco.py'
RESNET = 'mmpretrain::resnet/resnet{}_8xb32_in1k.py'
DEFAULTS = {
    'two GFL': (GFL.format(50, '1x'), GFL.format(101, 'ms-2x'), ['fmkt_cwd', 'kd', 'kd_boxes']),
    'another head': (
        GFL.format(50, '1x'),
        'mmdet::vfnet/vfnet_r101_fpn_1x_coco.py',
        ['fmkt'],
    ),
    'no bins': (
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        'mmdet::retinanet/retinanet_r101_fpn_1x_coco.py',
        ['fmkt'],
    ),
    'classifiers': (RESNET.format(18), RESNET.format(34), ['wttm']),
}


@pytest.mark.parametrize(('student', 'teacher', 'expected'), DEFAULTS.values(), ids=DEFAULTS)
def test_the_default_is_what_was_measured_where_it_fits(student, teacher, expected):
    cfg = one_line.resolve(student, teacher)
    assert list(cfg.model.losses) == expected


@pytest.mark.parametrize(
    'option',
    [dict(num_classes=3), dict(reg_max=8), dict(anchor_generator=dict(strides=[4, 8, 16, 32, 64]))],
    ids=str,
)
def test_gfl_heads_of_other_outputs_are_not_compared_by_default(option, tmp_path):
    teacher = get_config(GFL.format(101, 'ms-2x'))
    teacher.merge_from_dict(dict(model=dict(bbox_head=option)))
    teacher.dump(tmp_path / 'teacher.py')
    cfg = one_line.resolve(GFL.format(50, '1x'), str(tmp_path / 'teacher.py'), 'teacher.pth')
    assert list(cfg.model.losses) == ['fmkt']


@pytest.mark.parametrize(
    'option',
    [
        dict(type='mmdet.GFLHead'),
        dict(type=GFLHead),
        dict(type='LDHead'),
        dict(reg_max=None),
        dict(  # as configs in pure Python have it
            anchor_generator=dict(
                type=AnchorGenerator,
                ratios=(1.0,),
                octave_base_scale=8,
                scales_per_octave=1,
                strides=(8, 16, 32, 64, 128),
            )
        ),
    ],
    ids=str,
)
def test_the_same_outputs_written_in_another_way_are_compared(option):
    teacher = get_config(GFL.format(101, 'ms-2x'))
    head = teacher.model.bbox_head
    for key, value in option.items():
        if value is None:
            del head[key], head.loss_dfl  # GFLHead has defaults
        else:
            head[key] = value
    student = get_config(GFL.format(50, '1x'))
    assert default_names(student, teacher) == default_names(teacher, student) == OF_GFL
    assert 'wttm_boxes' in methods_of(teacher, student).losses


def test_another_kind_of_head_with_bins_is_not_compared_by_default():
    student, teacher = (get_config(GFL.format(50, '1x')) for _ in range(2))
    teacher.model.bbox_head.type = 'AnotherHead'
    assert default_names(student, teacher) == ['fmkt']


@pytest.mark.parametrize('part', [dict(bbox_head=[dict()]), dict(roi_head=[dict()])], ids=str)
def test_of_several_heads_features_alone_are_compared(part):
    """As Co-DETR has them."""
    several = Config(dict(model=dict(rpn_head=dict(), query_head=dict(), **part)))
    one = Config(dict(model=HEADS['roi' if 'roi_head' in part else 'gfl'][0]))
    for pair in [(several, one), (one, several), (several, several)]:
        assert default_names(*pair) == ['fmkt']
        assert {'fmkt', 'pkd', 'cwd'} == set(methods_of(*pair).losses)


def test_methods_of_classifiers():
    student = Config(dict(default_scope='mmpretrain', model=dict()))
    names = {'kd', 'dkd', 'dist', 'ttm', 'wttm', 'fmkt', 'fmkt_stages'}
    assert set(methods_of(student, Config()).losses) == names


UNFIT = {
    'objectness': ('objectness', 'objectness', 'wttm', 'has an objectness'),
    'YOLOX': ('yolox', 'yolox', 'kd', 'has an objectness'),
    'AutoAssign': ('autoassign', 'dense', 'kd', 'has an objectness'),
    'families': ('dense', 'roi', 'wttm', 'no RoI of a two-stage detector belongs to a location'),
    'boxes of RoIs': ('roi', 'roi', 'wttm_boxes', 'features and class scores of RoIs'),
    'KD of a cascade': ('cascade', 'cascade', 'kd', 'the scores of a cascade by wttm'),
    'no bins': ('dense', 'dense', 'wttm_boxes', 'has no loss_dfl'),
    'no head': ('none', 'none', 'kd', 'the student has no bbox_head'),
    'of classifiers': ('gfl', 'gfl', 'fmkt_stages', 'it is for classifiers'),
}


@pytest.mark.parametrize('case', UNFIT)
def test_a_method_that_does_not_fit_is_told_why(case):
    student, teacher, name, reason = UNFIT[case]
    methods = methods_of(*(Config(dict(model=HEADS[kind][0])) for kind in (student, teacher)))
    with pytest.raises(ValueError, match=f'{name} does not fit this pair: .*{reason}.*; valid'):
        methods.choose(['fmkt', name])


def test_a_method_that_there_is_not():
    methods = methods_of(*[Config(dict(model=HEADS['dense'][0]))] * 2)
    with pytest.raises(ValueError, match="unknown method 'wtm'; valid names .*: fmkt, .*wttm"):
        methods.choose(['wtm'])
    classifiers = methods_of(Config(dict(default_scope='mmpretrain', model=dict())), Config())
    with pytest.raises(ValueError, match='pkd does not fit .* for detectors, and these are class'):
        classifiers.choose(['pkd'])


@pytest.mark.parametrize(
    ('student', 'teacher', 'path'),
    [('roi', 'cascade', 'roi_head.bbox_head.2'), ('cascade', 'roi', 'roi_head.bbox_head')],
)
def test_a_cascade_and_a_single_head_are_paired(student, teacher, path):
    methods = methods_of(*(Config(dict(model=HEADS[kind][0])) for kind in (student, teacher)))
    chosen = methods.choose(['wttm', 'pkd'])
    taps = [methods.losses[name].get('teacher_tap') for name in chosen]
    assert taps == [path] * (len(chosen) - 1) + [None]


@pytest.mark.parametrize(('student', 'teacher'), [(4, 4), (2, 2), (2, 3), (4, 3), (1, 2)])
def test_each_stage_of_a_cascade_has_a_term(student, teacher):
    """Stages that the teacher lacks learn from its last."""
    models = [dict(roi_head=dict(bbox_head=[dict()] * count)) for count in (student, teacher)]
    methods = methods_of(*(Config(dict(model=model)) for model in models))
    stages = methods.choose(['wttm'])
    assert stages == [f'wttm_{i}' for i in range(student)]
    for i, name in enumerate(stages):
        loss = methods.losses[name]
        assert loss.tap == f'roi_head.bbox_head.{i}'
        of_teacher = loss.get('teacher_tap', loss.tap)
        assert of_teacher == f'roi_head.bbox_head.{min(i, teacher - 1)}'


@pytest.mark.parametrize(('num_steps', 'theta'), [([1, 2, 4], 0), ([0, 1, 2], 4.0), (1, 0)])
def test_the_flow_of_a_student_is_trained_and_no_other(num_steps, theta):
    neck = dict(type='mmkd_fm.FlowNeck', neck=dict(), flow=dict(num_steps=num_steps))
    model = dict(neck=neck, **HEADS['gfl'][0])
    methods = methods_of(*[Config(dict(model=model))] * 2)
    flows = {name: loss for name, loss in methods.losses.items() if 'flow' in loss}
    assert set(flows) == {'fmkt', 'fmkt_cwd'}
    for loss in flows.values():
        assert (loss.flow, loss.theta_weight, 'levels' in loss) == ('neck', theta, False)
    assert flows['fmkt_cwd'].metric.type == 'mmkd_fm.CWDLoss'


def test_the_flow_of_a_classifier_is_trained():
    head = dict(type='mmkd_fm.FlowClsHead')
    student = Config(dict(default_scope='mmpretrain', model=dict(head=head)))
    assert methods_of(student, Config()).losses.fmkt.flow == 'head'
