"""Classifiers of mmpretrain are distilled, resumed, tested and exported with the same tools."""

import copy
import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config

from mmkd_fm.hooks import DataCheckHook

mmpretrain = pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.slow

CLASSES = ('n01', 'n02', 'n03', 'n04')
HOOKS = dict(
    distill_state=dict(type='mmkd_fm.DistillStateHook'),
    distill_clip=dict(type='mmkd_fm.ClipApartHook'),
    distill_data=dict(type='mmkd_fm.DataCheckHook'),
)
EMA = dict(type='EMAHook', momentum=0.1)
MIX = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])

WTTM = dict(type='mmkd_fm.WTTMLoss', tap='head', gamma=0.7)
FMKT = dict(
    type='mmkd_fm.FMKTLogitLoss',
    tap=dict(features='backbone', logits='head'),
    teacher_tap='head',
    flow=dict(num_steps=[1, 2]),
)
FROM_HEAD = dict(
    type='mmkd_fm.FMKTLogitLoss',
    flow='head',
    tap=dict(transport='head.flow', logits='head'),
    teacher_tap='head',
)
DKD = dict(type='mmkd_fm.DKDLoss', tap='head')


def draw_folders(folder, classes, counts, size):
    """Images in folders, one for each class, most of them empty if there are many."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name in classes:
            (folder / split / name).mkdir(parents=True)
        for i in range(count):
            label = i % min(len(classes), 4)
            image = rng.integers(0, 128, (size, size, 3)) + 40 * label * np.eye(3)[label % 3]
            path = folder / split / classes[label] / f'{split}_{i}.JPEG'
            cv2.imwrite(str(path), image.astype(np.uint8))
    return folder


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Images of 36x36 of four classes: 10 to train on and 6 to validate on."""
    return draw_folders(
        tmp_path_factory.mktemp('small') / 'data', CLASSES, dict(train=10, val=6), 36
    )


def classifier(width, mean=0.0, backbone=None):
    """Config of a small classifier of images of 32x32."""
    backbone = backbone or dict(
        type='ResNet_CIFAR', depth=18, base_channels=width, stem_channels=width, out_indices=(3,)
    )
    return ConfigDict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=len(CLASSES),
            in_channels=8 * width,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )


def write_teacher(cfg, folder):
    """Write a checkpoint of random weights of a whole config; gives its path."""
    from mmengine.registry import DefaultScope

    from mmkd_fm.registry import MODELS

    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    torch.nn.init.normal_(model.head.fc.weight)
    torch.save(dict(state_dict=model.state_dict()), folder / 'teacher.pth')
    return str(folder / 'teacher.pth')


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """Arguments of a wider teacher with another normalisation and channel order."""
    folder = tmp_path_factory.mktemp('teacher')
    cfg = Config(
        dict(
            model=classifier(12),
            data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3, to_rgb=False),
            default_scope='mmpretrain',
        )
    )
    cfg.dump(folder / 'teacher.py')
    return dict(config=str(folder / 'teacher.py'), checkpoint=write_teacher(cfg, folder))


@pytest.fixture(scope='module')
def plain_config(folders):
    """Config of a plain classifier's training: `plain_config(max_epochs=1, mix=False)`."""

    def make(max_epochs=1, mix=False, seed=0, backbone=None):
        cfg = get_config('mmpretrain::resnet/resnet18_8xb32_in1k.py')
        cfg.model = classifier(8, backbone=backbone)
        cfg.data_preprocessor.num_classes = len(CLASSES)
        if mix:
            cfg.model.train_cfg = ConfigDict(copy.deepcopy(MIX))
        for split in ('train', 'val', 'test'):
            loader = cfg[f'{split}_dataloader']
            loader.update(batch_size=4, num_workers=0, persistent_workers=False)
            loader.collate_fn = dict(type='default_collate')
            loader.dataset.update(
                type='CustomDataset',
                data_root=str(folders),
                split=None,
                data_prefix='train' if split == 'train' else 'val',
            )
            del loader.dataset['split']
            transforms = loader.dataset.pipeline
            transforms[1].scale = 32 if split == 'train' else 34
            if split != 'train':
                transforms[2].crop_size = 32
        cfg.val_evaluator.topk = cfg.test_evaluator.topk = (1, 3)
        cfg.train_cfg.max_epochs = max_epochs
        cfg.optim_wrapper.optimizer.lr = 0.01
        cfg.default_hooks.logger.interval = 1
        cfg.randomness = dict(seed=seed)
        return cfg

    return make


@pytest.fixture(scope='module')
def distill_config(plain_config, teacher):
    """Config of a distillation: `distill_config(wttm=WTTM, steps=None, ...)`.

    With `steps` the student has a FlowClsHead, trained with these numbers of steps.
    """

    def make(steps=None, max_epochs=1, mix=False, backbone=None, **losses):
        cfg = plain_config(max_epochs, mix, backbone=backbone)
        student = cfg.model
        if steps is not None:
            head = dict(type='mmkd_fm.FlowClsHead', head=student.head, nfe=2)
            student.head = ConfigDict(head, flow=dict(num_steps=steps))
            student.neck = None
        cfg.default_hooks.update(copy.deepcopy(HOOKS))
        cfg.model = ConfigDict(
            type='mmkd_fm.Distiller',
            student=student,
            teacher=dict(teacher),
            losses=copy.deepcopy(losses),
        )
        return cfg

    return make


# Only what has to be said of the data and of the machine is changed in the config.


CONFIG = 'configs/imagenet/wttm_resnet34_resnet18_8xb32_in1k.py'

LOAD_PLAIN = """
import sys
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

config, checkpoint, out = sys.argv[1:]
cfg = Config.fromfile(config)
init_default_scope(cfg.default_scope)
model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()
state = torch.load(checkpoint, weights_only=True)['state_dict']
model.load_state_dict(state, strict=True)
scores = []
with torch.no_grad():
    for batch in Runner.build_dataloader(dict(cfg.test_dataloader, num_workers=0)):
        scores += [sample.pred_score for sample in model.test_step(batch)]
torch.save(torch.stack(scores), out)
assert not [name for name in sys.modules if name.startswith('mmkd_fm')]
"""


def scores_of_plain(config, checkpoint, folder, tools):
    """Predictions of an exported model on its test data, in a process without this package."""
    (folder / 'plain.py').write_text(LOAD_PLAIN)
    tools.run_python(folder / 'plain.py', config, checkpoint, folder / 'scores.pt', cwd=folder)
    return tools.load(folder / 'scores.pt')


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory, tools):
    """A project folder with few images in ImageNet's 1000 folders, and the tools' options."""
    folder = tmp_path_factory.mktemp('imagenet')
    wnids = [f'n{i:08d}' for i in range(1000)]
    data = draw_folders(folder / 'data', wnids, dict(train=8, val=6), 48)
    checkpoint = write_teacher(get_config('mmpretrain::resnet/resnet34_8xb32_in1k.py'), folder)
    options = [
        f'model.teacher.checkpoint={checkpoint}',
        'default_hooks.logger.interval=1',
        'randomness.seed=0',
        'train_cfg.max_epochs=2',
        'train_dataloader.dataset.pipeline.1.scale=32',
    ]
    for split in ('train', 'val', 'test'):
        options += [
            f'{split}_dataloader.dataset.data_root={data}',
            f'{split}_dataloader.batch_size=4',
            f'{split}_dataloader.num_workers=0',
            f'{split}_dataloader.persistent_workers=False',
        ]
    for split in ('val', 'test'):
        options += [
            f'{split}_dataloader.dataset.pipeline.1.scale=36',
            f'{split}_dataloader.dataset.pipeline.2.crop_size=32',
        ]
    own = Path(mmpretrain.__file__).parent / '.mim' / 'tools'
    scripts = dict(ours=tools.root / 'tools', mmpretrain=own)

    def run(whose, name, *arguments, more=()):
        arguments = [*arguments, '--cfg-options', *options, *more]
        script = scripts[whose] / name
        return tools.run_python(script, tools.root / CONFIG, *arguments, cwd=folder)[1]

    return SimpleNamespace(folder=folder, run=run)


@pytest.fixture(scope='module')
def trained(imagenet):
    """Work dir of a training of two epochs."""
    imagenet.run('ours', 'train.py', '--auto-scale-lr')
    return imagenet.folder / 'work_dirs' / Path(CONFIG).stem  # the default


def test_imagenet_resumed_and_by_mmpretrains_own_tool(trained, imagenet, tools):
    stopped = imagenet.folder / 'stopped'  # after the first epoch
    stopped.mkdir()
    shutil.copy(trained / 'epoch_1.pth', stopped)
    (stopped / 'last_checkpoint').write_text(str(stopped / 'epoch_1.pth'))
    arguments = ['--auto-scale-lr', '--work-dir']
    output = imagenet.run('ours', 'train.py', '--resume', *arguments, stopped)
    assert 'resumed epoch: 1, iter: 2' in output
    imagenet.run('mmpretrain', 'train.py', *arguments, 'other')

    first, last = (tools.load(trained / f'epoch_{i}.pth') for i in (1, 2))
    assert tools.differences(first['state_dict'], last['state_dict']) != []
    for folder in (stopped, imagenet.folder / 'other'):
        got = tools.load(folder / 'epoch_2.pth')
        for key in ('state_dict', 'optimizer', 'param_schedulers', 'distill_state'):
            assert tools.differences(last[key], got[key], key) == []
    losses = tools.read_losses(trained)
    assert list(losses) == [1, 2, 3, 4]
    assert all('loss_wttm' in line for line in losses.values())
    assert losses[4]['lr'] == pytest.approx(0.1 * 4 / 256)  # --auto-scale-lr


def test_imagenet_is_tested_and_exported(trained, imagenet, tools, tmp_path):
    metrics, scores = [], []
    for whose in ('ours', 'mmpretrain'):
        out, work_dir = tmp_path / f'{whose}.pkl', tmp_path / whose
        arguments = ['--work-dir', work_dir, '--out', out]
        # the teacher is not needed
        absent = ['model.teacher.checkpoint=/absent.pth']
        imagenet.run(whose, 'test.py', trained / 'epoch_2.pth', *arguments, more=absent)
        metrics.append(json.loads(next(work_dir.glob('*/*.json')).read_text()))
        scores.append(torch.stack([p['pred_score'] for p in pickle.loads(out.read_bytes())]))
    for name in ('accuracy/top1', 'accuracy/top5'):
        assert 0 <= metrics[0][name] == metrics[1][name] <= 100
    assert scores[0].shape == (6, 1000)
    assert torch.equal(*scores)

    output = imagenet.run('ours', 'export_student.py', trained / 'epoch_2.pth', 'exported')
    assert 'loaded strictly' in output and 'needs this package' not in output
    exported = imagenet.folder / 'exported'
    cfg = Config.fromfile(exported / Path(CONFIG).name)
    assert 'mmkd_fm.' not in str(cfg.to_dict())
    assert not {'cls_losses', 'cls_fmkt_head', 'distill_hooks', 'flow'} & set(cfg)
    plain = get_config('mmpretrain::resnet/resnet18_8xb32_in1k.py')
    cfg.model.pop('_scope_')
    assert cfg.model == plain.model and cfg.data_preprocessor == plain.data_preprocessor
    assert set(cfg.default_hooks) == set(plain.default_hooks)
    weights, saved = exported / 'student.pth', trained / 'epoch_2.pth'
    assert weights.stat().st_size < saved.stat().st_size * 0.6  # no momentum
    plain_scores = scores_of_plain(exported / Path(CONFIG).name, weights, tmp_path, tools)
    assert torch.equal(plain_scores, scores[0])


def test_weights_of_0_are_the_plain_classifier(
    plain_config, distill_config, train, tmp_path, tools
):
    plain = train(plain_config(max_epochs=2), tmp_path / 'plain')
    none = dict(wttm=dict(WTTM, loss_weight=0), fmkt=dict(FMKT, loss_weight=0))
    runs = [
        train(distill_config(max_epochs=2, **losses), tmp_path / name)
        for name, losses in dict(none=none, some=dict(none, wttm=WTTM)).items()
    ]
    expected, got, other = (tools.load(run / 'epoch_2.pth') for run in (plain, *runs))
    for key in ('state_dict', 'optimizer'):
        assert tools.differences(expected[key], got[key], key) == []
    expected, got, _ = (tools.read_losses(run) for run in (plain, *runs))
    assert len(expected) == 6 and tools.differences(expected, got) == []
    assert list(other['state_dict']) == list(tools.load(plain / 'epoch_2.pth')['state_dict'])
    assert tools.differences(other['state_dict'], tools.load(runs[0] / 'epoch_2.pth')['state_dict'])


def test_mixed_images_train_and_resume(distill_config, train, tmp_path, tools):
    cfg = distill_config(max_epochs=2, mix=True, wttm=WTTM, fmkt=FMKT)
    cfg.custom_hooks = [dict(EMA)]
    straight = train(cfg, tmp_path / 'straight')
    losses = tools.read_losses(straight)
    assert len(losses) == 6
    for name in ('loss_wttm', 'loss_fmkt', 'loss_fmkt_theta'):
        assert all(line[name] > 0 for line in losses.values())
    resumed = train(cfg, tmp_path / 'resumed', resume=straight / 'epoch_1.pth')
    expected, got = (tools.load(run / 'epoch_2.pth') for run in (straight, resumed))
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'distill_state'):
        assert tools.differences(expected[key], got[key], key) == []


def test_both_models_see_the_same_mixed_images(distill_config, make_runner, tmp_path):
    cfg = distill_config(mix=True, wttm=WTTM)
    cfg.model.student.train_cfg.augments = [dict(type='Mixup', alpha=0.8)]
    runner = make_runner(cfg, tmp_path)
    batch = next(iter(runner.build_dataloader(cfg.train_dataloader)))
    data = runner.model.data_preprocessor(batch, True)
    scores = torch.stack([sample.gt_score for sample in data['data_samples']])
    assert scores.shape == (4, 4) and ((scores > 0) & (scores < 1)).any()
    torch.testing.assert_close(scores.sum(1), torch.ones(4))
    student = cfg.data_preprocessor
    std, mean = (torch.tensor(student[key]).view(3, 1, 1) for key in ('std', 'mean'))
    pixels = (data['inputs'] * std + mean).flip(1)  # the teacher reads BGR
    torch.testing.assert_close(data['teacher_inputs'] * 255, pixels, atol=1e-3, rtol=0)


def test_dkd_refuses_mixed_labels(distill_config, make_runner, tmp_path, tools):
    runner = make_runner(distill_config(mix=True, dkd=DKD), tmp_path)
    with pytest.raises(ValueError, match='DKDLoss needs hard labels'):
        runner.train()
    assert tools.read_losses(tmp_path) == {}


def test_data_of_other_classes(distill_config, make_runner, tmp_path, tools):
    pkd = dict(type='mmkd_fm.PKDLoss', tap='backbone')
    for classes, work_dir in ((3, tmp_path / 'few'), (5, tmp_path / 'many')):
        cfg = distill_config(pkd=pkd)
        cfg.model.student.head.num_classes = classes
        runner = make_runner(cfg, work_dir)
        if classes < 4:
            with pytest.raises(
                ValueError, match='has 4 classes, the head of the classifier 3; set'
            ):
                runner.train()
            assert tools.read_losses(work_dir) == {}
        else:
            runner.train()
            assert 'has 4 classes, the head of the classifier 5' in tools.read_log(work_dir)


def test_images_that_are_not_there(distill_config, make_runner, tmp_path, tools):
    (tmp_path / 'list.txt').write_text('n01/absent.JPEG 0\n')
    ann_file = {'train_dataloader.dataset.ann_file': str(tmp_path / 'list.txt')}
    runner = make_runner(distill_config(wttm=WTTM), tmp_path / 'run', **ann_file)
    with pytest.raises(FileNotFoundError, match='absent.JPEG.*check data_root and data_prefix of'):
        runner.train()
    assert tools.read_losses(tmp_path / 'run') == {}


def test_agreement_during_a_distillation(distill_config, teacher, train, tmp_path):
    cfg = distill_config(max_epochs=1, wttm=WTTM)
    cfg.val_evaluator = [
        cfg.val_evaluator,
        dict(type='mmkd_fm.TeacherAgreement', teacher=dict(teacher)),
    ]
    work_dir = train(cfg, tmp_path)
    lines = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    metrics = json.loads(lines[-1])
    assert 0 <= metrics['agreement/top1'] <= 100 and metrics['agreement/kl'] > 0
    assert {'accuracy/top1', 'accuracy/top3'} <= set(metrics)


@pytest.fixture(scope='module')
def flowed(distill_config, train, tmp_path_factory):
    """Config file, config and checkpoint of a student with a FlowClsHead of 0, 1 or 2 steps."""
    folder = tmp_path_factory.mktemp('flowed')
    cfg = distill_config([0, 1, 2], max_epochs=3, fmkt=FROM_HEAD)
    cfg.custom_hooks = [dict(EMA)]
    cfg.dump(folder / 'flowed.py')
    file = train(cfg, folder / 'run') / 'epoch_3.pth'
    return SimpleNamespace(cfg=cfg, folder=folder, config=folder / 'flowed.py', file=file)


@pytest.fixture(scope='module')
def tool(flowed, tools):
    """Run one of our tools in the folder of `flowed`; gives the exit code and what it printed."""

    def run(name, *arguments, check=True):
        script = tools.root / 'tools' / name
        return tools.run_python(script, *arguments, cwd=flowed.folder, check=check)

    return run


def predictions(cfg, file, make_runner, work_dir):
    """Scores of a config's model on its test data."""
    cfg = copy.deepcopy(cfg)
    cfg.custom_hooks = []
    runner = make_runner(cfg, work_dir, load_from=str(file))
    runner.load_or_resume()
    runner.model.eval()
    with torch.no_grad():
        return torch.stack(
            [
                s.pred_score
                for batch in runner.test_dataloader
                for s in runner.model.test_step(batch)
            ]
        )


def with_nfe(cfg, nfe):
    cfg = copy.deepcopy(cfg)
    cfg.model.student.head.nfe = nfe
    return cfg


def test_a_flow_head_is_exported_without_its_flow(flowed, tool, tools, make_runner, tmp_path):
    _, output = tool('export_student.py', flowed.config, flowed.file, tmp_path / 'out')
    assert 'loaded strictly' in output and 'needs this package' not in output
    cfg = Config.fromfile(tmp_path / 'out' / 'flowed.py')
    assert cfg.model == classifier(8)
    assert cfg.custom_hooks == [EMA]
    expected = predictions(with_nfe(flowed.cfg, 0), flowed.file, make_runner, tmp_path / 'run')
    weights = tmp_path / 'out' / 'student.pth'
    got = scores_of_plain(tmp_path / 'out' / 'flowed.py', weights, tmp_path, tools)
    assert torch.equal(got, expected)


def test_a_flow_head_is_exported_with_its_flow(flowed, tool, make_runner, tmp_path):
    arguments = [flowed.config, flowed.file, tmp_path / 'out', '--nfe', 4]
    _, output = tool('export_student.py', *arguments)
    assert 'needs this package, mmkd_fm, for mmkd_fm.FlowClsHead' in output
    cfg = Config.fromfile(tmp_path / 'out' / 'flowed.py')
    assert (cfg.model.head.type, cfg.model.head.nfe) == ('mmkd_fm.FlowClsHead', 4)
    got = predictions(cfg, tmp_path / 'out' / 'student.pth', make_runner, tmp_path / 'exported')
    four, none = (
        predictions(with_nfe(flowed.cfg, nfe), flowed.file, make_runner, tmp_path / f'run{nfe}')
        for nfe in (4, 0)
    )
    assert torch.equal(got, four)
    assert not torch.equal(got, none)


def test_a_head_that_always_had_its_flow_keeps_it(flowed, tool, tmp_path):
    for flow, steps in ((dict(num_steps=4), 4), (None, 8)):
        cfg = copy.deepcopy(flowed.cfg)
        cfg.model.student.head.flow = flow
        cfg.dump(tmp_path / 'never0.py')
        arguments = [tmp_path / 'never0.py', flowed.file, tmp_path / 'out']
        code, output = tool('export_student.py', *arguments, check=False)
        assert code == 1 and f'was trained with {steps} flow steps' in output
        assert not (tmp_path / 'out').exists()


def test_a_backbone_of_ours_keeps_its_import(distill_config, train, tool, make_runner, tmp_path):
    backbone = dict(type='mmkd_fm.CIFARResNet', depth=8, widths=(4, 4, 8, 64))
    cfg = distill_config(wttm=WTTM, backbone=backbone)
    cfg.val_evaluator = [
        dict(type='Accuracy'),
        dict(type='mmkd_fm.TeacherAgreement', teacher=dict(cfg.model.teacher)),
    ]
    cfg.test_evaluator = dict(cfg.val_evaluator[1])
    cfg.dump(tmp_path / 'own.py')
    file = train(cfg, tmp_path / 'run') / 'epoch_1.pth'
    _, output = tool('export_student.py', tmp_path / 'own.py', file, tmp_path / 'out')
    assert 'the exported config needs this package, mmkd_fm, for mmkd_fm.CIFARResNet\n' in output
    exported = Config.fromfile(tmp_path / 'out' / 'own.py')
    assert exported.val_evaluator == [dict(type='Accuracy')] and exported.test_evaluator == []
    weights = tmp_path / 'out' / 'student.pth'
    got = predictions(exported, weights, make_runner, tmp_path / 'exported')
    assert torch.equal(got, predictions(cfg, file, make_runner, tmp_path / 'distilled'))


@pytest.mark.parametrize('solver', ['euler', 'heun'])
def test_a_flow_head_is_tested_with_any_number_of_steps(
    solver, flowed, tool, make_runner, tmp_path
):
    arguments = ['--nfe', 0, 1, 2, '--solver', solver, '--work-dir', tmp_path]
    _, output = tool('test.py', flowed.config, flowed.file, *arguments)
    header = next(line for line in output.splitlines() if 'GFLOPs' in line and 'NFE' in line)
    assert 'top-1' in header and 'top-5' not in header and 'AP' not in header
    assert ('steps' in header) == (solver == 'heun')
    assert (tmp_path / 'nfe.png').stat().st_size > 10_000
    rows = json.loads((tmp_path / 'nfe.json').read_text())
    assert [row['steps'] for row in rows] == [0, 1, 2]
    assert [row['nfe'] for row in rows] == ([0, 2, 4] if solver == 'heun' else [0, 1, 2])
    none, one, two = (row['gflops'] for row in rows)
    assert two - none == pytest.approx(2 * (one - none), rel=1e-6) and one > none
    assert rows[0]['parameters'] < rows[1]['parameters'] == rows[2]['parameters']
    for row in rows if solver == 'euler' else ():
        cfg = with_nfe(flowed.cfg, row['steps'])
        alone = make_runner(cfg, tmp_path / f'{row["nfe"]}', load_from=str(flowed.file))
        assert row['accuracy/top1'] == alone.test()['accuracy/top1']


WITHOUT_MMDET = """
import importlib.util
import runpy
import sys

find_spec = importlib.util.find_spec
hidden = lambda name: name.split('.')[0] == 'mmdet'
importlib.util.find_spec = lambda name, *more: None if hidden(name) else find_spec(name, *more)

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if hidden(name):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition('/')[0])
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_classifiers_need_no_mmdet(flowed, tools, tmp_path):
    (tmp_path / 'run.py').write_text(WITHOUT_MMDET)
    script = tools.root / 'tools' / 'test.py'
    arguments = [script, flowed.config, flowed.file, '--work-dir', tmp_path / 'work', '--tta']
    _, output = tools.run_python(tmp_path / 'run.py', *arguments, cwd=tmp_path)
    assert 'accuracy/top1' in output
    detector = tmp_path / 'detector.py'
    detector.write_text("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'")
    for config in (detector, tools.root / 'configs/demo/retinanet_r18_demo.py'):
        arguments = [tools.root / 'tools' / 'train.py', config, '--work-dir', tmp_path / 'x']
        _, output = tools.run_python(
            tmp_path / 'run.py', *arguments, cwd=tmp_path, check=False, COLUMNS='200'
        )
        assert 'mmdet not installed' in output and 'pip install "mmdet>=3.3,<4"' in output
        assert 'Traceback' not in output


def test_help_of_each_package(tool, flowed):
    _, both = tool('train.py', '--help')
    assert '--auto-scale-lr' in both and 'Configs of mmpretrain are run with' in both
    _, own = tool('train.py', flowed.config, '--help')
    assert '--no-persistent-workers' in own and '--no-persistent-workers' not in both


def test_two_processes_train_one_classifier(distill_config, tmp_path, tools):
    cfg = distill_config(max_epochs=1, wttm=WTTM, fmkt=FMKT)
    cfg.dump(tmp_path / 'config.py')
    worker = Path(__file__).with_name('gloo_worker.py')
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', 2]
    tools.run_python(*launch, worker, tmp_path / 'config.py', cwd=tmp_path)
    ranks = [tools.load(tmp_path / f'rank{rank}.pth') for rank in range(2)]
    assert tools.differences(*ranks) == []
    assert any(name.startswith('distill_losses.') for name in ranks[0])
    assert len(tools.read_losses(tmp_path)) == 2  # 5 images for each process, in batches of 4


def test_data_without_metainfo_are_looked_at():
    LinearClsHead = pytest.importorskip('mmpretrain.models').LinearClsHead
    data = torch.utils.data.TensorDataset(torch.zeros(4, 3), torch.zeros(4))
    model = torch.nn.Sequential()
    model.head = LinearClsHead(num_classes=4, in_channels=3)
    loader = torch.utils.data.DataLoader(data)
    runner = SimpleNamespace(train_dataloader=loader, model=model, cfg=Config())
    DataCheckHook().before_train(runner)
    empty = torch.utils.data.Subset(data, [])
    runner.train_dataloader = SimpleNamespace(dataset=empty)  # torch makes no loader of it
    with pytest.raises(ValueError, match='no image to train on. The file lists none'):
        DataCheckHook().before_train(runner)
