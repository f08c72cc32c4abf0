import copy

import pytest
import torch
from mmdet.models.roi_heads import SingleRoIExtractor
from mmengine.logging import MMLogger
from torch import nn

from mmkd_fm.functional import decouple_pairs, draw_num_steps, pkd_loss, transport
from mmkd_fm.models import FlowedPyramid, FlowNeck, FMKTLoss, meta_encoders
from mmkd_fm.models.alignment import Level, Tapped
from mmkd_fm.models.taps import Tap

FPN = dict(type='FPN', in_channels=[4, 8, 16], out_channels=6, num_outs=4)


def maps(batch=2, **kwargs):
    torch.manual_seed(5)
    return tuple(
        torch.randn(batch, c, s, s, **kwargs) for c, s in zip(FPN['in_channels'], (16, 8, 4))
    )


def moved(model):
    """Away from the zero velocity of the beginning."""
    for name, parameter in model.named_parameters():
        if name.endswith('meta_encoder.conv2.weight'):
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def neck(mmdet_scope, iteration):
    """Build a FlowNeck around a small FPN: `neck(**kwargs)`."""

    def make(**kwargs):
        torch.manual_seed(0)
        return moved(FlowNeck(neck=copy.deepcopy(FPN), **kwargs))

    return make


@pytest.mark.parametrize('nfe', [0, 1, 3])
@pytest.mark.parametrize('solver', ['euler', 'heun'])
def test_inference_passes_on_the_transported_levels(neck, nfe, solver):
    model = neck(levels=[0, 2], nfe=nfe, solver=solver).eval()
    outputs, plain = model(maps()), model.neck(maps())
    assert type(outputs) is tuple
    for level, (output, x) in enumerate(zip(outputs, plain)):
        expected = x
        if level in (0, 2):
            flow = model.flows[str(level)]
            expected = transport(
                x,
                lambda z, t, flow=flow: flow.meta_encoder(z, flow.time_embedding(t, z)),
                nfe,
                solver=solver,
            ).endpoint
        torch.testing.assert_close(output, expected)
        assert torch.equal(output, x) == (nfe == 0 or level not in (0, 2))


@pytest.mark.parametrize('solver', ['midpoint', 'heun'])
def test_the_solver_is_that_of_inference_alone(neck, solver):
    """Training takes Euler steps, one evaluation each, whatever is evaluated with."""
    models = [neck(flow=dict(num_steps=2), nfe=2, solver=one) for one in ('euler', solver)]
    calls = []
    models[1].flows['0'].meta_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    assert all(map(torch.equal, *(model(maps()) for model in models)))
    assert len(calls) == 2
    ours, theirs = (model.eval()(maps()) for model in models)
    assert not any(map(torch.equal, ours, theirs)) and len(calls) == 2 + 4


def test_measuring_the_channels_leaves_the_statistics_of_the_neck(mmdet_scope):
    from mmkd_fm.registry import MODELS

    config = dict(FPN, norm_cfg=dict(type='BN'))
    plain, wrapped = MODELS.build(copy.deepcopy(config)), FlowNeck(neck=copy.deepcopy(config)).neck
    names = [name for name, _ in plain.named_buffers()]
    assert len(names) > 3
    for name in names:
        assert torch.equal(wrapped.state_dict()[name], plain.state_dict()[name]), name
    assert all(module.training for module in wrapped.modules())


def test_the_neck_alone_trains_all_its_parameters(neck):
    model = neck(flow=dict(num_steps=[1, 2]))
    outputs = model(maps())
    assert type(outputs) is tuple
    sum(level.square().sum() for level in outputs).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_no_steps_without_a_loss_are_refused(neck):
    model = neck(flow=dict(num_steps=[0, 1]))
    with pytest.raises(ValueError, match=r"num_steps=\[0, 1\]: .* FMKTLoss with flow='neck'"):
        model(maps())
    assert len(model.eval()(maps())) == 4  # at inference they may be any


def test_all_levels_take_the_steps_of_the_iteration(neck, iteration):
    model = neck(flow=dict(num_steps=[1, 2, 4], seed=3))
    model.supervised = True
    for i in range(6):
        iteration(i)
        transports = model(maps()).transports
        assert {len(t.times) for t in transports.values()} == {draw_num_steps((1, 2, 4), 3, i)}


def test_with_no_steps_the_head_reads_the_neck_and_the_loss_the_flow(neck, iteration):
    model = neck(flow=dict(num_steps=[0, 2, 4], seed=0))
    model.supervised = True
    drawn = [draw_num_steps((0, 2, 4), 0, i) for i in range(10)]
    iteration(drawn.index(0))
    pyramid = model(maps())
    assert isinstance(pyramid, FlowedPyramid)
    for level, source in enumerate(pyramid.sources):
        assert pyramid[level] is source
        assert len(pyramid.transports[level].times) == 2  # the smallest that trains the flow
    iteration(drawn.index(4))
    pyramid = model(maps())
    for level, transported in pyramid.transports.items():
        assert pyramid[level] is transported.endpoint
        assert transported.estimates.shape == (4, *pyramid.sources[level].shape)


@pytest.mark.parametrize('ratio', [0.0, 0.5])
def test_decoupled_pairs_are_compared_with_other_teachers(neck, iteration, ratio):
    """Those that the seed of the neck's flows draws in this iteration."""
    iteration(3)
    model = neck(flow=dict(num_steps=2, seed=3))
    levels = tuple(Level(FPN['out_channels'], 4 * 2**i) for i in range(4))
    taps = [Tapped(owner, Tap('neck'), model, levels) for owner in ('student', 'teacher')]
    losses = [FMKTLoss(flow='neck', pair_ratio=share) for share in (ratio, 1)]
    for loss in losses:
        loss.connect(*taps)
    pyramid = model(maps(batch=4))
    teacher = [torch.randn_like(x) for x in pyramid]
    order = decouple_pairs(4, ratio, seed=3, iteration=3)
    assert order.tolist() != [0, 1, 2, 3]
    value = losses[0](pyramid, teacher)['loss']
    torch.testing.assert_close(value, losses[1](pyramid, [x[order] for x in teacher])['loss'])
    assert not torch.allclose(value, losses[1](pyramid, teacher)['loss'])


def test_the_wrapped_neck_is_built_as_alone(mmdet_scope):
    from mmkd_fm.registry import MODELS

    torch.manual_seed(3)
    plain, after = MODELS.build(copy.deepcopy(FPN)), torch.rand(3)
    torch.manual_seed(3)
    wrapped = FlowNeck(neck=copy.deepcopy(FPN)).neck
    assert torch.equal(torch.rand(3), after)
    for name, value in plain.state_dict().items():
        assert torch.equal(wrapped.state_dict()[name], value), name


def test_levels_start_from_different_weights(neck):
    flows = neck().flows
    assert not torch.equal(
        flows['0'].meta_encoder.conv1.weight, flows['1'].meta_encoder.conv1.weight
    )


def test_a_plain_checkpoint_becomes_the_wrapped_neck(neck):
    model = neck()
    plain = {f'{k}': torch.randn_like(v) for k, v in model.neck.state_dict().items()}
    result = model.load_state_dict(dict(plain), strict=False)
    assert not result.unexpected_keys
    assert all(key.startswith('flows.') for key in result.missing_keys)
    assert all(torch.equal(v, plain[k]) for k, v in model.neck.state_dict().items())
    state = copy.deepcopy(model.state_dict())
    assert {key.split('.')[0] for key in state} == {'neck', 'flows'}
    neck().load_state_dict(state, strict=True)


def test_a_part_of_its_own_state_is_its_own(neck):
    """Such as the statistics that mmdet's SyncNormHook hands from rank to rank."""
    model = neck()
    part = {k: torch.full_like(v, 3) for k, v in model.state_dict().items() if 'lateral' in k}
    assert part and model.load_state_dict(dict(part), strict=False).unexpected_keys == []
    assert all(torch.equal(model.state_dict()[key], value) for key, value in part.items())


def test_a_pretrained_init_cfg_brings_its_flows(neck, tmp_path):
    trained = neck()
    nn.init.ones_(trained.flows['1'].meta_encoder.conv1.weight)
    torch.save(dict(state_dict={f'neck.{k}': v for k, v in trained.state_dict().items()}),
               tmp_path / 'trained.pth')  # fmt: skip
    checkpoint = dict(type='Pretrained', checkpoint=str(tmp_path / 'trained.pth'), prefix='neck')
    model = neck(init_cfg=checkpoint)
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]), key


def test_channels_are_measured_also_of_a_list_of_necks(mmdet_scope):
    bfp = dict(type='BFP', in_channels=6, num_levels=4, refine_level=1)
    model = FlowNeck(neck=[copy.deepcopy(FPN), bfp])
    assert [flow.meta_encoder.conv1.in_channels for flow in model.flows.values()] == [6] * 4
    assert len(model(maps())) == 4


@pytest.mark.parametrize(
    ('config', 'sides', 'channels'),
    [
        (  # small maps vanish in it
            dict(
                type='SSDNeck',
                in_channels=(8, 12),
                out_channels=(8, 12, 6, 4, 4),
                level_strides=(2, 2, 1),
                level_paddings=(1, 1, 0),
            ),
            (38, 19),
            [8, 12, 6, 4, 4],
        ),
        (  # its channels begin with the coarsest map, as its levels do
            dict(type='YOLOV3Neck', num_scales=3, in_channels=[16, 8, 4], out_channels=[8, 4, 2]),
            (16, 8, 4),
            [8, 4, 2],
        ),
    ],
    ids=['SSD', 'YOLOv3'],
)
def test_necks_that_need_large_maps_or_name_the_coarsest_first(
    config, sides, channels, mmdet_scope
):
    model = FlowNeck(neck=dict(config)).eval()
    found = [flow.meta_encoder.conv1.in_channels for flow in model.flows.values()]
    assert found == channels and model.neck.training is False
    in_channels = sorted(config['in_channels'])
    inputs = tuple(torch.randn(2, c, s, s) for c, s in zip(in_channels, sides))
    assert [x.shape[1] for x in model(inputs)] == channels


def test_a_neck_of_other_channels_is_told_its_own_error(mmdet_scope):
    with pytest.raises(RuntimeError, match='to have 4 channels, but got 8 channels'):
        FlowNeck(neck=dict(FPN), in_channels=[8, 4, 16])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(nfe=-1), 'nfe must be a whole number of steps, 0 or more, but got -1'),
        (dict(nfe=1.5), 'nfe must be a whole number'),
        (dict(solver='rk4'), "unknown solver 'rk4'; valid names: euler, heun, midpoint"),
        (dict(levels=[0, 4]), 'the neck has the levels 0 to 3'),
        (dict(levels=[]), r'levels=\[\]: expected a list of indices.*None takes all 4'),
        (dict(levels=0), 'levels=0: expected a list of indices'),
        (dict(levels=[1, 1]), 'a level is named twice'),
        (dict(flow=dict(meta_encoder=dict(type='No'))), 'valid names: mmkd_fm.ConvMetaEncoder'),
    ],
)
def test_bad_arguments(neck, options, message):
    with pytest.raises(ValueError, match=message):
        neck(**options)


def test_a_neck_that_does_not_say_its_channels_asks_for_them(mmdet_scope):
    bfp = dict(type='BFP', in_channels=6, num_levels=2, refine_level=1)
    with pytest.raises(ValueError, match=r'BFP .* in_channels is 6. Give them .* in_channels=\['):
        FlowNeck(neck=dict(bfp))
    assert len(FlowNeck(neck=dict(bfp), in_channels=[6, 6]).flows) == 2


@pytest.mark.parametrize('encoder', ['DepthwiseMetaEncoder', 'ConvMetaEncoder', 'MLPMetaEncoder'])
@pytest.mark.parametrize(
    'embedding', ['LinearTimeEmbedding', 'MLPTimeEmbedding', 'StepBranchTimeEmbedding']
)
def test_a_half_precision_model_gives_maps_near_those_of_float32(neck, encoder, embedding):
    flow = dict(meta_encoder=dict(type=encoder), time_embedding=dict(type=embedding))
    model = neck(nfe=3, flow=flow).eval()
    for name, parameter in model.named_parameters():
        if name.endswith('norms.0.weight'):
            nn.init.constant_(parameter, 0.5)  # the velocity of an MLP is no longer zero
    expected, plain = model(maps()), model.neck(maps())
    half = model.bfloat16()([x.bfloat16() for x in maps()])
    for ours, theirs, source in zip(half, expected, plain):
        assert ours.dtype == torch.bfloat16
        moved_by = (theirs - source).norm() / source.norm()
        assert moved_by > 0.03
        assert (ours.float() - theirs).norm() / theirs.norm() < moved_by / 4


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('solver', ['euler', 'midpoint', 'heun'])
@pytest.mark.parametrize(
    'encoder', sorted(name for name in dir(meta_encoders) if name.endswith('MetaEncoder'))
)
def test_a_traced_neck_serves_images_of_other_sizes(neck, encoder, solver):
    """As an export to ONNX needs it: nothing of the traced image's size is kept."""
    flow = dict(meta_encoder=dict(type=encoder))
    model = neck(nfe=3, solver=solver, flow=flow).eval().requires_grad_(False)
    for parameter in model.flows.parameters():
        nn.init.normal_(parameter, std=0.3)
    traced = torch.jit.trace(lambda *levels: model(levels), maps(), check_trace=False)
    others = [torch.randn(3, x.shape[1], x.shape[2] + 3, 2 * x.shape[3] + 1) for x in maps()]
    plain = model.neck(others)
    for output, expected, source in zip(traced(*others), model(others), plain):
        assert (expected - source).norm() > 0.01 * source.norm()
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize('levels', [[0, 1], [2, 3]])
def test_under_autocast_all_levels_have_one_dtype(neck, levels):
    """The necks' at inference; RoI extractors make their output after the first level."""
    extractor = SingleRoIExtractor(
        roi_layer=dict(type='RoIAlign', output_size=2, sampling_ratio=0),
        out_channels=FPN['out_channels'],
        featmap_strides=[4, 8, 16, 32],
    )
    rois = torch.tensor([[0, 4.0, 4.0, 40.0, 40.0], [1, 0.0, 0.0, 60.0, 62.0]])
    model = neck(nfe=2, levels=levels).eval()
    with torch.autocast('cpu', torch.bfloat16):
        assert {level.dtype for level in model(maps())} == {torch.bfloat16}
        outputs = model.train()(maps())
        assert {level.dtype for level in outputs} == {torch.float32}
        assert extractor(outputs, rois).isfinite().all()


@pytest.mark.parametrize('encoder', ['DepthwiseMetaEncoder', 'ConvMetaEncoder'])
def test_flows_begin_as_built_whatever_the_detectors_init_cfg(detectors, build, encoder):
    config = wrap(detectors['retinanet'](), flow=dict(meta_encoder=dict(type=encoder)))
    config.init_cfg = dict(type='Kaiming', layer='Conv2d')
    model = build(config).eval()
    wrapped = model.neck.neck.lateral_convs[0].conv.weight.clone()
    model.init_weights()
    x = model.backbone(torch.randn(1, 3, 64, 64))
    assert not torch.equal(model.neck.neck.lateral_convs[0].conv.weight, wrapped)
    assert all(map(torch.equal, model.neck(x), model.neck.neck(x)))


# In a detector, drawn to a teacher by an FMKTLoss.


def wrap(config, **kwargs):
    config.neck = dict(type='mmkd_fm.FlowNeck', neck=config.neck, levels=[0, 1, 2, 3], **kwargs)
    return config


FROM_NECK = dict(fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck', flow='neck', theta_weight=2.0))


@pytest.fixture
def flowed(distiller, detectors, iteration):
    """A Distiller whose student has a FlowNeck: `flowed(flow=None, kind='retinanet', **kwargs)`."""

    def make(flow=None, kind='retinanet', losses=FROM_NECK, **kwargs):
        student = wrap(detectors[kind](), flow=flow or dict(num_steps=2), nfe=2)
        return moved(distiller(kind, losses, student=student, model_seed=0, **kwargs))

    return make


@pytest.mark.parametrize('kind', ['retinanet', 'gfl'])
@pytest.mark.parametrize('checkpoint', [False, True])
def test_the_loss_compares_the_steps_that_the_head_reads(
    flowed, raw_batch, loss_of, kind, checkpoint
):
    model = flowed(dict(num_steps=3, checkpoint=checkpoint), kind)
    compared = []
    model.distill_losses['fmkt'].register_forward_pre_hook(lambda m, args: compared.extend(args))
    _, losses = loss_of(model, raw_batch())
    pyramid, teacher = compared
    decoders = model.distill_losses['fmkt'].objectives
    expected, theta = 0, 0
    for level in range(4):
        flow, x = pyramid.transports[level], pyramid.sources[level]
        assert pyramid[level] is flow.endpoint
        for estimate in flow.estimates:
            decoded = decoders[level].decode(estimate)
            expected += pkd_loss(decoded, teacher[level]) / 3
        theta += 2 * pkd_loss(x, flow.endpoint.detach())
    torch.testing.assert_close(losses['loss_fmkt'], expected)
    torch.testing.assert_close(losses['loss_fmkt_theta'], theta)
    assert losses['fmkt_steps'] == 3


@pytest.mark.parametrize('weight', [None, 0.0])  # as a LossWeightHook may make it
@pytest.mark.parametrize('num_steps', [[0, 1, 2], [1, 2]])
def test_every_parameter_has_a_gradient_at_every_draw(
    flowed, raw_batch, loss_of, iteration, num_steps, weight
):
    """So that distributed training needs no search for unused parameters."""
    model = flowed(dict(num_steps=num_steps))
    if weight is not None:
        model.distill_losses['fmkt'].loss_weight = weight
        model.distill_losses['fmkt'].theta_weight = weight
    for i in range(6):
        iteration(i)
        model.zero_grad()
        loss_of(model, raw_batch())[0].backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_recomputed_steps_have_equal_gradients(flowed, raw_batch, loss_of):
    gradients = []
    for checkpoint in (False, True):
        model = flowed(dict(num_steps=3, checkpoint=checkpoint), seed=0)
        loss_of(model, raw_batch())[0].backward()
        gradients.append([p.grad for p in model.parameters()])
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_checkpoint_is_that_of_the_student_with_its_flow(flowed, build, detectors):
    model = flowed()
    student = build(wrap(detectors['retinanet'](), flow=dict(num_steps=2)))
    student.load_state_dict(model.state_dict(), strict=True)
    assert any(key.startswith('neck.flows.0.meta_encoder') for key in model.state_dict())
    assert model.neck.supervised and not student.neck.supervised


def test_no_teacher_reaches_an_encoder(flowed, distiller, raw_batch, loss_of):
    """What the encoders are given does not change with the teacher's weights, to the last bit."""
    for make in (flowed, lambda: moved(distiller(losses=dict(fmkt=OWN), model_seed=0))):
        seen = []
        for scale in (1, 3):
            model, given = make(), []
            for p in model.teacher.model.parameters():
                p.data.mul_(scale)
            for module in model.modules():
                if type(module).__name__ == 'DepthwiseMetaEncoder':
                    module.register_forward_pre_hook(
                        lambda m, inputs, given=given: given.extend(inputs)
                    )
            seen.append((loss_of(model, raw_batch())[1]['loss_fmkt'].item(), given))
        assert seen[0][0] != seen[1][0]
        assert len(seen[0][1]) == 2 * 4 * 2  # inputs, levels, steps
        assert all(map(torch.equal, seen[0][1], seen[1][1]))


OWN = dict(type='mmkd_fm.FMKTLoss', tap='neck', levels=[0, 1, 2, 3], flow=dict(num_steps=2))


@pytest.mark.parametrize(
    ('num_steps', 'weight', 'expected'),
    [([1, 2], None, 0), ([0, 2], None, 1), ([1, 2], 3.0, 3), ([0, 2], 0, 0)],
)
def test_theta_is_there_where_the_head_reads_the_source(flowed, num_steps, weight, expected):
    """Or where it is asked for."""
    loss = dict(type='mmkd_fm.FMKTLoss', tap='neck', flow='neck')
    loss.update({} if weight is None else dict(theta_weight=weight))
    model = flowed(dict(num_steps=num_steps), losses=dict(fmkt=loss), load=False)
    assert model.distill_losses['fmkt'].theta_weight == expected


@pytest.mark.parametrize('weight', [None, 0])
def test_without_theta_the_source_is_drawn_by_the_flow_alone(flowed, raw_batch, loss_of, weight):
    loss = dict(type='mmkd_fm.FMKTLoss', tap='neck', flow='neck', theta_weight=weight)
    _, losses = loss_of(flowed(losses=dict(fmkt=loss)), raw_batch())
    assert 'loss_fmkt' in losses and 'loss_fmkt_theta' not in losses


@pytest.mark.parametrize('beside', [False, True])
def test_a_flow_of_its_own_starts_from_what_the_head_reads(flowed, raw_batch, loss_of, beside):
    """Whether or not another loss reads the flow of the neck."""
    neck = FROM_NECK if beside else {}
    model = flowed(losses=dict(neck, own=dict(OWN, theta_weight=3.0)))
    loss, compared, read = model.distill_losses['own'], [], []
    loss.register_forward_pre_hook(lambda m, args: compared.extend(args))
    model.bbox_head.register_forward_pre_hook(lambda m, args: read.extend(args[0]))
    total, losses = loss_of(model, raw_batch())
    teacher, expected, theta = compared[1], 0, 0
    for level, (flow, objective) in enumerate(zip(loss.flows.values(), loss.objectives)):
        steps = flow(read[level], keep_steps=True)
        expected += sum(pkd_loss(objective.decode(e), teacher[level]) for e in steps.estimates) / 2
        theta += 3 * pkd_loss(read[level], steps.endpoint.detach())
    torch.testing.assert_close(losses['loss_own'], expected)
    torch.testing.assert_close(losses['loss_own_theta'], theta)
    total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(flow='head'), "flow is a dict with the arguments of Flow, or 'neck'; got 'head'"),
        (dict(flow=[2]), r"flow is a dict with the arguments of Flow, or 'neck'; got \[2\]"),
        (dict(flow='neck'), r"reads the flows of a FlowNeck, but student 'neck' .* is FPN; wrap"),
        (dict(flow=dict(num_steps=[0, 1])), 'the head always reads the features of 0 steps'),
        (dict(pair_ratio=1.5), r'ratio of kept pairs must be in \[0, 1\], but got 1.5'),
    ],
)
def test_losses_that_do_not_fit_the_student(distiller, options, message):
    with pytest.raises(ValueError, match=message):
        distiller(losses=dict(fmkt=dict(OWN, **options)), load=False)


@pytest.mark.parametrize('metric', ['PKDLoss', 'CosineLoss'])
def test_the_detector_teaches_velocities_their_size(flowed, raw_batch, loss_of, caplog, metric):
    """The authors' form: the head reads the end of the flow, whose metric sees no size."""
    objective = dict(type='mmkd_fm.VelocityMatching', train_teacher_map=True)
    loss = dict(FROM_NECK['fmkt'], objective=objective, metric=dict(type=metric), theta_weight=0)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    model = flowed(dict(num_steps=1), losses=dict(fmkt=loss))
    logger.removeHandler(caplog.handler)
    assert f'VelocityMatching with {metric}: the metric ignores scale' in caplog.text
    losses = loss_of(model, raw_batch())[1]
    weight = model.neck.flows['0'].meta_encoder.conv2.weight  # the velocity is linear in it

    def derivative(loss):
        return (torch.autograd.grad(loss, weight, retain_graph=True)[0] * weight).sum().abs()

    task = derivative(sum(losses['loss_cls']) + sum(losses['loss_bbox']))
    assert derivative(losses['loss_fmkt']) < 1e-3 * task


def test_levels_that_are_not_the_necks_are_refused(flowed):
    with pytest.raises(ValueError, match=r'levels=\[0, 1\], but the FlowNeck transports \[0, 1, 2'):
        flowed(losses=dict(fmkt=dict(FROM_NECK['fmkt'], levels=[0, 1])), load=False)


def test_levels_of_the_neck_without_a_partner_name_the_option_of_the_student():
    levels = dict(student=(8, 16, 32), teacher=(16, 32))
    neck = FlowNeck(neck=dict(type='mmdet.FPN', in_channels=[4, 4], out_channels=6, num_outs=3))
    student, teacher = (
        Tapped(owner, Tap('neck'), neck, tuple(Level(6, s) for s in strides))
        for owner, strides in levels.items()
    )
    loss = FMKTLoss(flow='neck')
    message = r'transports \[0, 1, 2\], but of .* the levels \[0\] have no partner in .*'
    with pytest.raises(ValueError, match=message + r'neck=dict\(levels=\[1, 2\], \.\.\.\)'):
        loss.connect(student, teacher)


def test_features_that_are_not_finite_name_the_term(flowed, raw_batch, loss_of):
    model = flowed()
    next(model.neck.flows['0'].meta_encoder.parameters()).data.fill_(float('nan'))
    with pytest.raises(FloatingPointError, match='not finite: loss_fmkt, loss_fmkt_theta'):
        loss_of(model, raw_batch())


def test_without_weight_it_is_the_student_with_its_flow(flowed, raw_batch, loss_of):
    """Bit for bit, and the teacher is not built."""
    model = flowed(losses=dict(fmkt=dict(FROM_NECK['fmkt'], loss_weight=0)))
    assert model.teacher is None and not model.neck.supervised
    alone = copy.deepcopy(model.student).train()
    ours, theirs = (loss_of(m, raw_batch()) for m in (model, alone))
    assert torch.equal(ours[0], theirs[0])
    for one in (ours, theirs):
        one[0].backward()
    for (name, p), q in zip(model.named_parameters(), alone.parameters()):
        assert torch.equal(p.grad, q.grad), name


def test_a_loss_in_eval_mode_asks_for_training_mode(flowed, raw_batch, loss_of):
    with pytest.raises(RuntimeError, match=r'in training mode alone; call model\.train\(\)'):
        loss_of(flowed().eval(), raw_batch())
