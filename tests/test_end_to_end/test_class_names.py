"""A distillation says which classes it compares, and stops if they are not the same."""

import copy
from types import SimpleNamespace

import pytest
import torch

CLASSES = ['red', 'green', 'blue']  # of the data


@pytest.fixture
def trained(distill_config, make_runner, teacher_files, tmp_path, tools):
    """Train an epoch: `trained(names of the teacher's classes, class_map, losses)`."""

    def run(names=None, class_map=None, losses='fmkt-wttm'):
        state = torch.load(teacher_files['retinanet']['checkpoint'])
        meta = {} if names is None else dict(dataset_meta=dict(classes=names))
        torch.save(dict(state, meta=meta), tmp_path / 'teacher.pth')
        cfg = copy.deepcopy(distill_config(losses=losses))
        cfg.model.teacher.checkpoint = str(tmp_path / 'teacher.pth')
        if class_map is not None:
            cfg.model.losses.wttm.class_map = class_map
        make_runner(cfg, tmp_path / 'run').train()
        log = tools.read_log(tmp_path / 'run')
        return SimpleNamespace(log=log, losses=tools.read_losses(tmp_path / 'run'))

    return run


def test_the_same_classes_are_trained_without_a_word(trained):
    log = trained(names=CLASSES).log
    assert 'class_map=' not in log
    assert 'does not say which classes' not in log


def test_a_teacher_that_names_no_classes_is_noted(trained):
    assert 'teacher.pth does not say which classes the teacher has' in trained().log


def test_classes_in_another_order_are_refused(trained, tmp_path, tools):
    with pytest.raises(ValueError, match='train.json and .*teacher.pth .* order: red, blue'):
        trained(names=CLASSES[::-1])
    assert tools.read_losses(tmp_path / 'run') == {}


def test_other_names_are_a_warning(trained):
    log = trained(names=['rouge', 'Green', 'blue']).log
    assert 'WARNING' in log
    assert '0: red / rouge. If they are not' in log


def test_features_do_not_depend_on_the_order_of_classes(trained):
    assert trained(names=CLASSES[::-1], losses='pkd').losses


def test_classes_are_mapped_by_their_names(trained):
    """A map by name is the map by index, and the log says what is compared."""
    names = ['blue', 'yellow', 'Red']
    by_name = trained(names=names, class_map=dict(student=CLASSES, teacher=names))
    assert "2 of the student's 3 classes compared with the teacher's 3: red <- Red, blue" in (
        by_name.log
    )
    assert 'without a partner, left out: green' in by_name.log
    by_index = trained(names=names, class_map=[2, -1, 0])
    assert by_name.losses == by_index.losses


@pytest.mark.parametrize(
    ('class_map', 'message'),
    [
        (dict(student=['red', 'blue', 'green'], teacher=CLASSES), 'class_map.student has the'),
        (dict(student=CLASSES, teacher=['red', 'blue', 'green']), 'class_map.teacher has the'),
        (dict(student=CLASSES, teacher=['red', 'green']), 'teacher names 2 .*the teacher has 3'),
    ],
)
def test_a_map_of_other_classes_is_refused(class_map, message, trained):
    with pytest.raises(ValueError, match=message):
        trained(names=CLASSES, class_map=class_map)


@pytest.mark.parametrize('names', [CLASSES, CLASSES[::-1]], ids=['equal', 'reversed'])
def test_parts_that_differ_in_other_metainfo_are_compared(
    names, distill_config, make_runner, teacher_files, tmp_path, tools
):
    """mmdet makes a list of what such a data set and a checkpoint trained on it say."""
    state = torch.load(teacher_files['retinanet']['checkpoint'])
    meta = dict(dataset_meta=[dict(classes=names, kind='a'), dict(classes=names, kind='b')])
    torch.save(dict(state, meta=meta), tmp_path / 'teacher.pth')
    cfg = copy.deepcopy(distill_config())
    cfg.model.teacher.checkpoint = str(tmp_path / 'teacher.pth')
    parts = [copy.deepcopy(cfg.train_dataloader.dataset) for _ in range(2)]
    parts[0].metainfo.kind, parts[1].metainfo.kind = 'a', 'b'
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=parts)
    runner = make_runner(cfg, tmp_path / 'run')
    assert isinstance(runner.train_loop.dataloader.dataset.metainfo, list)
    if names == CLASSES:
        runner.train()
        assert len(tools.read_losses(tmp_path / 'run')) == 7  # of two times ten images
    else:
        with pytest.raises(ValueError, match='order: red, blue'):
            runner.train()
