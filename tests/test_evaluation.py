"""Agreement of a classifier with its teacher."""

import copy
import math

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS, DefaultScope
from torch.nn import functional as F

from mmkd_fm.evaluation.agreement import kl_of_probabilities
from mmkd_fm.registry import MODELS

DataSample = pytest.importorskip('mmpretrain.structures').DataSample

CLASSES = 5


def classifier(width, mean=0.0, classes=CLASSES, multi_label=False):
    """Config of a small classifier of images of 32x32."""
    kind = 'MultiLabelLinearClsHead' if multi_label else 'LinearClsHead'
    head = dict(type=f'mmpretrain.{kind}', num_classes=classes, in_channels=8 * width)
    if not multi_label:
        head['loss'] = dict(type='mmpretrain.CrossEntropyLoss')
    return dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(
            type='mmpretrain.ClsDataPreprocessor', mean=[mean] * 3, std=[64.0] * 3, to_rgb=True
        ),
        backbone=dict(
            type='mmpretrain.ResNet_CIFAR',
            depth=18,
            base_channels=width,
            stem_channels=width,
            num_stages=4,
            out_indices=(3,),
        ),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=head,
    )


def build(config, seed):
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(copy.deepcopy(config)).eval()
    torch.nn.init.normal_(model.head.fc.weight, std=10.0)
    with torch.no_grad():  # else it would name one class for all images
        inputs = model.data_preprocessor(dict(inputs=draw(20, seed=5)), False)['inputs']
        model.head.fc.bias -= model(inputs, mode='tensor').mean(dim=0)
    return model


def draw(count, seed):
    """Images of 32x32, each of a colour of its own, with noise."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 200, (count, 3, 1, 1)) + rng.integers(0, 50, (count, 3, 32, 32))
    return torch.from_numpy(colours.astype(np.uint8))


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """Write a random teacher: `teacher(config, seed)`; gives the model and the arguments."""

    def make(config, seed):
        model = build(config, seed)
        path = str(tmp_path_factory.mktemp('teacher') / 'teacher.pth')
        torch.save(dict(state_dict=model.state_dict()), path)
        arguments = dict(config=dict(model=config, default_scope='mmpretrain'), checkpoint=path)
        return model, arguments

    return make


@pytest.fixture
def batches():
    """Raw batches of 4 and 3 images, one stacked by the data loader, one not."""
    images = draw(7, seed=0)
    samples = [DataSample().set_gt_label(label % CLASSES) for label in range(7)]
    return [
        dict(inputs=images[:4], data_samples=samples[:4]),
        dict(inputs=list(images[4:]), data_samples=samples[4:]),
    ]


@pytest.fixture
def agreement():
    """Metrics of predictions: `agreement(teacher, [(batch, samples)])`."""

    def run(arguments, predicted):
        evaluator = Evaluator([dict(type='mmkd_fm.TeacherAgreement', teacher=arguments)])
        for batch, samples in predicted:
            evaluator.process(data_samples=samples, data_batch=batch)
        return evaluator.evaluate(sum(len(samples) for _, samples in predicted))

    return run


def predict(model, batch):
    with torch.no_grad():
        return model.test_step(copy.deepcopy(batch))


def with_scores(rows):
    return [DataSample().set_pred_score(torch.tensor(row)) for row in rows]


@pytest.mark.parametrize(
    ('p', 'q', 'expected'),
    [
        ([0.5, 0.5], [0.25, 0.75], 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
        ([1.0, 0.0], [0.25, 0.75], math.log(4)),  # 0 log 0 is 0
        ([0.2, 0.8], [0.2, 0.8], 0.0),
        ([1.0, 0.0], [0.0, 1.0], 126 * math.log(2)),  # what q rounded to 0 is the least float32
    ],
)
def test_divergence_by_hand(p, q, expected):
    value = kl_of_probabilities(torch.tensor([p]), torch.tensor([q]))
    assert value.item() == pytest.approx(expected, abs=1e-7)


def test_a_model_agrees_with_itself(teacher, agreement, batches):
    model, arguments = teacher(classifier(4), seed=0)
    metrics = agreement(arguments, [(batch, predict(model, batch)) for batch in batches])
    assert set(metrics) == {'agreement/top1', 'agreement/kl'}
    assert metrics['agreement/top1'] == 100
    assert metrics['agreement/kl'] == pytest.approx(0, abs=1e-6)


def test_known_scores(teacher, agreement, batches):
    """Against a teacher whose probabilities are 1/5 each, up to which is the first largest."""
    config = classifier(4)
    model, arguments = teacher(config, seed=0)
    for parameter in model.head.parameters():
        torch.nn.init.zeros_(parameter)
    torch.save(dict(state_dict=model.state_dict()), arguments['checkpoint'])
    rows = [[0.4, 0.3, 0.1, 0.1, 0.1]] * 3 + [[0.1, 0.6, 0.1, 0.1, 0.1]]
    metrics = agreement(arguments, [(batches[0], with_scores(rows))])
    assert metrics['agreement/top1'] == 75  # the first of equals is class 0
    first = -(math.log(2) + math.log(1.5) + 3 * math.log(0.5)) / 5
    other = -(math.log(3) + 4 * math.log(0.5)) / 5
    assert metrics['agreement/kl'] == pytest.approx((3 * first + other) / 4, abs=1e-6)


def test_another_model_with_a_view_of_its_own(teacher, agreement, batches):
    student = build(classifier(4), seed=1)
    model, arguments = teacher(classifier(8, mean=120.0), seed=2)
    metrics = agreement(arguments, [(batch, predict(student, batch)) for batch in batches])
    images = torch.cat([batches[0]['inputs'], torch.stack(batches[1]['inputs'])]).flip(1).float()
    with torch.no_grad():
        of_student = F.log_softmax(student(images / 64), dim=1)
        of_teacher = F.log_softmax(model((images - 120) / 64), dim=1)
    same = (of_student.argmax(1) == of_teacher.argmax(1)).double().mean().item()
    expected = F.kl_div(of_student, of_teacher, log_target=True, reduction='batchmean').item()
    assert 0 < same < 1
    assert metrics['agreement/top1'] == pytest.approx(100 * same)
    assert metrics['agreement/kl'] == pytest.approx(expected, rel=1e-4)
    assert expected > 0.1


def test_of_several_views_the_teacher_sees_all(teacher, agreement, batches):
    model, arguments = teacher(classifier(4), seed=0)
    images = batches[0]['inputs']
    views = [images, images.flip(3)]
    scores = sum(
        torch.stack([s.pred_score for s in predict(model, dict(inputs=view))]) for view in views
    )
    samples = with_scores((scores / 2).tolist())
    for collated in (views, [list(view) for view in views]):
        metrics = agreement(arguments, [(dict(inputs=collated), samples)])
        assert metrics['agreement/top1'] == 100
        assert metrics['agreement/kl'] == pytest.approx(0, abs=1e-6)


def test_the_teacher_is_read_once_and_the_batch_is_left_alone(teacher, batches, monkeypatch):
    model, arguments = teacher(classifier(4), seed=0)
    metric = METRICS.build(dict(type='mmkd_fm.TeacherAgreement', teacher=arguments, prefix='x'))
    loads = []
    load = metric.teacher.load
    monkeypatch.setattr(metric.teacher, 'load', lambda *args: loads.append(args) or load(*args))
    samples = [sample.to_dict() for sample in predict(model, batches[0])]
    before = copy.deepcopy(batches[0])
    assert loads == []
    for _ in range(2):
        metric.process(batches[0], samples)
    assert loads == [(torch.device('cpu'),)]
    assert torch.equal(batches[0]['inputs'], before['inputs'])
    assert all('pred_score' not in sample for sample in batches[0]['data_samples'])
    assert set(metric.evaluate(8)) == {'x/top1', 'x/kl'}


def test_other_classes_are_refused(teacher, agreement, batches):
    _, arguments = teacher(classifier(4, classes=6), seed=0)
    student = build(classifier(4), seed=1)
    with pytest.raises(ValueError, match='the student has 5 classes, the teacher 6'):
        agreement(arguments, [(batches[0], predict(student, batches[0]))])


def test_several_labels_an_image_are_refused(teacher, agreement, batches):
    _, arguments = teacher(classifier(4), seed=0)
    student = build(classifier(4, multi_label=True), seed=1)
    with pytest.raises(ValueError, match='sum to 1, but those of the student sum to'):
        agreement(arguments, [(batches[0], predict(student, batches[0]))])


def test_detections_are_refused(teacher, agreement, batches):
    _, arguments = teacher(classifier(4), seed=0)
    with pytest.raises(ValueError, match='predictions have: pred_instances'):
        agreement(arguments, [(batches[0], [dict(pred_instances=0)] * 4)])


@pytest.mark.parametrize(
    ('checkpoint', 'message'),
    [(None, 'checkpoint is None$'), ('/absent.pth', "is '/absent.pth', which does not exist")],
)
def test_no_checkpoint(checkpoint, message):
    arguments = dict(config=dict(model=classifier(4)), checkpoint=checkpoint)
    with pytest.raises(ValueError, match=message):
        METRICS.build(dict(type='mmkd_fm.TeacherAgreement', teacher=arguments))


def test_a_misspelt_option_of_the_teacher():
    message = r"teacher: FrozenTeacher has no option 'input_scal'; did you mean 'input_scale'\?"
    with pytest.raises(ValueError, match=message):
        METRICS.build(
            dict(type='mmkd_fm.TeacherAgreement', teacher=dict(checkpoint='http://x', input_scal=2))
        )
