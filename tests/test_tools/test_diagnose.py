"""The diagnosis of a training: its mathematics on small models, its files, and its errors."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from mmengine.structures import InstanceData

import diagnose
import diagnose_detection as detection
import diagnose_distances as distances
import diagnose_gradients as gradients
import diagnose_locations as locations
import diagnose_report as report
import diagnose_scores as scores
from diagnose_calibration import Calibration
from diagnose_data import TestImages as Images  # a name that pytest does not collect
from diagnose_data import Truth, View
from diagnose_models import LeftOut, ScoreHead, Subject, load_subject
from make_demo_data import CLASSES, Spec, make_demo_data
from mmkd_fm.functional import pkd_loss, transport
from mmkd_fm.models.head_logits import read_head
from mmkd_fm.models.probe import measure_taps
from mmkd_fm.models.taps import Tap, record

ROOT = Path(__file__).resolve().parents[2]
PKD = dict(type='mmkd_fm.PKDLoss', tap='neck')


def subject_of(model):
    """A built model, with the heads that loading would have measured."""
    subject = Subject(model, {}, 0, 0)
    owners = dict(student=subject.student)
    if subject.teacher is not None:
        owners['teacher'] = subject.teacher.model
    for owner, part in owners.items():
        tapped = measure_taps(part, {owner: Tap('bbox_head', 0)}, owner)[owner]
        subject.heads[owner] = ScoreHead(tapped, read_head(tapped, 'test'))
    model.eval()
    return subject


def view_of(model, raw):
    """A batch as `TestImages` gives it."""
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    truths = []
    for sample in data['data_samples']:
        instances = sample.gt_instances
        crowd = torch.zeros(len(instances), dtype=torch.bool)
        truths.append(Truth(instances.bboxes, instances.labels, crowd))
        sample.ignored_instances = InstanceData(bboxes=instances.bboxes[:0])
    return View(raw, data['inputs'], data.get('teacher_inputs'), data['data_samples'], truths)


# Gradients


def loss_gradients(model, loss):
    """Of a loss on the parts of its student, by a backward pass of its own."""
    model.zero_grad()
    loss.backward()
    return {
        part: torch.cat(
            [
                (p.new_zeros(p.shape) if p.grad is None else p.grad).flatten()
                for name, p in model.named_parameters()
                if name.startswith(f'{part}.')
            ]
        ).clone()
        for part in ('backbone', 'neck', 'bbox_head')
    }


def test_gradients_are_those_of_each_loss_alone(distiller, retinanet, build, raw_batch):
    model = distiller(model_seed=0).train()
    parts = gradients.parameters_by_part(model.student)
    assert list(parts) == ['backbone', 'neck', 'bbox_head']
    data = model.data_preprocessor(raw_batch(), True)
    found = gradients.gradients_of(gradients.loss_terms(model, data), parts)
    assert list(found) == ['task', 'loss_fmkt', 'loss_fmkt_theta', 'loss_wttm', 'loss_pkd']
    for name in list(found)[1:]:
        alone = loss_gradients(model, model(**data, mode='loss')[name])
        for part in parts:
            torch.testing.assert_close(found[name][part], alone[part], rtol=1e-4, atol=1e-6)
    assert not found['loss_pkd']['bbox_head'].any() and found['loss_pkd']['neck'].any()
    plain = build(retinanet())
    plain.load_state_dict(model.state_dict())
    data = plain.data_preprocessor(raw_batch(), True)
    alone = loss_gradients(plain, plain.parse_losses(plain(**data, mode='loss'))[0])
    for part in parts:
        torch.testing.assert_close(found['task'][part], alone[part], rtol=1e-4, atol=1e-6)


def test_norms_shares_and_cosines():
    g = torch.tensor([3.0, 4.0])
    across = torch.tensor([-4.0, 3.0])
    rows = gradients.compare(
        dict(
            task=dict(neck=g, head=g),
            same=dict(neck=2 * g, head=across),
            against=dict(neck=-g, head=torch.zeros(2)),
        )
    )
    of = {key: (row['norm'], row['share'], row['cosine']) for key, row in rows.items()}
    assert of['task', 'neck'] == pytest.approx((5, 1 / 4, 1))
    assert of['same', 'neck'] == pytest.approx((10, 1 / 2, 1))
    assert of['against', 'neck'] == pytest.approx((5, 1 / 4, -1))
    assert of['same', 'head'] == pytest.approx((5, 1 / 2, 0))
    assert of['against', 'head'] == (0, 0, None)  # nothing has no direction
    root = math.sqrt(2)
    total = 5 * root + 5 * math.sqrt(5) + 5
    assert of['task', 'student'] == pytest.approx((5 * root, 5 * root / total, 1))
    # (50 + 0) / (sqrt(125) sqrt(50))
    assert of['same', 'student'][2] == pytest.approx(50 / math.sqrt(125 * 50))
    parts = {name: dict(neck=value) for name, value in dict(task=g + across, a=g, b=across).items()}
    rows = gradients.compare(parts, whole=True)
    assert [rows[name, 'neck']['share'] for name in 'ab'] == pytest.approx([0.5, 0.5])


def test_means_and_deviations():
    rows = [dict(norm=1.0, cosine=None), dict(norm=3.0, cosine=0.5)]
    expected = dict(norm=2.0, norm_deviation=math.sqrt(2), cosine=0.5, cosine_deviation=None)
    assert gradients.average(rows) == pytest.approx(expected)


def test_measuring_gradients_updates_nothing(distiller, raw_batch, generators, iteration):
    iteration(3)
    model = distiller()
    model.eval()
    before, drawn = copy.deepcopy(dict(model.named_buffers())), generators()
    weights = copy.deepcopy(dict(model.named_parameters()))
    subject = Subject(model, {}, iteration=100, epoch=7)
    rows = gradients.measure_gradients(subject, [raw_batch(seed=0), raw_batch(seed=1)])
    assert MessageHub.get_current_instance().get_info('iter') == 3
    assert generators() == drawn and not model.training
    for name, value in [*model.named_buffers(), *model.named_parameters()]:
        assert torch.equal(value, {**before, **weights}[name]), name
        assert value.grad is None
    found = {(row['term'], row['part']): row for row in rows}
    assert {part for _, part in found} == {'backbone', 'neck', 'bbox_head', 'student'}
    for part in ('backbone', 'neck', 'bbox_head', 'student'):
        assert found['task', part]['cosine'] == pytest.approx(1)
        assert sum(found[key]['share'] for key in found if key[1] == part) == pytest.approx(1)
    assert found['loss_pkd', 'bbox_head']['cosine'] is None
    assert found['loss_pkd', 'neck']['batches'] == 2
    json.dumps(rows)


def test_of_a_plain_model_its_own_losses_are_compared(retinanet, build, raw_batch):
    rows = gradients.measure_gradients(Subject(build(retinanet(), 0), {}, 0, 0), [raw_batch()])
    found = {(row['term'], row['part']): row for row in rows}
    assert list(dict.fromkeys(term for term, _ in found)) == ['task', 'loss_cls', 'loss_bbox']
    shares = [found[term, 'student']['share'] for term in ('loss_cls', 'loss_bbox')]
    assert sum(shares) == pytest.approx(1)


def test_recomputing_backbones_have_the_same_gradients(retinanet, build, raw_batch):
    model, rows = build(retinanet(), 0), []
    blocks = [module for module in model.modules() if hasattr(module, 'with_cp')]
    for recomputes in (False, True):
        for block in blocks:
            block.with_cp = recomputes
        rows.append(gradients.measure_gradients(Subject(model, {}, 0, 0), [raw_batch()]))
        assert blocks and all(block.with_cp is recomputes for block in blocks)
    assert rows[0] == rows[1]


# Distances


@pytest.mark.parametrize('eigenvalues, rank', [((2, 2, 2, 0), 3), ((5, 0, 0, 0), 1), ((0,) * 4, 0)])
def test_rank_of_a_known_covariance(eigenvalues, rank):
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    covariance = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    assert distances.participation_ratio(covariance) == pytest.approx(rank)


def test_moments_of_several_batches():
    torch.manual_seed(0)
    batches = [torch.randn(n, 3, 4, 5) + 2 for n in (1, 3)]
    moments = distances.Moments()
    for batch in batches:
        moments.add(batch)
    rows = torch.cat(batches).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(moments.covariance, torch.cov(rows, correction=0))
    assert moments.norm == pytest.approx(rows.square().mean().sqrt().item())


def test_a_student_equal_to_its_teacher_is_at_distance_0(
    distiller, retinanet, write_teacher, raw_batch
):
    """A flow starts with velocity 0, so that its estimates are X^S."""
    teacher = write_teacher(retinanet())
    losses = dict(pkd=PKD, fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck', levels=[0, 2]))
    model = distiller(losses=losses, teacher=teacher)
    model.load_state_dict(torch.load(teacher['checkpoint'])['state_dict'])
    part = distances.Distances(subject_of(model))
    part.add(view_of(model, raw_batch()))
    rows = part.result()
    assert [(row['term'], row['level']) for row in rows] == [
        *(('pkd', level) for level in range(5)),
        ('fmkt', 0),
        ('fmkt', 2),
    ]
    assert [row['stride'] for row in rows] == [8, 16, 32, 64, 128, 8, 32]
    for row in rows:
        assert row['student'] == pytest.approx(0, abs=1e-9)
        assert [one['steps'] for one in row['estimates']] == [1, 2, 4] * (row['term'] == 'fmkt')
        assert all(one['distance'] == pytest.approx(0, abs=1e-9) for one in row['estimates'])
    assert rows[-1]['velocity'] == 0 and rows[-1]['spread'] == 0
    assert rows[0]['velocity'] is None


FLOWS = {
    'own': dict(),
    'neck': dict(flow='neck', theta_weight=0),
    'velocity': dict(
        objective=dict(type='mmkd_fm.VelocityMatching'), metric=dict(type='mmkd_fm.MSELoss')
    ),
}


@pytest.mark.parametrize('kind', FLOWS)
@torch.no_grad()
def test_distances_along_a_flow(kind, distiller, retinanet, raw_batch):
    """From the networks and the formula alone."""
    student = copy.deepcopy(retinanet())
    if kind == 'neck':
        student.neck = dict(type='mmkd_fm.FlowNeck', neck=student.neck, levels=[0, 1, 2])
    losses = dict(fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck', **FLOWS[kind]))
    if kind != 'neck':
        losses['fmkt']['levels'] = [0, 1, 2]
    torch.manual_seed(0)
    model = distiller(losses=losses, student=student, model_seed=0)
    for name, parameter in model.named_parameters():
        if 'meta_encoder' in name:  # away from the zero velocity of the beginning
            torch.nn.init.normal_(parameter, std=0.2)
    subject, views = subject_of(model), [view_of(model, raw_batch((2, 1), seed=n)) for n in (0, 1)]
    part = distances.Distances(subject)
    for view in views:
        part.add(view)
    rows = part.result()
    loss, neck, teacher = model.distill_losses.fmkt, model.student.neck, model.teacher.model
    for row, level in zip(rows, range(3)):
        objective, expected, mapped = loss.objectives[level], [], []
        flow = (neck if kind == 'neck' else loss).flows[str(level)]
        for view in views:
            features = model.student.backbone(view.inputs)
            x = (neck.neck if kind == 'neck' else neck)(features)[level]
            target = teacher.neck(teacher.backbone(view.teacher_inputs))[level]
            decode = getattr(objective, 'decode', torch.nn.Identity())
            if kind == 'velocity':
                target = objective.teacher_map(target)
                mapped.append(target)
            runs = [
                transport(x, lambda z, t: flow.meta_encoder(z, flow.time_embedding(t, z)), n)  # noqa: B023
                for n in (1, 2, 4)
            ]
            maps = [x, *(run.estimates.mean(0) for run in runs)]
            spread = (runs[-1].estimates - maps[-1]).norm() / math.sqrt(4) / x.norm()
            size = runs[-1].velocities.norm() / math.sqrt(4) / x.norm()
            expected.append([*(pkd_loss(decode(m), target) for m in maps), size, spread])
        student, *estimates, size, spread = torch.tensor(expected).mean(0).tolist()
        assert row['student'] == pytest.approx(student, rel=1e-4)
        found = [one['distance'] for one in row['estimates']]
        assert found == pytest.approx(estimates, rel=1e-4) and found[0] != found[1]
        changes = [one['change'] for one in row['estimates']]
        assert changes == pytest.approx([e / student - 1 for e in estimates], abs=1e-4)
        assert row['velocity'] == pytest.approx(size, rel=1e-4) and size > 0.01
        assert row['spread'] == pytest.approx(spread, rel=1e-3) and spread > 1e-4
        assert ('teacher_map' in row) == (kind == 'velocity')
        if kind == 'velocity':
            numbers = torch.cat([m.transpose(0, 1).flatten(1) for m in mapped], 1).double()
            values = torch.linalg.eigvalsh(torch.cov(numbers, correction=0))
            rank = values.sum() ** 2 / values.square().sum()
            assert row['teacher_map']['rank'] == pytest.approx(rank.item(), rel=1e-4)
            assert row['teacher_map']['channels'] == 16
            norm = numbers.square().mean().sqrt().item()
            assert row['teacher_map']['norm'] == pytest.approx(norm, rel=1e-4)


def test_tables_of_distances():
    """Terms with and without a flow, with and without a map of the teacher, in one report."""
    plain = dict(level=0, stride=8, student=0.5, estimates=[], velocity=None, spread=None)
    estimates = [dict(steps=n, distance=0.4, change=-0.2) for n in (1, 2, 4)]
    flow = dict(plain, estimates=estimates, velocity=0.3, spread=0.1)
    mapped = dict(flow, teacher_map=dict(norm=0.2, rank=1.6, channels=4))
    terms = dict(pkd=plain, fmkt=flow, velocity=mapped)
    rows = [dict(term=name, **row) for name, row in terms.items()]
    tables = {sheet.title: sheet for sheet in report.sheets(dict(distances=rows))}
    cells, maps = tables.values()
    assert cells.rows[0] == ['pkd', '0', '8', '0.5000', *['-'] * 6]
    assert cells.rows[1][3:] == ['0.5000', *['0.4000'] * 3, '-20.00 %', '0.3', '0.1']
    assert maps.rows == [('velocity', '0', '8', '0.2', '1.6', '4')]
    of_file = dict(config='c', checkpoint='k', test_images=1, left_out={}, distances=rows)
    lines = [line for line in report.markdown(of_file).splitlines() if line.startswith('|')]
    assert {line.count('|') for line in lines} == {11, 7}  # no cell has one
    (only,) = report.sheets(dict(distances=rows[:1]))
    assert only.header == ('term', 'level', 'stride', 'X^S')


def test_without_features_there_are_no_distances(distiller, build, retinanet):
    wttm = dict(wttm=dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0))
    with pytest.raises(LeftOut, match=r'terms: wttm \(WTTMLoss\)'):
        distances.Distances(subject_of(distiller(losses=wttm)))
    with pytest.raises(LeftOut, match='terms: none'):
        distances.Distances(subject_of(build(retinanet())))


# Scores


def test_calibration_error_in_closed_form():
    calibration = Calibration(bins=10)
    assert calibration.result()['ece'] is None
    calibration.add(torch.full((4,), 0.85), torch.tensor([True, True, False, False]))
    assert calibration.error == pytest.approx(0.35)  # |0.5 - 0.85|
    calibration.add(torch.full((6,), 0.25), torch.zeros(6, dtype=torch.bool))
    result = calibration.result()
    assert result['ece'] == pytest.approx(0.4 * 0.35 + 0.6 * 0.25)
    assert result['confidence'] == pytest.approx(0.4 * 0.85 + 0.6 * 0.25)
    assert (result['count'], result['accuracy']) == (10, pytest.approx(0.2))
    points = [(p['count'], p['confidence'], p['accuracy']) for p in result['curve']]
    assert points == [pytest.approx((6, 0.25, 0)), pytest.approx((4, 0.85, 0.5))]
    assert sum(result['histogram']) == 10 and result['score'] == pytest.approx(0.49)


def test_what_is_right_as_often_as_it_says_is_calibrated():
    calibration = Calibration()
    confidence = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    draws = torch.rand(200_000, generator=torch.Generator().manual_seed(1))
    calibration.add(confidence, draws < confidence)
    assert calibration.error < 0.01
    calibration.add(torch.tensor([1.0]), torch.tensor([True]))  # the last bin has its end


@pytest.mark.parametrize('kind', ['retinanet', 'gfl'])
def test_labels_are_those_of_the_assigner(kind, distiller, raw_batch):
    model = distiller(kind=kind, losses=dict(pkd=PKD))
    subject = subject_of(model)
    view, head = view_of(model, raw_batch((3, 2))), subject.heads['student']
    with record(model.student, ['bbox_head'], inputs=[locations.LOSS]) as records:
        model.student(view.inputs, view.samples, mode='loss')
    maps = records['bbox_head'][0][0][0]
    rows = locations.rows_of(maps, 3)
    labels = locations.assigned_labels(records, rows, head)
    boxes = model.student.bbox_head
    metas = [sample.metainfo for sample in view.samples]
    sizes = [tuple(m.shape[-2:]) for m in maps]
    anchors, valid = boxes.get_anchors(sizes, metas, device='cpu')
    truths = [sample.gt_instances for sample in view.samples]
    targets = boxes.get_targets(anchors, valid, truths, metas)
    # GFL's begin with anchors, and it hands the weights over by name
    levels, weights = targets[1:3] if kind == 'gfl' else targets[:2]
    expected = torch.cat([level.flatten() for level in levels])
    expected[expected == 3] = locations.BACKGROUND
    expected[torch.cat([w.flatten() for w in weights]) == 0] = locations.LEFT_OUT
    assert torch.equal(labels, expected)
    assert (labels >= 0).any() and (labels == locations.BACKGROUND).any()
    with pytest.raises(LeftOut, match='not given all rows'):
        locations.assigned_labels(records, rows.flip(0), head)


def test_labels_by_centres(distiller, raw_batch):
    model = distiller(losses=dict(pkd=PKD))
    head = subject_of(model).heads['student']
    view = view_of(model, raw_batch((0, 0)))
    view.samples[0].gt_instances = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 64, 64], [0, 0, 16, 16]]), labels=torch.tensor([2, 1])
    )
    view.samples[0].ignored_instances = InstanceData(bboxes=torch.tensor([[0.0, 0, 96, 96]]))
    maps = [torch.zeros(2, 9 * 3, 128 // s, 128 // s) for s in (8, 16, 32, 64, 128)]
    labels = locations.centre_labels(maps, head, view)
    first = labels[: 2 * 256 * 9].view(2, 16, 16, 9)
    assert (first[1] == locations.BACKGROUND).all()
    expected = torch.full((16, 16), locations.BACKGROUND)
    expected[:12, :12] = locations.LEFT_OUT  # the crowd
    expected[:8, :8] = 2
    expected[:2, :2] = 1  # the smallest box
    assert torch.equal(first[0], expected[..., None].expand(16, 16, 9))
    # centres at 4, 12, ...: none of the coarsest level (64) is inside 0 to 64 but that at 64
    assert labels[-9:].eq(locations.BACKGROUND).all()


class Numbered:
    """Test images with boxes, as far as `Scores` and `Detection` ask."""

    has_boxes = True
    classes = ('a', 'b', 'c')


@pytest.mark.parametrize('kind', ['retinanet', 'gfl'])
def test_a_student_equal_to_its_teacher_has_its_scores(
    kind, distiller, detectors, write_teacher, raw_batch
):
    teacher = write_teacher(detectors[kind]())
    model = distiller(kind=kind, losses=dict(pkd=PKD), teacher=teacher)
    model.load_state_dict(torch.load(teacher['checkpoint'])['state_dict'])
    view, subject = view_of(model, raw_batch((3, 2))), subject_of(model)
    part = scores.Scores(subject, Numbered)
    part.add(view)
    part.add(view)
    result = part.result()
    assert result['foreground_by'] == scores.ASSIGNER and not result['notes']
    rows = {(row.pop('owner'), row.pop('where')): row for row in result['rows']}
    for where in scores.WHERE:
        assert rows['student', where] == rows['teacher', where]
    inside, outside, both = (rows['student', where] for where in scores.WHERE)
    assert inside['count'] > 0 and both['count'] == inside['count'] + outside['count']
    assert outside['accuracy'] == 0 and outside['ece'] == pytest.approx(outside['confidence'])
    assert outside['score'] == pytest.approx(outside['confidence'])
    assert inside['score'] <= inside['confidence']
    json.dumps(result)


def test_other_grids_are_compared_by_centres(distiller, retinanet, teachers, raw_batch):
    """The rows of an anchor-free teacher are not those that the student's assigner labels."""
    losses, teacher = dict(pkd=PKD), teachers['gfl']
    model = distiller(losses=losses, teacher=teacher)
    part = scores.Scores(subject_of(model), Numbered)
    part.add(view_of(model, raw_batch((3, 2))))
    assert part.by == scores.CENTRE
    counts = {key: one.count for key, one in part.calibrations.items()}
    assert counts['student', 'foreground'] == 9 * counts['teacher', 'foreground'] > 0  # 9 anchors


def test_heads_that_can_not_be_compared(distiller, retinanet, write_teacher, raw_batch):
    model = distiller(losses=dict(pkd=PKD), teacher=write_teacher(retinanet(num_classes=5)))
    subject = subject_of(model)
    part = scores.Scores(subject, Numbered)
    part.add(view_of(model, raw_batch()))
    assert {row['owner'] for row in part.result()['rows']} == {'student'}
    assert part.result()['notes'] == ['the teacher has 5 classes, the student 3']
    found = detection.Detection(subject, Numbered)
    assert list(found.predict) == ['student']
    subject.heads['student'] = LeftOut('no head')
    with pytest.raises(LeftOut, match='no head'):
        scores.Scores(subject, Numbered)


# Detection

BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 0, 60, 20]])
LABELS = torch.tensor([0, 1, 1])


def truth(crowd=(False, False, False)):
    return Truth(BOXES.clone(), LABELS.clone(), torch.tensor(crowd))


def found(boxes=BOXES, scores=(0.9, 0.8, 0.7), labels=LABELS):
    return detection.Found(boxes.clone(), torch.tensor(scores), labels.clone())


def precisions(one, of=None):
    of = of or truth()
    index = detection.ground_truth([of], ['a', 'b', 'c'])
    return {
        name: detection.average_precision(index, [oracle(one, of)])
        for name, oracle in detection.ORACLES.items()
    }


def test_perfect_detections():
    for result in precisions(found()).values():
        assert [result[key] for key in ('AP', 'AP50', 'AP75', 'AR@100')] == pytest.approx([1] * 4)
        assert result['classes'] == dict(a=pytest.approx(1), b=pytest.approx(1), c=None)


def test_only_boxes_are_wrong():
    """An overlap of 2/3 counts at the thresholds 0.5 to 0.65, four of ten."""
    wide = BOXES.clone()
    wide[:, 2] += 0.5 * (BOXES[:, 2] - BOXES[:, 0])
    result = precisions(found(wide))
    assert result['as it is']['AP'] == pytest.approx(0.4)
    assert (result['as it is']['AP50'], result['as it is']['AP75']) == pytest.approx((1, 0))
    assert result['boxes']['AP'] == pytest.approx(1)
    assert result['labels']['AP'] == result['scores']['AP'] == pytest.approx(0.4)


def test_only_labels_are_wrong():
    result = precisions(found(labels=1 - LABELS))
    assert result['as it is']['AP'] == result['boxes']['AP'] == 0
    assert result['labels']['AP'] == pytest.approx(1)


def test_only_the_order_of_scores_is_wrong():
    """A detection of nothing that scores highest halves the precision of its class."""
    boxes = torch.cat([BOXES, torch.tensor([[70.0, 70, 80, 80]])])
    labels = torch.tensor([0, 1, 1, 0])
    result = precisions(found(boxes, (0.5, 0.8, 0.7, 0.9), labels))
    assert result['as it is']['classes']['a'] == pytest.approx(0.5)
    assert result['boxes']['classes']['a'] == pytest.approx(0.5)
    assert result['scores']['AP'] == pytest.approx(1)


def test_nothing_found_and_nothing_to_find():
    nothing = found(BOXES[:0], (), LABELS[:0])
    for result in precisions(nothing).values():
        assert (result['AP'], result['AR@100']) == (0, 0)
    empty = Truth(BOXES[:0], LABELS[:0], torch.zeros(0, dtype=torch.bool))
    assert all(result['AP'] is None for result in precisions(found(), empty).values())
    crowd = truth(crowd=(True, False, False))
    assert precisions(found(), crowd)['boxes']['classes'] == dict(
        a=None, b=pytest.approx(1), c=None
    )


# The command line


@pytest.fixture(scope='module')
def trained(tmp_path_factory, retinanet, write_teacher):
    """Folder of a training on drawn images: distilled.py, plain.py, iter_3.pth."""
    folder = tmp_path_factory.mktemp('diagnose')
    make_demo_data(folder / 'data', Spec(train=8, val=2, test=5, size=96, seed=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMKD_FM_DEMO_DATA', f'{folder}/data/')
        cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/demo.py')
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        load, annotations, resize, *rest = loader.dataset.pipeline
        resize.scale = (64, 64)
        # as in mmdet's own configs of tests: boxes stay those of the original image
        order = [load, resize, annotations] if name == 'test' else [load, annotations, resize]
        loader.dataset.pipeline = order + rest
    classes = len(CLASSES)
    losses = dict(
        fmkt=dict(type='mmkd_fm.FMKTLoss', tap='neck', levels=[0, 1]),
        wttm=dict(type='mmkd_fm.WTTMLoss', tap='bbox_head', index=0),
    )
    student = retinanet(num_classes=classes)
    student.test_cfg.score_thr = 0.0
    model = dict(
        type='mmkd_fm.Distiller',
        student=student,
        teacher=write_teacher(retinanet(width=12, channels=24, num_classes=classes)),
        losses=losses,
    )
    cfg.merge_from_dict(
        dict(
            model=model,
            default_scope='mmdet',
            randomness=dict(seed=0),  # of one that finds something
            default_hooks=dict(
                distill_state=dict(type='mmkd_fm.DistillStateHook'),
                checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False),
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=3, val_interval=10),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01), clip_grad=dict(max_norm=9)
            ),
            work_dir=str(folder),
            test_cfg=dict(type='TestLoop'),
        )
    )
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler')
    cfg.pop('val_dataloader'), cfg.pop('val_evaluator')
    cfg.dump(folder / 'distilled.py')
    runner = Runner.from_cfg(cfg)
    runner.train()
    plain = copy.deepcopy(cfg)
    plain.model = ConfigDict(student)
    plain.pop('default_hooks')
    plain.dump(folder / 'plain.py')
    return folder


def run(folder, name, out, *options, checkpoint='iter_3.pth'):
    arguments = [str(folder / f'{name}.py'), str(folder / checkpoint), '--out', str(out)]
    return diagnose.main([*arguments, '--device=cpu', *options])


@pytest.mark.slow
def test_a_trained_distiller(trained, tmp_path, capsys):
    assert run(trained, 'distilled', tmp_path, '--batches', '2') == 0
    shown = ' '.join(capsys.readouterr().out.split())
    result = json.loads((tmp_path / 'diagnose.json').read_text())
    assert result['left_out'] == {} and result['test_images'] == 5
    terms = {row['term'] for row in result['gradients']}
    assert terms == {'task', 'loss_fmkt', 'loss_fmkt_theta', 'loss_wttm'}
    assert [(row['term'], row['level']) for row in result['distances']] == [
        ('fmkt', 0),
        ('fmkt', 1),
    ]
    assert all(row['student'] > 0 for row in result['distances'])
    assert result['scores']['foreground_by'] == scores.ASSIGNER
    owners = [(row['owner'], row['oracle']) for row in result['detection']['rows']]
    assert owners == [(o, oracle) for o in ('student', 'teacher') for oracle in detection.ORACLES]
    page = (tmp_path / 'diagnose.md').read_text()
    for words in ('Gradients, mean of 2', 'loss_fmkt_theta', 'NFE 4', 'ECE', 'AR@100'):
        assert words in page and words in shown
    assert (tmp_path / 'diagnose.png').stat().st_size > 20_000
    # the AP is that of mmdet's own evaluation, which rounds it
    cfg = Config.fromfile(trained / 'distilled.py')
    cfg.merge_from_dict(dict(load_from=str(trained / 'iter_3.pth'), work_dir=str(tmp_path)))
    metrics = Runner.from_cfg(cfg).test()
    own = result['detection']['rows'][0]
    for key, metric in dict(AP='bbox_mAP', AP50='bbox_mAP_50', AP75='bbox_mAP_75').items():
        assert own[key] == pytest.approx(metrics[f'coco/{metric}'], abs=6e-4)
    assert own['AR@100'] > 0


def test_a_plain_student(trained, tmp_path, capsys):
    """Its config takes the same checkpoint."""
    assert run(trained, 'plain', tmp_path, '--batches', '1', '--images', '2') == 0
    result = json.loads((tmp_path / 'diagnose.json').read_text())
    assert list(result['left_out']) == ['distances'] and result['test_images'] == 2
    shown = ' '.join(capsys.readouterr().out.split())
    assert "left out: no term compares features with a teacher's; terms: none" in shown
    assert {row['term'] for row in result['gradients']} == {'task', 'loss_cls', 'loss_bbox'}
    assert {row['owner'] for row in result['scores']['rows']} == {'student'}


def test_the_start_of_a_training(trained, tmp_path):
    out = ['--out', str(tmp_path), '--device=cpu', '--batches=1', '--images=1']
    assert diagnose.main([str(trained / 'distilled.py'), *out]) == 0
    result = json.loads((tmp_path / 'diagnose.json').read_text())
    assert result['checkpoint'] == 'the start of the training'
    assert {'gradients', 'distances'} <= set(result) and 'detection' not in result
    # each meta-encoder returns zero at first: the estimates are X^S, at its distance
    for row in result['distances']:
        found = [estimate['distance'] for estimate in row['estimates']]
        assert found == pytest.approx([row['student']] * len(found), rel=1e-5)
        assert found and row['student'] > 0


def test_the_start_has_the_weights_of_a_runs_seed(trained):
    cfg = Config.fromfile(trained / 'distilled.py')
    cfg.randomness = dict(seed=3)
    first, again = (load_subject(cfg, None, 'cpu').model.state_dict() for _ in range(2))
    cfg.randomness = dict(seed=4)
    other = load_subject(cfg, None, 'cpu').model.state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(
        first['bbox_head.retina_cls.weight'], other['bbox_head.retina_cls.weight']
    )
    # as RetinaNet's own initialisation leaves it: a probability of 0.01
    bias = first['bbox_head.retina_cls.bias']
    torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))
    cfg.load_from = str(trained / 'iter_3.pth')
    loaded = load_subject(cfg, None, 'cpu').model.state_dict()
    saved = torch.load(cfg.load_from, weights_only=False)
    assert all(torch.equal(loaded[key], value) for key, value in saved['state_dict'].items())


def test_parts_are_chosen(trained, tmp_path):
    assert run(trained, 'distilled', tmp_path, '--parts', 'distances', '--images', '1') == 0
    result = json.loads((tmp_path / 'diagnose.json').read_text())
    assert set(result) == {'config', 'checkpoint', 'test_images', 'distances', 'left_out'}


def test_a_config_without_a_scope(trained, tmp_path):
    options = ('--parts', 'distances', '--images', '1', '--cfg-options', 'default_scope=None')
    assert run(trained, 'distilled', tmp_path, *options) == 0


def test_boxes_are_in_pixels_of_the_input(trained, build, retinanet):
    """Whatever the pipeline did: here they are loaded after the resize from 96 to 64 pixels."""
    cfg = Config.fromfile(trained / 'plain.py')
    images = Images(cfg, 2)
    assert images.chosen == [0, 2] and len(images) == 1
    (view,) = images.views(Subject(build(retinanet()), {}, 0, 0))
    content = json.loads((trained / 'data/test.json').read_text())
    for n, index in enumerate(images.chosen):
        boxes = [a['bbox'] for a in content['annotations'] if a['image_id'] == index]
        corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes], dtype=torch.float32)
        torch.testing.assert_close(view.truths[n].boxes, corners)
        sample = view.samples[n]
        assert isinstance(sample, DetDataSample)
        torch.testing.assert_close(sample.gt_instances.bboxes, corners * 64 / 96)
        loaded = view.raw['data_samples'][n].gt_instances.bboxes
        assert torch.as_tensor(getattr(loaded, 'tensor', loaded)).allclose(corners)


WRONG = {
    'no config': (dict(name='none'), 'there is no config file'),
    'no checkpoint': (dict(checkpoint='none.pth'), 'none.pth can not be found'),
    'no losses': (
        dict(
            options=[
                '--cfg-options',
                'model.losses.fmkt.loss_weight=0',
                'model.losses.wttm.loss_weight=0',
            ]
        ),
        'all losses of the config have weight 0: nothing distils',
    ),
    'empty losses': (
        dict(options=['--cfg-options', 'model.terms=[]']),
        'terms is empty; name some of losses: fmkt, wttm',
    ),
    'an exported student': (
        dict(checkpoint='exported.pth'),
        'has no distillation state, and what is trained besides the student (fmkt)',
    ),
    'another student': (
        dict(options=['--cfg-options', 'model.student.bbox_head.stacked_convs=2']),
        'does not fit the config; give the config and the --cfg-options of its training',
    ),
    'no teacher': (
        dict(options=['--cfg-options', 'model.teacher.checkpoint=none.pth']),
        "teacher checkpoint 'none.pth' does not exist",
    ),
    'no annotations': (
        dict(options=['--cfg-options', 'test_dataloader.dataset.ann_file=none.json']),
        'test_dataloader.dataset: there is no annotation file',
    ),
    'no model': (dict(name='data_only'), 'has no model'),
}


@pytest.mark.parametrize('mistake', WRONG)
def test_mistakes_are_explained(trained, mistake, tmp_path, capsys):
    loaded = torch.load(trained / 'iter_3.pth', weights_only=False)
    torch.save(dict(state_dict=loaded['state_dict'], meta={}), trained / 'exported.pth')
    Config(dict(default_scope='mmdet')).dump(trained / 'data_only.py')
    arguments, expected = copy.deepcopy(WRONG[mistake])
    options = ['--parts', 'scores', *arguments.pop('options', [])]
    assert run(trained, arguments.pop('name', 'distilled'), tmp_path, *options, **arguments) == 1
    assert expected in ' '.join(capsys.readouterr().out.split())


@pytest.mark.parametrize('option', ['--images=0', '--batches=0', '--parts=all', '--device=cuda'])
def test_arguments_out_of_range_are_refused(trained, option, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit) as exit_:
        run(trained, 'distilled', tmp_path, option)
    assert exit_.value.code == 2
