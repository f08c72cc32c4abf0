import copy
import pickle

import pytest
import torch
from torch import nn

from mmkd_fm.models.taps import Tap, find_module, read, record


class Net(nn.Module):
    """Calls its parts in the ways that detectors do."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True))
        self.twice = nn.Conv2d(4, 4, 1)
        self.unused = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.twice(self.twice(self.body(self.stem.forward(x))))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def images():
    return torch.randn(2, 3, 4, 4)


def test_output_is_recorded(net, images):
    with record(net, ['body']) as records:
        net(images)
    assert torch.equal(read(records, Tap('body'), net), net.body(net.stem(images)))


def test_a_direct_call_of_forward_is_recorded(net, images):
    with record(net, ['stem']) as records:
        net(images)
    assert torch.equal(read(records, Tap('stem'), net), net.stem(images))


def test_a_nested_path_is_found(net):
    assert find_module(net, 'body.0') is net.body[0]


def test_a_wrong_path_suggests_a_near_name(net):
    with pytest.raises(ValueError, match=r"no module 'bdy' in Net; did you mean 'body'\?"):
        find_module(net, 'bdy')
    with pytest.raises(ValueError, match=r"no module '2' in 'body' of Net.* Modules there: 0, 1"):
        find_module(net, 'body.2')
    with pytest.raises(ValueError, match=r'Modules there: stem, body, twice, unused'):
        find_module(net, 'xyz')


def test_a_module_that_never_fires_is_named(net, images):
    with record(net, ['unused']) as records:
        net(images)
    with pytest.raises(
        ValueError,
        match=r"'unused': .*never called.* or call it in .*_forward, .*Neighbours: stem, body",
    ):
        read(records, Tap('unused'), net)


def test_a_module_that_fires_twice_is_named(net, images):
    with record(net, ['twice']) as records:
        net(images)
    with pytest.raises(
        ValueError, match=r"'twice': .*called 2 times.*once is expected.*: stem, body, unused$"
    ):
        read(records, Tap('twice'), net)


def test_arguments_given_by_name_are_recorded_in_their_order(images):
    class Loss(nn.Module):
        def forward(self, x, y, weight=1.0, factor=2.0):
            return factor * (weight * (x - y)).sum()

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.loss = Loss()

        def forward(self, x):
            return self.loss(x, weight=x + 2, y=x + 1) + self.loss(x, x)

    head = Head()
    with record(head, (), inputs=['loss']) as records:
        head(images)
    named, plain = (arguments for arguments, _ in records['loss'])
    assert len(named) == 3 and len(plain) == 2
    assert torch.equal(named[1], images + 1) and torch.equal(named[2], images + 2)


def test_a_change_in_place_is_detected(net, images):
    with record(net, ['body.0']) as records:  # a ReLU in place follows
        net(images)
    with pytest.raises(RuntimeError, match=r"'body.0': .*modified the output in place"):
        read(records, Tap('body.0'), net)


def test_a_head_that_replaces_items_of_its_own_list_changes_no_record(images):
    """As FSAF does with its boxes; the tensors are as they were."""

    class Head(nn.Module):
        def forward(self, x):
            return [x, 2 * x], [3 * x]

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = Head()

        def forward(self, x):
            boxes = self.head(x)[1]
            boxes[0] = boxes[0].detach().clone().mul_(0)

    detector = Detector()
    with record(detector, ['head']) as records:
        detector(images)
    assert torch.equal(read(records, Tap('head', 1), detector)[0], 3 * images)
    assert isinstance(read(records, Tap('head', 0), detector), list)


@pytest.mark.parametrize('index', [2, -3])
def test_an_index_out_of_range_is_named(retinanet, build, index):
    detector = build(retinanet())
    with record(detector, ['bbox_head']) as records:
        detector(torch.zeros(1, 3, 64, 64), mode='tensor')
    with pytest.raises(ValueError, match=rf'index {index} is out of range.*is 2 items'):
        read(records, Tap('bbox_head', index), detector)


def test_an_index_into_a_tensor_is_refused(net, images):
    with record(net, ['body']) as records:
        net(images)
    with pytest.raises(ValueError, match=r"'body\[0\]': index 0 is out of range.*is Tensor"):
        read(records, Tap('body', 0), net)


def test_a_head_gives_scores_and_boxes_by_index(retinanet, build):
    detector = build(retinanet()).eval()
    with record(detector, ['bbox_head']) as records:
        scores, boxes = detector(torch.zeros(1, 3, 64, 64), mode='tensor')
    for index, expected in ((0, scores), (1, boxes), (-1, boxes)):
        output = read(records, Tap('bbox_head', index), detector)
        assert all(a is b for a, b in zip(output, expected))


def test_forward_is_restored_after_an_exception(net):
    with pytest.raises(RuntimeError, match='channels'), record(net, ['stem', 'body']):
        net(torch.randn(2, 5, 4, 4))
    assert 'forward' not in net.stem.__dict__
    assert 'forward' not in net.body.__dict__


def test_a_forward_set_on_the_instance_is_restored(net, images):
    def forward(x):
        return torch.zeros(2, 4, 4, 4)

    net.stem.forward = forward
    with record(net, ['stem']) as records:
        net(images)
    assert read(records, Tap('stem'), net).abs().sum() == 0
    assert net.stem.forward is forward


def test_a_module_of_two_paths_is_recorded_at_both_and_restored(net, images):
    net.twin = net.stem
    with record(net, ['stem', 'twin']) as records:
        net(images)
    assert torch.equal(records['stem'][0][0], records['twin'][0][0])
    assert 'forward' not in vars(net.stem)


@pytest.mark.parametrize(('gradients', 'recorded'), [(True, 1), (False, 3)])
def test_trials_without_gradients_do_not_count_beside_the_real_call(
    net, images, gradients, recorded
):
    expected = net.body(net.stem.forward(images))
    with torch.set_grad_enabled(gradients), record(net, ['body']) as records:
        with torch.no_grad():
            net(torch.zeros_like(images))
        with torch.no_grad():
            net(torch.zeros_like(images))
        net(images)
    assert len(records['body']) == recorded  # without any gradient none is told from the others
    output, _ = records['body'][-1]
    assert torch.equal(output, expected) and output.requires_grad == gradients


def test_a_call_without_gradients_is_recorded_where_it_is_the_only_one(net, images):
    with record(net, ['body']) as records, torch.no_grad():  # of a frozen part
        net(images)
    assert len(records['body']) == 1


def test_early_stop_computes_nothing_behind_the_taps(retinanet, build):
    detector, calls = build(retinanet()), []
    detector.bbox_head.retina_cls.register_forward_hook(lambda *_: calls.append(1))
    with record(detector, ['neck', 'backbone'], stop_early=True) as records:
        detector(torch.zeros(1, 3, 64, 64), mode='tensor')
    assert not calls
    assert len(read(records, Tap('neck'), detector)) == 5
    with record(detector, ['neck']):
        detector(torch.zeros(1, 3, 64, 64), mode='tensor')
    assert len(calls) == 5


def test_the_model_can_be_copied_pickled_and_hooked_afterwards(net, images):
    expected = net(images)
    with record(net, ['stem', 'body']):
        net(images)
    assert torch.equal(copy.deepcopy(net)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(net))(images), expected)
    calls = []
    net.body.register_forward_hook(lambda *_: calls.append(1))
    net(images)
    assert calls == [1]


def test_hooks_fire_while_recorded(net, images):
    calls = []
    net.body.register_forward_hook(lambda *_: calls.append(1))
    with record(net, ['body']):
        net(images)
    assert calls == [1]
