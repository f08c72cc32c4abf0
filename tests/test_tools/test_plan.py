"""The plan of a distillation says what its models say; its checks pass and fail for a reason."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.datasets.transforms import PackDetInputs
from mmdet.models.dense_heads import RetinaHead
from mmdet.models.necks import FPN
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import MODELS
from rich.console import Console

import plan
from complexity import call_gflops, gflops
from mmkd_fm.models import Flow
from plan_check import Conformance, NotTried
from plan_measure import default_size, make_plan, state_ratio
from plan_models import build_distiller, common_levels
from plan_report import markdown, show
from random_sample import random_sample

SIZE = (128, 192)


@MODELS.register_module()
class CountingFPN(FPN):
    """Its output depends on how often it was called."""

    calls = 0

    def forward(self, inputs):
        self.calls += 1
        return tuple(level + 1e-3 * self.calls for level in super().forward(inputs))


@MODELS.register_module()
class NamingFPN(FPN):
    """Gives a dict, which its head could take apart."""

    def forward(self, inputs):
        return dict(enumerate(super().forward(inputs)))


@MODELS.register_module()
class InPlaceHead(RetinaHead):
    """Changes what the neck gave it."""

    def forward(self, x):
        x[0].add_(1)
        return super().forward(x)


@MODELS.register_module()
class SharingFPN(FPN):
    """Leaves its last level's convolution out of the state."""

    def state_dict(self, *args, prefix='', **kwargs):
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        state.pop(f'{prefix}fpn_convs.4.conv.bias')
        return state


@pytest.fixture
def config(retinanet):
    """Config of a distillation, FM-KT and WTTM: `config(**changes of the neck)`."""

    def make(**neck):
        student = ConfigDict(retinanet())
        student.neck.update(neck)
        return Config(
            dict(
                default_scope='mmdet',
                optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
                model=dict(
                    type='mmkd_fm.Distiller',
                    student=student,
                    teacher=dict(config=dict(model=retinanet(12, 24), default_scope='mmdet')),
                    losses=dict(
                        fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck', levels=[0, 1, 2, 3]),
                        wttm=dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0),
                    ),
                ),
            )
        )

    return make


@pytest.fixture
def planned(config):
    """A plan, and the Distiller that it is of."""
    cfg = config()
    model = build_distiller(cfg)
    return make_plan(cfg, model, SIZE), model


def test_parameters_and_operations_are_those_of_the_models(planned, build, config):
    made, model = planned
    image = torch.rand(1, 3, *SIZE)
    plain = build(config().model.student).eval()
    assert made.parameters['student'] == sum(p.numel() for p in plain.parameters())
    assert made.student_gflops == pytest.approx(gflops(plain, image))
    teacher = model.teacher.model
    assert made.parameters['teacher'] == sum(p.numel() for p in teacher.parameters())
    assert made.teacher_gflops == pytest.approx(gflops(teacher, image))  # its head is tapped
    assert made.teacher_tapped == ['bbox_head', 'neck']
    extras = sum(p.numel() for p in model.distill_losses.parameters())
    assert made.parameters['extras'] == sum(term.parameters for term in made.terms) == extras


def test_the_teacher_counts_up_to_its_deepest_tap(config):
    cfg = config()
    del cfg.model.losses['wttm']
    model = build_distiller(cfg)
    made = make_plan(cfg, model, SIZE)
    image = torch.rand(1, 3, *SIZE)
    expected = call_gflops(lambda: model.teacher.model.extract_feat(image))
    assert made.teacher_gflops == pytest.approx(expected)
    assert made.teacher_gflops < gflops(model.teacher.model, image)


def test_a_step_of_the_flow_is_what_one_more_step_costs(planned):
    made, model = planned
    loss = model.distill_losses['fmkt']
    maps = [torch.rand(1, 16, SIZE[0] // s, SIZE[1] // s) for s in (8, 16, 32, 64, 128)]
    targets = [torch.rand(1, 24, *level.shape[2:]) for level in maps]
    cost = []
    for steps in (1, 2):
        for flow in (module for module in loss.modules() if isinstance(module, Flow)):
            flow.num_steps = (steps,)
        cost.append(call_gflops(lambda: loss(maps, targets)))
    decoding = sum(16 * 24 * level[0, 0].numel() for level in maps[:4]) / 1e9
    assert made.terms[0].flow_gflops == pytest.approx(cost[1] - cost[0] - decoding)


def test_levels_and_logits(planned):
    made = planned[0]
    fmkt, wttm = made.terms
    assert [(p.level, p.stride, p.channels, p.size) for p in fmkt.pairs] == [
        (0, 8, (16, 24), (16, 24)),
        (1, 16, (16, 24), (8, 12)),
        (2, 32, (16, 24), (4, 6)),
        (3, 64, (16, 24), (2, 3)),
    ]
    assert (fmkt.left_out, wttm.left_out) == ([4], [])
    assert fmkt.num_steps == [1, 2, 4] and wttm.flow_gflops is None
    assert [p.channels for p in wttm.pairs] == [(27, 27)] * 5  # 9 anchors, 3 classes
    assert wttm.logits[0].startswith('student: 3 channels (sigmoids)')
    assert fmkt.weights == dict(loss_weight=1, theta_weight=1, source_weight=0)
    assert fmkt.taps == ('neck', 'neck')


def test_a_map_of_equal_channels_is_told(config):
    """By request, or as the objective has one."""
    cfg = config()
    cfg.model.teacher.config.model = cfg.model.student
    term = dict(type='mmkd_fm.FMKTLoss', tap='neck', levels=[0])
    matchings = ('EndpointMatching', dict(project=True)), ('VelocityMatching', {})
    cfg.model.losses = dict(
        pkd=dict(type='mmkd_fm.PKDLoss', tap='neck', levels=[0]),
        projected=dict(type='mmkd_fm.PKDLoss', tap='neck', levels=[0], project=True),
        fmkt=term,
        **{
            name: dict(
                term,
                objective=dict(type=f'mmkd_fm.{name}', **options),
                metric=dict(type='mmkd_fm.MSELoss'),
            )
            for name, options in matchings
        },
    )
    made = make_plan(cfg, build_distiller(cfg), SIZE)
    mapped = {term.name: [pair.mapped for pair in term.pairs] for term in made.terms}
    names = ['projected', 'EndpointMatching', 'VelocityMatching']
    assert mapped == {term.name: [term.name in names] for term in made.terms}


def test_memory(planned):
    made, model = planned
    extras = 4 * made.parameters['extras']
    state = [*model.teacher.model.parameters(), *model.teacher.model.buffers()]
    assert made.memory == {
        'extras, parameters': extras,
        'extras, gradients': extras,
        'extras, optimizer state': 2 * extras,  # AdamW keeps two moments
        "the teacher's weights": sum(tensor.nbytes for tensor in state),
    }


def test_an_optimizer_of_mmpretrain():
    path = Path(__file__).parents[2] / 'configs/cifar10/wttm_resnet20_resnet8_cifar10.py'
    cfg = Config.fromfile(path)
    cfg.model.terms = ['fmkt']
    cfg.optim_wrapper.optimizer = dict(type='Lamb', lr=0.1)
    made = make_plan(cfg, build_distiller(cfg), (32, 32))
    assert made.memory['extras, optimizer state'] == 2 * made.memory['extras, gradients'] > 0


@pytest.mark.parametrize(
    ('optimizer', 'ratio'),
    [
        (None, 0),
        (dict(type='SGD', lr=0.1), 0),
        (dict(type='SGD', lr=0.1, momentum=0.9), 1),
        (dict(type='AdamW', lr=0.1), 2),
    ],
)
def test_what_an_optimizer_keeps(optimizer, ratio):
    assert state_ratio(optimizer) == ratio


def test_the_page_and_the_screen_have_the_same_figures(planned):
    made = planned[0]
    page = markdown(made, 'A title')
    assert '| fmkt | 0 | 8 | 16x24 | 16 <- 24 | 1x1 |' in page
    assert '| fmkt | 4 |  |  |  | left out |' in page
    assert '| wttm | 4 | 128 | 1x2 | 27 <- 27 | none |' in page
    assert f'| student, RetinaNet | {made.parameters["student"] / 1e6:.3f} M |' in page
    assert 'Exported: the plain student' in page
    console = Console(record=True, width=200)
    show(made, console)
    shown = console.export_text()
    for text in ('16 <- 24', '128x192', f'{made.student_gflops:.2f}', 'Exported: the plain'):
        assert text in shown and text in page


def test_sizes_of_the_pipelines():
    def of(steps, loader='test_dataloader', **more):
        dataset = dict(dataset=dict(pipeline=steps))  # wrapped, as by RepeatDataset
        return default_size(Config({loader: dict(dataset=dataset), **more}))

    assert of([dict(type='LoadImageFromFile'), dict(type='Resize', scale=(1333, 800))]) == (
        800,
        1344,
    )
    assert of([dict(type='CenterCrop', crop_size=32)], default_scope='mmpretrain') == (32, 32)
    crop = [dict(type='RandomCrop', crop_size=40)]
    assert of(crop, 'train_dataloader', default_scope='mmpretrain') == (40, 40)
    assert of([]) == (800, 1344) and of([], default_scope='mmpretrain') == (224, 224)


def test_common_levels(config):
    assert common_levels(config()) == dict(fmkt=[0, 1, 2, 3])
    cfg = config(num_outs=3)
    cfg.model.losses.pop('wttm')
    assert common_levels(cfg) == dict(fmkt=[0, 1, 2])


# The checks


def outcomes(cfg):
    return {outcome.name: outcome for outcome in Conformance(cfg, (96, 128)).run()}


@pytest.mark.parametrize('source_weight', [None, 2.0])
def test_a_sound_config_passes(config, source_weight):
    cfg = config()
    if source_weight:
        cfg.model.losses.fmkt.source_weight = source_weight
    found = outcomes(cfg)
    assert len(found) == 7 and all(outcome.passed for outcome in found.values()), found
    model = build_distiller(cfg)
    student, extras = (len(list(m.parameters())) for m in (model.student, model.distill_losses))
    assert found['gradients'].message == f'{student} of the student, {extras} extras'


def test_a_teacher_of_the_students_config_is_no_copy_of_it(config):
    """With equal weights, and norms that are frozen, a term and its gradients would be 0."""
    cfg = config()
    cfg.model.teacher.config = dict(model=cfg.model.student)
    checks = Conformance(cfg, (96, 128))
    assert all(outcome.passed for outcome in checks.run())
    student, teacher = checks.distiller.state_dict(), checks.distiller.teacher.model.state_dict()
    equal = [name for name in student if torch.equal(student[name], teacher[name])]
    assert not [name for name in equal if name.endswith('conv.weight')]


def test_the_sample_has_what_a_pipeline_gives():
    """Ignored instances too, which CrowdDet reads."""
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    labels = np.zeros(1, dtype=np.int64)
    boxes = np.array([[0, 0, 8, 8]], dtype=np.float32)
    given = PackDetInputs(meta_keys=())(
        dict(img=image, gt_bboxes=boxes, gt_bboxes_labels=labels, gt_ignore_flags=labels > 0)
    )['data_samples']
    made = random_sample((64, 64), np.random.default_rng(0), 4, with_masks=False)
    assert set(made.keys()) == set(given.keys())
    for name, instances in given.items():
        assert set(instances.keys()) == set(getattr(made, name).keys())


def test_masks_are_for_students_that_are_trained_with_them(config):
    """RTMDet's assigner takes masks, where there are any, for tensors."""
    cfg = config()
    student = get_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py').model
    student.backbone.update(deepen_factor=0.167, widen_factor=0.125)
    student.neck.update(in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1)
    student.bbox_head.update(in_channels=16, feat_channels=16)
    cfg.model.student = student
    cfg.model.losses = dict(pkd=dict(type='mmkd_fm.PKDLoss', tap='neck', levels=[0]))
    found = outcomes(cfg)
    assert found['finite losses'].passed, found['finite losses']
    for head in (dict(bbox_head=dict(loss_mask={})), dict(roi_head=dict(mask_head={}))):
        cfg.model.student = head
        sample = Conformance(cfg, SIZE)._batch()['data_samples'][0]
        assert len(sample.gt_instances.masks) == len(sample.gt_instances), head


def test_semantic_maps_are_not_tried(config):
    cfg = config()
    cfg.model.student.semantic_head = dict(type='PanopticFPNHead')
    with pytest.raises(NotTried, match='semantic_head'):
        Conformance(cfg, SIZE)._batch()


BROKEN = {
    'CountingFPN': ("the student's own losses", 'losses differ at loss_cls.* no module may count'),
    'NamingFPN': ('models and taps', r'expected, but got student .neck. \(no feature maps\)'),
    'SharingFPN': ('export', 'Missing key.*fpn_convs.4.conv.bias'),
}


@pytest.mark.parametrize('neck', BROKEN)
def test_a_broken_neck_fails(neck, config):
    name, message = BROKEN[neck]
    cfg = config(type=neck)
    cfg.model.losses.pop('wttm')
    if neck == 'NamingFPN':
        cfg.model.student.bbox_head.type = 'RetinaHead'
    outcome = outcomes(cfg)[name]
    assert outcome.passed is False
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(outcome.message)


def test_a_head_that_changes_its_input_fails(config):
    cfg = config()
    cfg.model.student.bbox_head.type = 'InPlaceHead'
    outcome = outcomes(cfg)['models and taps']
    assert outcome.passed is False
    assert 'modified the output in place after it was recorded' in outcome.message


# The command line


def run(cfg, tmp_path, *arguments):
    cfg.dump(tmp_path / 'config.py')
    return plan.main([str(tmp_path / 'config.py'), *map(str, arguments)])


def test_a_plan_is_written(config, tmp_path, capsys):
    page = tmp_path / 'plans' / 'page.md'
    options = ('--cfg-options', 'model.terms=[fmkt]', '--size', *SIZE)
    assert run(config(), tmp_path, '--markdown', page, *options) == 0
    assert page.read_text().startswith('# Plan of config\n')
    assert 'wttm' not in page.read_text()
    assert f'written: {page}' in capsys.readouterr().out.replace('\n', '')


def test_of_a_plain_student_with_a_teacher(config, tmp_path, capsys):
    cfg = config()
    Config(cfg.model.teacher.config).dump(tmp_path / 'teacher.py')
    cfg.model = cfg.model.student
    teacher = ('--teacher', tmp_path / 'teacher.py', '--distill', 'pkd')  # without a checkpoint
    assert run(cfg, tmp_path, '--size', 64, 96, *teacher) == 0
    assert 'PKDLoss' in capsys.readouterr().out
    assert run(cfg, tmp_path) == 1
    assert 'is not of a distillation: its model has no student' in capsys.readouterr().out


def test_the_exit_status_of_the_checks(config, tmp_path, capsys):
    assert run(config(), tmp_path, '--check', '--size', 64, 96) == 0
    assert 'FAIL' not in capsys.readouterr().out
    cfg = config()
    cfg.model.losses.fmkt.tap = 'nek'
    assert run(cfg, tmp_path, '--check', '--size', 64, 96) == 1
    shown = capsys.readouterr().out
    assert 'FAIL' in shown and "did you mean 'neck'" in shown
    assert run(cfg, tmp_path) == 1
    assert "error: the student: tap 'nek'" in capsys.readouterr().out
    cfg.model.losses.fmkt.tap = 'bbox_head.retina_cls'
    assert run(cfg, tmp_path) == 1
    assert "error: tap 'bbox_head.retina_cls': the module was called" in capsys.readouterr().out


def test_a_module_of_the_users_that_fails_is_a_message(config, tmp_path, capsys):
    cfg = config()
    cfg.model.student.neck.misspelt = 1
    assert run(cfg, tmp_path) == 1
    shown = capsys.readouterr().out
    assert 'error: TypeError: ' in shown and "'misspelt'" in shown and ', line ' in shown
