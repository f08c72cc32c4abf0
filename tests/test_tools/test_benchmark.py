"""The benchmark: what it computes from times, the memory it measures, and its tables."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hub import get_config

import benchmark
import benchmark_measure
from benchmark_logit import measure, number_of_calls, variants
from benchmark_measure import (
    Stopwatch,
    interleave,
    peak_memory,
    policy_average,
    ratios,
    resident_bytes,
)
from benchmark_models import (
    default_encoder,
    exported_student,
    flow_student,
    plain_student,
    raw_batch,
    read_config,
    with_encoder,
    with_losses,
)
from benchmark_report import BARE, Cost, Inference, LogitCost, Report
from benchmark_run import Benchmark
from benchmark_tables import PHASES, markdown, sheets
from benchmark_training import Training
from complexity import call_gflops, gflops, latency, num_parameters
from mmkd_fm.models import Flow
from mmkd_fm.registry import MODELS

TOOL = Path(benchmark.__file__)
CONFIGS = TOOL.parents[1] / 'configs'
CPU = torch.device('cpu')


# The command line


def test_help_names_the_targets_and_options(capsys):
    with pytest.raises(SystemExit) as end:
        benchmark.parse(['--help'])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for option in ('--size', '--encoders', '--steps', '--checkpoint', '--markdown', '--strict'):
        assert option in shown


def test_defaults_depend_on_the_device():
    assert benchmark.parse(['--device', 'cpu']).size == (320, 480)
    assert benchmark.parse(['--device', 'cuda']).size == (800, 1344)
    assert Path(benchmark.parse([]).config).is_file()
    assert 'ConvMetaEncoder' in benchmark.parse([]).encoders


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--repeats', '0'], '--repeats: expected at least 1, got 0'),
        (['--steps', '-1'], '--steps: expected numbers from 0'),
        (['--size', '8', '8'], '--size: expected sides of at least 64 pixels'),
        (['--encoders', 'NoMetaEncoder'], 'ConvMetaEncoder'),
        (['no/such/config.py'], "there is no config file 'no/such/config.py'"),
    ],
)
def test_bad_arguments(options, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('method', ['pkd', 'fmkt-neck'])
def test_config_with_nothing_to_measure(method):
    config = CONFIGS / f'bccd/{method}_retinanet_r18_r18-quarter_bccd.py'
    with pytest.raises(ValueError, match=r'expected a Distiller of detectors with one FMKTLoss'):
        read_config(str(config))


LOSSES = dict(
    fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck'),
    second=dict(type='FMKTLoss', tap='neck'),
    kd=dict(type='mmkd_fm.KDLoss', tap='bbox_head', index=0),
    boxes=dict(type='mmkd_fm.WTTMLoss', tap=dict(scores='bbox_head', boxes='bbox_head')),
    wttm=dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0),
    pkd=dict(type='mmkd_fm.PKDLoss', tap='neck'),
)


@pytest.fixture
def written(tmp_path):
    """Write a config of a Distiller with `LOSSES`: `written(terms, scope='mmdet')`."""

    def write(terms, scope='mmdet'):
        model = dict(type='mmkd_fm.Distiller', losses=LOSSES, terms=terms)
        path = tmp_path / 'config.py'
        path.write_text(f'default_scope = {scope!r}\nmodel = {model!r}\n')
        return str(path)

    return write


@pytest.mark.parametrize(
    ('terms', 'found'),
    [
        (['fmkt', 'pkd'], ('fmkt', None)),
        (['kd', 'pkd'], (None, 'kd')),
        (['kd', 'fmkt', 'wttm'], ('fmkt', 'wttm')),
        ('wttm', (None, 'wttm')),
        (['second', 'boxes'], ('second', None)),
    ],
)
def test_terms_that_are_measured(terms, found, written):
    assert read_config(written(terms))[1:] == found


@pytest.mark.parametrize(
    ('terms', 'scope'),
    [(['fmkt', 'second'], 'mmdet'), (['boxes'], 'mmdet'), (None, 'mmdet'), ('wttm', 'mmpretrain')],
)
def test_configs_that_are_refused(terms, scope, written):
    with pytest.raises(ValueError, match=rf'of {scope} with the losses'):
        read_config(written(terms, scope))


@pytest.mark.parametrize(
    ('options', 'flow', 'logit'),
    [
        ([], ['fmkt'], True),
        (['--only', 'fmkt'], ['fmkt'], False),
        (['--only', 'wttm'], None, True),
        (['--losses'], ['fmkt', 'wttm'], True),
    ],
)
def test_parts_and_their_losses(options, flow, logit, mmdet_scope, tmp_path):
    config = CONFIGS / 'bccd/fmkt-wttm_retinanet_r18_r18-quarter_bccd.py'
    args = benchmark.parse([str(config), '--device', 'cpu', '--size', '64', '64', *options])
    run = Benchmark(args, tmp_path)
    assert run.parts == ['fmkt'] * bool(flow) + ['wttm'] * logit
    if flow:
        assert list(run.model.losses) == flow
    if logit:
        assert next(iter(run.logit_model.losses)) == 'wttm bernoulli on'


def test_part_that_a_config_lacks(mmdet_scope, tmp_path):
    config = CONFIGS / 'bccd/fmkt_retinanet_r18_r18-quarter_bccd.py'
    args = benchmark.parse([str(config), '--only', 'wttm'])
    with pytest.raises(ValueError, match=r'--only wttm: .*/fmkt_retina.* has no such term; leave'):
        Benchmark(args, tmp_path)


# Memory


@pytest.mark.parametrize('kept', [0, 1, 5])
def test_peak_memory_of_known_tensors(kept):
    def call():
        tensors = [torch.empty(1000, 100) for _ in range(kept)]
        more = torch.empty(500, 100)
        del tensors, more
        return torch.empty(100)

    for _ in range(2):  # a profile leaves nothing behind for the next
        assert peak_memory(call, CPU) == max(400_000 * kept + 200_000, 400)


def test_peak_memory_without_allocations():
    assert peak_memory(lambda: None, CPU) == 0


def test_recomputed_transport_grows_by_one_copy_of_the_map_a_step():
    x = torch.randn(1, 16, 64, 64)
    copy_bytes = x.numel() * x.element_size()

    def growth(checkpoint):
        flow = Flow(16, meta_encoder=dict(type='mmkd_fm.ConvMetaEncoder'), checkpoint=checkpoint)

        def call(steps):
            result = flow(x, steps, step_loss=lambda estimate, v, t: estimate.square().mean())
            result.loss.backward()
            flow.zero_grad()

        few, many = (peak_memory(lambda n=n: call(n), CPU) for n in (4, 12))
        return (many - few) / 8 / copy_bytes

    assert growth(checkpoint=True) == pytest.approx(1, abs=0.05)
    assert growth(checkpoint=False) > 5


def test_shared_storage_counts_once():
    x = torch.empty(10, 10)
    assert resident_bytes([x, x[2:], x.t(), torch.empty(5)]) == 400 + 20


# Time


def test_policy_average_is_the_expectation_of_the_draw():
    seconds = {1: [1.0, 2.0], 2: [2.0, 4.0], 4: [6.0, 3.0]}
    assert policy_average(seconds, [1, 2, 4]) == [3.0, 3.0]
    assert policy_average(seconds, [1, 1, 4]) == pytest.approx([8 / 3, 7 / 3])
    assert policy_average(seconds, [2]) == seconds[2]


def test_rounds_alternate_and_the_first_do_not_count():
    order, ticks = [], []
    calls = {name: lambda name=name: order.append(name) for name in 'abc'}
    seconds = interleave(calls, CPU, repeats=2, warmup=1, tick=lambda: ticks.append(0))
    assert ''.join(order) == 'abccbaabc'
    assert len(ticks) == 9
    assert {name: len(values) for name, values in seconds.items()} == dict(a=2, b=2, c=2)


def test_inner_phases_are_not_charged_to_outer_ones(monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 6.0, 7.0, 11.0])
    monkeypatch.setattr(benchmark_measure, 'now', lambda device: next(clock))
    watch, module = Stopwatch(CPU), torch.nn.Identity()
    with watch.phase('step'), watch.watching([(module, 'flow')]):
        module(torch.zeros(1))
        module(torch.zeros(1))
    assert watch.seconds == dict(step=1 + 2 + 4, flow=3 + 1)
    assert 'forward' not in vars(module)


# The models


@pytest.fixture(scope='module')
def model(retinanet, write_teacher):
    """Config of a small Distiller whose teacher can be loaded."""
    return ConfigDict(
        type='mmkd_fm.Distiller',
        student=retinanet(),
        teacher=write_teacher(retinanet(width=12, channels=24)),
        losses=dict(fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck', levels=[0, 1])),
    )


@pytest.fixture
def training(model):
    """A training of it with the depthwise encoder."""
    config = with_encoder(model, 'fmkt', 'DepthwiseMetaEncoder')
    return Training(config, raw_batch(1, (64, 96)), CPU, amp=False)


def test_steps_repeat_the_same_work(training):
    before = copy.deepcopy(training.distiller.state_dict())
    extras = copy.deepcopy(training.distiller.distill_losses.state_dict())
    training.choose(2, False).distillation_step()
    training.student_step()
    after = training.distiller.state_dict()
    weights = [name for name, _ in training.student.named_parameters()]
    assert all(torch.equal(before[name], after[name]) for name in weights)
    assert all(
        torch.equal(extras[name], value)
        for name, value in training.distiller.distill_losses.state_dict().items()
    )
    assert all(parameter.any() for parameter in training.distiller.distill_losses.parameters())


def test_resident_memory_grows_by_weights_and_momentum_of_the_flows(training):
    training.student_step()
    training.choose(1, False).distillation_step()
    extras = num_parameters(training.distiller.distill_losses)
    assert training.resident(True) - training.resident(False) == 4 * 2 * extras


def test_every_phase_is_seen(training):
    phases = training.choose(2, False).phases(distilled=True)
    assert set(phases) == set(PHASES)
    assert set(training.phases(distilled=False)) == set(PHASES) - {'flow forward', 'metric'}


def test_bare_metric_has_no_flow(model):
    config = with_encoder(model, 'fmkt', None)
    assert config.losses.fmkt == dict(type='mmkd_fm.PKDLoss', tap='neck', levels=[0, 1])
    assert model.losses.fmkt.type == 'mmkd_fm.FMKTLoss'


@pytest.mark.parametrize('name', ['ConvMetaEncoder', 'DepthwiseMetaEncoder', 'MLPMetaEncoder'])
def test_the_encoder_that_is_asked_for_is_measured(model, name):
    config = with_encoder(model, 'fmkt', name)
    flow = MODELS.build(config).distill_losses.fmkt.flows['0']
    assert type(flow.meta_encoder).__name__ == name
    assert default_encoder(config, 'fmkt') == name


def test_the_default_encoder_is_that_of_the_flow(model):
    flow = MODELS.build(model).distill_losses.fmkt.flows['0']
    assert default_encoder(model, 'fmkt') == type(flow.meta_encoder).__name__


def test_students(model, training):
    image = training.data['inputs']
    plain, flowing = plain_student(model), flow_student(model, 'fmkt')
    exported = exported_student(model, training.distiller)
    assert num_parameters(exported) == num_parameters(plain)
    assert gflops(exported, image) == gflops(plain, image)
    trained = training.student.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in exported.state_dict().items())
    # the flow's own figures add up to what FlowNeck adds
    costs = Training(model, raw_batch(1, (64, 96)), CPU, amp=False).flow_costs()
    assert list(costs) == [0, 1]
    parameters, step = (sum(values) for values in zip(*costs.values()))
    assert num_parameters(flowing) == num_parameters(plain) + parameters
    for nfe in (0, 1, 3):
        flowing.neck.nfe = nfe
        assert gflops(flowing, image) == pytest.approx(gflops(plain, image) + nfe * step)


def test_networks_that_read_proposals():
    """They take the sizes of the images from the samples."""
    cfg = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').model
    cfg.backbone.update(depth=18, base_channels=8, init_cfg=None)
    cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    cfg.roi_head.bbox_roi_extractor.out_channels = 16
    cfg.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32)
    model = MODELS.build(cfg).eval()
    data = model.data_preprocessor(raw_batch(1, (64, 96)), False)
    image, samples = data['inputs'], data['data_samples']
    shared = call_gflops(lambda: model.extract_feat(image))
    assert gflops(model, image, samples) > shared > 0
    assert latency(model, image, samples, repeats=1, warmup=0) > 0


# Logit losses


def test_variants_differ_in_what_is_compared_only():
    loss = dict(LOSSES['wttm'], gamma=0.3, weighting='none', form='background_softmax')
    configs = variants(ConfigDict(dict(loss, loss_weight=0.25)))
    assert list(configs) == [
        'wttm background_softmax on',
        'wttm background_softmax off',
        'wttm bernoulli on',
        'ttm background_softmax on',
        'ttm bernoulli on',
        'kd background_softmax on',
        'kd bernoulli on',
    ]
    own = dict(loss, diagnostics=False, loss_weight=1.0)
    assert configs['wttm background_softmax off'] == own
    ttm = dict(own, type='mmkd_fm.TTMLoss', form='bernoulli', diagnostics=True)
    assert configs['ttm bernoulli on'] == ttm
    kd = dict(ttm, type='mmkd_fm.KDLoss')
    del kd['gamma']
    assert configs['kd bernoulli on'] == kd
    only = variants(ConfigDict(loss), forms=['background_softmax'])
    assert list(only) == [name for name in configs if 'background_softmax' in name]
    backwards = variants(ConfigDict(dict(kd, temperature=2.0)))
    assert backwards['kd bernoulli on']['temperature'] == 2
    assert 'temperature' not in backwards['wttm bernoulli on']


@MODELS.register_module()
class CopiesLoss(torch.nn.Module):
    """Keeps so many copies of the student's logits for its backward pass."""

    def __init__(self, copies):
        super().__init__()
        self.copies = copies

    def forward(self, student, teacher):
        del teacher
        return sum((level * level.detach().clone()).sum() for level in student * self.copies)


@pytest.fixture
def logits(model):
    """Training of small RetinaNets with losses on their logits: `logits(losses)`."""

    def make(losses):
        return Training(with_losses(model, losses), raw_batch(2, (64, 96)), CPU, amp=False)

    return make


def test_memory_of_a_loss_alone_is_counted_in_logits(logits):
    tap = dict(type='CopiesLoss', tap='bbox_head', index=0)
    training = logits({f'keeps{n}': dict(tap, copies=n) for n in (2, 5)})
    anchors = sum(9 * -(-64 // stride) * -(-96 // stride) for stride in (8, 16, 32, 64, 128))
    assert training.logit_bytes('keeps2') == 2 * anchors * 3 * 4
    few, many = (peak_memory(training.loss_alone(name), CPU) for name in training.losses)
    assert many - few == 3 * training.logit_bytes('keeps2')


def test_only_what_is_kept_is_computed(logits):
    training = logits(variants(ConfigDict(LOSSES['wttm'])))
    for kept in ((), ('kd bernoulli on',)):
        losses = training.keep(*kept).distiller(**training.data, mode='loss')
        assert [name for name in losses if name.startswith('loss_') and ' ' in name] == [
            f'loss_{name}' for name in kept
        ]


def test_every_loss_is_measured_in_every_round(logits):
    configs = variants(ConfigDict(LOSSES['wttm']))
    training = logits({name: configs[name] for name in list(configs)[:3]})
    ticks = []
    meter = SimpleNamespace(tick=lambda: ticks.append(0))
    costs = measure(training, CPU, repeats=2, warmup=1, meter=meter)
    assert len(ticks) == number_of_calls(len(training.losses), repeats=2, warmup=1)
    assert [' '.join([c.name, c.form, c.diagnostics]) for c in costs] == list(training.losses)
    for cost in costs:
        rounds = (cost.seconds, cost.alone, cost.student, cost.teacher)
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in rounds)
        assert cost.logits == training.logit_bytes('wttm bernoulli on')
        assert cost.memory_alone >= cost.logits  # at least the gradient
        assert cost.base_memory > training.resident(True)
    assert costs[0].memory_alone > costs[1].memory_alone  # what the diagnostics take


# The report


@pytest.fixture
def report():
    """Two encoders, three numbers of steps, two rounds; the base takes 1 s and 1000 bytes."""

    def cost(encoder, steps, checkpoint):
        slower = 0.04 * steps * (2 if encoder == 'ConvMetaEncoder' else 1)
        memory = 1000 + 20 * steps * (1 if checkpoint else 5)
        return Cost(encoder, steps, checkpoint, [1 + slower, 2 + 2 * slower], [1, 2], memory, 1000)

    encoders = ('ConvMetaEncoder', 'DepthwiseMetaEncoder')
    variants = [(n, c) for n in (1, 2, 4) for c in (False, True)]
    return Report(
        settings=dict(config='some.py', rounds=2),
        encoder='DepthwiseMetaEncoder',
        policy=[1, 2],
        costs=[
            Cost(BARE, 0, False, [1.0, 2.0], [1, 2], 1000, 1000),
            *(cost(encoder, *variant) for encoder in encoders for variant in variants),
        ],
        student=[0.6, 0.7],
        teacher=[0.4, 0.3],
        flows={encoder: {0: (10, 0.5), 1: (10, 0.25)} for encoder in encoders},
        students=[
            Inference('plain', 100, 2.0, [1.0, 1.0]),
            Inference('exported', 100, 2.0, [1.0, 1.02]),
        ],
        phases=dict(base=dict.fromkeys(PHASES, 1.0), distillation=dict.fromkeys(PHASES, 1.1)),
    )


def test_targets(report):
    average = report.average('DepthwiseMetaEncoder', False)
    assert average.time == pytest.approx([1 + 0.04 * 1.5] * 2)
    assert average.space == pytest.approx(1.2)  # of the largest number of steps
    assert [met for _, _, met in report.targets()] == [True] * 5
    report.policy = [4]
    assert [met for _, _, met in report.targets()] == [False, True, True, True, True]
    report.students[1] = Inference('exported', 101, 2.0, [1.0, 1.2])
    assert [met for _, _, met in report.targets()] == [False, True, False, True, False]


def test_what_was_not_measured_is_not_judged(report):
    report.costs = [cost for cost in report.costs if not cost.checkpoint]
    assert [met for _, _, met in report.targets()][:2] == [True, None]
    assert 'not measured' in markdown(report)


def test_tables_are_complete(report):
    training, flows, inference, phases, targets = sheets(report)
    for sheet in sheets(report):
        assert all(len(row) == len(sheet.header) for row in sheet.rows)
    assert [row[:2] for row in training.rows] == [
        ['none', '0'],
        *([name, steps] for name in ('Conv', 'Depthwise') for steps in ('1', '2', '4', '1/2')),
    ]
    assert [training.rows[i][:2] for i in training.strong] == [['Depthwise', '1/2']]
    assert training.rows[-1][2:] == ['1.06 (1.06-1.06)', '1.06 (1.06-1.06)', '1.20', '1.04']
    assert flows.rows[0] == ['Conv', '0.000 M', '0.5000', '0.2500', '0.7500', '37.5%']
    assert [row[0] for row in inference.rows] == ['plain', 'exported']
    assert [row[0] for row in phases.rows] == [*PHASES, 'all']
    assert phases.rows[-1][1:] == ['100.0', '110.0']
    assert [row[2] for row in targets.rows] == ['OK'] * 5
    text = markdown(report)
    assert '| **Depthwise** | **1/2** |' in text
    assert text.count('\n## ') == 5


@pytest.fixture
def logit_report():
    """WTTM with and without diagnostics: 4 and 2 percent slower, 2.5 and 2 logits more."""

    def cost(diagnostics, slower, added):
        seconds = [1 + slower, 2 * (1 + slower)]
        time = dict(seconds=seconds, alone=[0.01, 0.02], student=[0.6, 1.2], teacher=[0.4, 0.8])
        memory = dict(added=added, memory_alone=added + 100, logits=1000, base_memory=9000)
        return LogitCost('wttm', 'bernoulli', diagnostics, **time, **memory)

    return Report(dict(rounds=2), logits=[cost('on', 0.04, 2500), cost('off', 0.02, 2000)])


def test_targets_of_the_logit_loss_are_those_of_the_config_s_own(logit_report):
    assert [met for _, _, met in logit_report.targets()] == [True, True]
    logit_report.logits[1].added = 9999
    assert [met for _, _, met in logit_report.targets()] == [True, True]
    logit_report.logits[0].added = 3001
    assert [met for _, _, met in logit_report.targets()] == [True, False]
    logit_report.logits[0].teacher = [0.3, 0.6]
    assert [met for _, _, met in logit_report.targets()] == [False, False]


def test_report_has_the_parts_that_were_measured(report, logit_report):
    table, targets = sheets(logit_report)
    assert table.rows == [
        ['wttm', 'bernoulli', 'on', '1.040 (1.040-1.040)', '0.010 (0.010-0.010)', '2.50', '2.60'],
        ['wttm', 'bernoulli', 'off', '1.020 (1.020-1.020)', '0.010 (0.010-0.010)', '2.00', '2.10'],
    ]
    assert len(targets.rows) == 2
    report.logits = logit_report.logits
    assert [len(sheets(r)) for r in (report, logit_report)] == [6, 2]
    assert len(report.targets()) == 7


def test_ratios_pair_the_rounds():
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


# All of it


@pytest.fixture
def measured(tmp_path):
    """Run the tool on a small batch: `measured(config, *options)`; gives JSON, tables, output."""

    def run(config, *options):
        out, tables = tmp_path / 'figures/out.json', tmp_path / 'tables.md'
        command = [sys.executable, str(TOOL), str(CONFIGS / config), '--device', 'cpu']
        command += ['--size', '64', '64', '--batch', '1', '--repeats', '1', *options]
        command += ['--out', str(out), '--markdown', str(tables)]
        env = dict(os.environ, OMP_NUM_THREADS='1')
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(out.read_text()), tables.read_text(), done.stdout

    return run


@pytest.mark.slow
def test_wttm_from_beginning_to_end(measured):
    config = 'bccd/fmkt-wttm_retinanet_r18_r18-quarter_bccd.py'
    report, tables, shown = measured(config, '--only', 'wttm')
    assert not report['costs'] and not report['flows']
    assert len(report['logits']) == 7
    assert tables.count('\n## ') == 2
    for name in ('wttm', 'ttm', 'kd'):
        assert f'| {name} | background_softmax | on |' in tables
    assert 'Targets' in shown


@pytest.mark.slow
def test_benchmark_from_beginning_to_end(measured):
    options = ['--encoders', 'DepthwiseMetaEncoder', 'MLPMetaEncoder', '--steps', '0', '1']
    config = 'bccd/fmkt_retinanet_r18_r18-quarter_bccd.py'
    report, tables, shown = measured(config, *options)
    kinds = {(c['encoder'], c['steps'], c['checkpoint']) for c in report['costs']}
    encoders = {report['encoder'], 'DepthwiseMetaEncoder', 'MLPMetaEncoder'}
    assert kinds == {(BARE, 0, False)} | {
        (encoder, steps, checkpoint)
        for encoder in encoders
        for steps in {1, *report['policy']}
        for checkpoint in (False, True)
    }
    assert set(report['flows']) == encoders
    plain, exported = report['students'][:2]
    assert [exported[key] for key in ('parameters', 'gflops')] == [
        plain[key] for key in ('parameters', 'gflops')
    ]
    assert all(cost['memory'] > 0 for cost in report['costs'])
    assert not report['logits']
    assert 'exported student: parameters' in tables
    assert 'Targets' in shown


def test_students_that_learn_masks_are_given_masks(logits):
    kd = dict(type='mmkd_fm.KDLoss', tap='bbox_head', index=0, temperature=1.0)
    assert 'masks' not in logits(dict(kd=kd)).data['data_samples'][0].gt_instances
    sample = raw_batch(1, (64, 96), with_masks=True)['data_samples'][0]
    assert len(sample.gt_instances.masks) == len(sample.gt_instances.bboxes)
