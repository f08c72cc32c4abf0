"""The teacher is evaluated before training, which it changes in nothing."""

import copy
import json
import logging
from types import SimpleNamespace

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger

from mmkd_fm.evaluation.main_metric import main_metric
from mmkd_fm.hooks import TeacherCheckHook
from mmkd_fm.hooks.teacher_check_hook import _doubt, _published
from mmkd_fm.models.teacher import FrozenTeacher

pytestmark = pytest.mark.slow
HOOK = dict(type='mmkd_fm.TeacherCheckHook', num_images=3)


@pytest.fixture(scope='module')
def trained(distill_config, train, tmp_path_factory):
    """Work dirs of one training without and with the hook."""
    result = []
    for checked in (False, True):
        cfg = distill_config(max_epochs=2, ema=True)
        if checked:
            cfg.default_hooks.distill_teacher = dict(HOOK)
        result.append(train(cfg, tmp_path_factory.mktemp('run')))
    return result


def test_the_training_is_bit_equal(trained, tools):
    plain, checked = trained
    assert tools.differences(tools.read_losses(plain), tools.read_losses(checked)) == []
    expected, got = (tools.load(run / 'epoch_2.pth') for run in trained)
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'distill_state'):
        assert tools.differences(expected[key], got[key], key) == []


def test_validation_counts_all_images_afterwards(trained):
    metrics = []
    for run in trained:
        lines = map(json.loads, next(run.glob('*/vis_data/scalars.json')).read_text().splitlines())
        metrics.append([line['coco/bbox_mAP'] for line in lines if 'coco/bbox_mAP' in line])
    assert len(metrics[0]) == 2 and metrics[0] == metrics[1]


def test_what_is_logged(trained, tools):
    assert 'the teacher on' not in tools.read_log(trained[0])
    assert 'the teacher on 3 validation images: coco/bbox_mAP 0' in tools.read_log(trained[1])


@pytest.fixture
def check(make_runner, tmp_path, caplog):
    """What the hook logs before training: `check(cfg, num_images=3)`; also the runner."""

    def run(cfg, **kwargs):
        runner = make_runner(cfg, tmp_path)
        runner.train_loop, runner.val_loop, runner.call_hook('before_run')
        runner._init_model_weights()
        with attached(caplog.handler, runner.logger):
            TeacherCheckHook(**kwargs).before_train(runner)
        return '\n'.join(record.getMessage() for record in caplog.records), runner

    return run


class attached:
    def __init__(self, handler, logger):
        self.handler, self.logger = handler, logger

    def __enter__(self):
        self.logger.addHandler(self.handler)

    def __exit__(self, *args):
        self.logger.removeHandler(self.handler)


def test_the_metrics_are_those_of_the_teacher_alone(
    distill_config, plain_config, teacher_model, teacher_files, check, make_runner, tmp_path
):
    """On all images: equal to what its own config gives, with its own preprocessing."""
    logged, _ = check(distill_config(), num_images=100)
    alone = plain_config()
    alone.model = teacher_model('retinanet')
    alone.load_from = teacher_files['retinanet']['checkpoint']
    runner = make_runner(alone, tmp_path / 'alone')
    expected = runner.val()
    assert expected['coco/bbox_mAP'] >= 0
    text = ', '.join(f'{name} {value:.4g}' for name, value in expected.items())
    assert f'the teacher on 4 validation images: {text}' in logged  # all there are


@pytest.fixture
def perfect(monkeypatch):
    """Let the teacher find all objects: `perfect(data)`; gives the numbers of images it saw."""

    def make(data, labels=None):
        content = json.loads((data / 'val.json').read_text())

        def test_step(batch):
            samples = copy.deepcopy(batch['data_samples'])
            for sample in samples:
                own = [a for a in content['annotations'] if a['image_id'] == sample.img_id]
                x, y, w, h = torch.tensor([a['bbox'] for a in own]).float().T
                found = SimpleNamespace(
                    bboxes=torch.stack([x, y, x + w, y + h], 1),
                    labels=torch.tensor([a['category_id'] - 1 for a in own]),
                )
                sample.pred_instances = type(sample.gt_instances)(
                    bboxes=found.bboxes,
                    labels=found.labels,
                    scores=torch.ones(len(own)),
                )
            return samples

        return test_step

    return make


def test_only_the_chosen_images_count(distill_config, make_runner, perfect, data, tmp_path, check):
    """A perfect teacher has AP 1 on any part: images that were not shown are not missed."""
    from mmkd_fm.hooks import teacher_check_hook

    runner = make_runner(distill_config(), tmp_path / 'x')
    runner.val_loop  # noqa: B018 (builds it)
    teacher = runner.model.teacher
    teacher.model.test_step = perfect(data)
    for count in (1, 2, 4):
        evaluated, metrics = teacher_check_hook._evaluate(teacher, runner, count)
        assert evaluated == count
        assert metrics['coco/bbox_mAP'] == 1
    (metric,) = runner.val_evaluator.metrics
    assert isinstance(metric, CocoMetric) and metric.img_ids is None and metric.results == []


@pytest.mark.parametrize(
    ('count', 'images'), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (9, [0, 1, 2, 3])]
)
def test_images_are_spread_evenly(
    count, images, distill_config, make_runner, perfect, data, tmp_path
):
    """The first ones of a validation set in the order of its classes are of one class."""
    from mmkd_fm.hooks import teacher_check_hook

    runner = make_runner(distill_config(), tmp_path)
    runner.val_loop  # noqa: B018 (builds it)
    seen, find = [], perfect(data)

    def test_step(batch):
        seen.extend(sample.img_id for sample in batch['data_samples'])
        return find(batch)

    runner.model.teacher.model.test_step = test_step
    teacher_check_hook._evaluate(runner.model.teacher, runner, count)
    assert seen == images


def test_another_resolution_of_the_teacher(distill_config, check):
    """Predictions come back at the size of the image, whatever the teacher sees."""
    cfg = distill_config(losses='pkd')
    cfg.model.teacher.input_scale = 2.0
    _, runner = check(cfg, num_images=1)
    batch = next(iter(runner.val_dataloader))
    seen = []
    teacher = runner.model.teacher
    teacher.model.test_step = seen.append
    teacher.predict(copy.deepcopy(batch))
    for image, sample, scaled, new in zip(
        batch['inputs'], batch['data_samples'], seen[0]['inputs'], seen[0]['data_samples']
    ):
        assert scaled.shape[-2:] == tuple(2 * side for side in image.shape[-2:])
        assert new.scale_factor == tuple(2 * f for f in sample.scale_factor)
        assert new.img_shape == tuple(2 * side for side in sample.img_shape[:2])
        assert new.ori_shape == sample.ori_shape


def test_other_classes_are_not_scored(distill_config, teacher_model, write_teacher, check):
    cfg = distill_config(losses='pkd')
    cfg.model.teacher = ConfigDict(write_teacher(teacher_model('retinanet', num_classes=7)))
    logged, _ = check(cfg)
    assert 'the teacher is not checked: it has 7 classes, the validation set 3' in logged


def test_no_validation(distill_config, check):
    cfg = distill_config()
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    assert 'not checked: the config has no validation' in check(cfg)[0]


def test_no_teacher(distill_config, check):
    cfg = distill_config()
    for loss in cfg.model.losses.values():
        loss.loss_weight = 0
    assert 'not checked: Distiller has none; take the hook out of default_hooks' in check(cfg)[0]


def test_num_images_must_be_positive():
    with pytest.raises(ValueError, match='num_images must be at least 1, but got 0'):
        TeacherCheckHook(num_images=0)


# What is published


class CocoDataset:
    METAINFO = dict(classes=('a', 'b'))


def runner_of(config, classes=('a', 'b')):
    dataset = CocoDataset()
    dataset.metainfo = dict(classes=classes)
    return SimpleNamespace(
        cfg=Config(dict(model=dict(teacher=dict(config=config)))),
        val_dataloader=SimpleNamespace(dataset=dataset),
    )


def test_the_published_number():
    zoo = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
    assert _published(runner_of(zoo)) == 31.7
    assert _published(runner_of(zoo, classes=('red', 'green'))) is None
    assert _published(runner_of('mmdet::_base_/models/retinanet_r50_fpn.py')) is None
    assert _published(runner_of(dict(model=dict()))) is None
    assert _published(runner_of('/a/file.py')) is None


@pytest.mark.parametrize(
    ('name', 'share', 'warning'),
    [
        ('coco/bbox_mAP', 0.28, None),
        ('coco/bbox_mAP', 0.26, 'has coco/bbox_mAP 26.0, published is 31.7. Compare its'),
        ('coco/bbox_mAP', 0.004, 'sees next to nothing: coco/bbox_mAP 0.4. Compare its'),
        ('lvis/bbox_AP', 0.28, None),
        ('lvis/bbox_AP', 0.004, 'sees next to nothing: lvis/bbox_AP 0.4.'),
        ('openimages/AP50', 0.28, None),
        ('multi-label/AP_classwise', [1.0, 2.0], None),  # a list, of each class
    ],
)
def test_what_is_warned_of(name, share, warning, monkeypatch, caplog):
    from mmkd_fm.hooks import teacher_check_hook

    runner = runner_of('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    runner.model = SimpleNamespace(teacher=SimpleNamespace(model=None))
    runner.logger = MMLogger.get_instance('published', log_level=logging.INFO)
    monkeypatch.setattr(teacher_check_hook, '_why_not', lambda *args: None)
    monkeypatch.setattr(teacher_check_hook, '_evaluate', lambda *a: (9, {name: share}))
    with attached(caplog.handler, runner.logger):
        TeacherCheckHook(tolerance=5).before_train(runner)
    assert f'on 9 validation images: {name} {share}' in caplog.text
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == (warning is not None)
    assert not warning or warned[0].startswith(f'the teacher {warning}')


@pytest.mark.parametrize(('num_classes', 'chance'), [(2, 50), (10, 10), (1000, 0.1)])
def test_a_classifier_is_as_good_as_chance_or_better(num_classes, chance):
    teacher = SimpleNamespace(num_classes=num_classes)
    doubts = [
        _doubt({'accuracy/top1': chance + more, 'accuracy/top5': 100.0}, teacher, None, 5.0)
        for more in (0.9, 1.1)
    ]
    assert doubts[0] == f'sees next to nothing: accuracy/top1 {chance + 0.9:.1f}'
    assert doubts[1] is None


@pytest.mark.parametrize(
    ('metrics', 'name', 'percent'),
    [
        ({'coco/bbox_mAP': 0.412, 'coco/bbox_mAP_50': 0.6}, 'coco/bbox_mAP', 41.2),
        ({'coco/bbox_mAP_50': 0.412}, 'coco/bbox_mAP_50', 41.2),  # metric_items=['mAP_50']
        ({'coco/cat_precision': 0.9, 'coco/bbox_mAP': 0.412}, 'coco/bbox_mAP', 41.2),  # classwise
        ({'lvis/bbox_AP': 0.412, 'lvis/bbox_APr': 0.1}, 'lvis/bbox_AP', 41.2),
        ({'lvis_fixed_ap/AP': 41.2}, 'lvis_fixed_ap/AP', 41.2),
        ({'openimages/AP50': 0.412, 'openimages/mAP': 0.4}, 'openimages/AP50', 41.2),
        ({'pascal_voc/mAP': 0.412, 'pascal_voc/AP50': 0.5}, 'pascal_voc/mAP', 41.2),
        ({'cityscapes/mAP': 0.412, 'cityscapes/AP@50': 0.5}, 'cityscapes/mAP', 41.2),
        ({'crowd_human/mAP': 0.412, 'crowd_human/mMR': 0.5}, 'crowd_human/mAP', 41.2),
        ({'bbox_mAP': 0.412}, 'bbox_mAP', 41.2),  # prefix=''
        ({'coco_panoptic/PQ': 41.2}, 'coco_panoptic/PQ', 41.2),
        ({'accuracy/top1': 0.4, 'accuracy/top5': 90.0}, 'accuracy/top1', 0.4),
        ({'multi-label/mAP': 41.2}, 'multi-label/mAP', 41.2),
        ({'single-label/precision': 41.2, 'accuracy/top1': 50.0}, 'accuracy/top1', 50.0),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_the_metric_that_is_judged_in_percent(metrics, name, percent):
    got, factor = main_metric(metrics)
    assert (got, factor * metrics[got]) == (name, pytest.approx(percent))


def test_a_teacher_that_predicts_nothing(distill_config, check):
    cfg = distill_config(losses='pkd')
    teacher = Config.fromfile(cfg.model.teacher.config)
    teacher.model.test_cfg.score_thr = 1.1
    cfg.model.teacher.config = dict(model=teacher.model, default_scope='mmdet')
    assert 'the teacher sees nothing: it predicts no object at all. Compare' in check(cfg)[0]


def test_masks_are_not_asked_of_a_teacher_of_boxes(distill_config, check, caplog):
    cfg = distill_config(losses='pkd')
    cfg.val_evaluator.metric = ['bbox', 'segm']  # the student's masks are validated
    logged, runner = check(cfg)
    assert 'the teacher on 4 validation images: coco/bbox_mAP 0' in logged and 'segm' not in logged
    assert runner.val_evaluator.metrics[0].metrics == ['bbox', 'segm']
    caplog.clear()
    cfg.val_evaluator.metric = 'segm'
    logged = check(cfg)[0]
    assert 'not checked: it predicts no masks' in logged and 'the teacher on' not in logged


@pytest.mark.parametrize(
    'name',
    [
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
        'detr/detr_r50_8xb2-150e_coco.py',
    ],
)
def test_classes_of_other_heads(name):
    assert FrozenTeacher(f'mmdet::{name}').num_classes == 80


def test_two_processes_share_the_images(distill_config, check, tools, tmp_path):
    cfg = distill_config()
    cfg.val_dataloader.batch_size = 1  # images of one batch are padded to one size
    expected = check(cfg, num_images=3)[0]
    cfg.default_hooks.distill_teacher = dict(HOOK)
    (tmp_path / 'two').mkdir()
    cfg.dump(tmp_path / 'two' / 'config.py')
    worker = tools.root / 'tests' / 'test_end_to_end' / 'gloo_worker.py'
    launch = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', 2)
    tools.run_python(*launch, worker, tmp_path / 'two' / 'config.py', cwd=tmp_path)
    logged = [
        [line.split('images: ')[1] for line in text.splitlines() if 'the teacher on' in line]
        for text in (expected, tools.read_log(tmp_path / 'two'))
    ]
    assert len(logged[0]) == 1 and logged[0] == logged[1]


def test_several_validated_data_sets(distill_config, check):
    """Their evaluator takes results by their place in all of them."""
    cfg = distill_config()
    dataset = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[dataset, dataset])
    cfg.val_evaluator = dict(
        type='MultiDatasetsEvaluator',
        metrics=[cfg.val_evaluator, cfg.val_evaluator],
        dataset_prefixes=['a', 'b'],
    )
    logged, _ = check(cfg)
    assert logged == (
        'the teacher is not checked: several data sets are validated, each by metrics of its own'
    )


def test_a_teacher_of_masks_alone_is_judged_by_them(
    distill_config, make_runner, perfect, data, tmp_path
):
    """SOLO gives boxes of zeros: their AP says nothing about it."""
    from mmkd_fm.hooks import teacher_check_hook

    content = json.loads((data / 'val.json').read_text())
    for annotation in content['annotations']:
        x, y, w, h = annotation['bbox']
        annotation['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (tmp_path / 'val.json').write_text(json.dumps(content))
    cfg = distill_config()
    cfg.val_evaluator.update(metric=['bbox', 'segm'], ann_file=str(tmp_path / 'val.json'))
    runner = make_runner(cfg, tmp_path)
    runner.val_loop  # noqa: B018 (builds it)
    find = perfect(data)

    def test_step(batch):
        samples = find(batch)
        for sample in samples:
            found = sample.pred_instances
            masks = torch.zeros(len(found), *sample.ori_shape, dtype=torch.bool)
            for mask, (left, top, right, bottom) in zip(masks, found.bboxes.long()):
                mask[top:bottom, left:right] = True
            found.masks, found.bboxes = masks, torch.zeros_like(found.bboxes)
        return samples

    runner.model.teacher.model.test_step = test_step
    metrics = teacher_check_hook._evaluate(runner.model.teacher, runner, 4)[1]
    assert metrics['coco/segm_mAP'] == 1
    assert 'coco/bbox_mAP' not in metrics
