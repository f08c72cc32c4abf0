import pytest
import torch
from torch import nn

from mmkd_fm.models import CIFARResNet, CIFARWideResNet
from mmkd_fm.models.backbones.shufflenet_cifar import ChannelShuffle
from mmkd_fm.registry import MODELS

X4 = (32, 64, 128, 256)
# kind and arguments, parameters with a layer for 100 classes (in the literature that builds on
# CRD's code, arXiv 1910.10699), and what the architecture's paper prints, in millions:
# arXiv 1512.03385 (table 6, 10 classes), arXiv 1605.07146 (table 4, 10 classes)
CIFAR = {
    'resnet20': (dict(type='mmkd_fm.CIFARResNet', depth=20), 278_324, '0.27'),
    'resnet32': (dict(type='mmkd_fm.CIFARResNet', depth=32), 472_756, '0.46'),
    'resnet56': (dict(type='mmkd_fm.CIFARResNet', depth=56), 861_620, '0.85'),
    'resnet110': (dict(type='mmkd_fm.CIFARResNet', depth=110), 1_736_564, '1.7'),
    'resnet8x4': (dict(type='mmkd_fm.CIFARResNet', depth=8, widths=X4), 1_233_540, None),
    'resnet32x4': (dict(type='mmkd_fm.CIFARResNet', depth=32, widths=X4), 7_433_860, None),
    'wrn16-2': (dict(type='mmkd_fm.CIFARWideResNet', depth=16, widen_factor=2), 703_284, None),
    'wrn40-1': (dict(type='mmkd_fm.CIFARWideResNet', depth=40, widen_factor=1), 569_780, '0.6'),
    'wrn40-2': (dict(type='mmkd_fm.CIFARWideResNet', depth=40, widen_factor=2), 2_255_156, '2.2'),
    'vgg8': (dict(type='mmkd_fm.CIFARVGG', depth=8), 3_965_028, None),
    'vgg8-half': (
        dict(type='mmkd_fm.CIFARVGG', depth=8, widths=(32, 64, 128, 256, 256)),
        1_005_668,
        None,
    ),
    'vgg13': (dict(type='mmkd_fm.CIFARVGG', depth=13), 9_462_180, None),
    'mobilenetv2': (dict(type='mmkd_fm.CIFARMobileNetV2', width=0.5), 812_836, None),
    'shufflenetv1': (dict(type='mmkd_fm.CIFARShuffleNetV1'), 949_258, None),
    'shufflenetv2': (dict(type='mmkd_fm.CIFARShuffleNetV2'), 1_355_528, None),
}
# channels and strides of all stages
MAPS = {
    'resnet20': [(16, 1), (32, 2), (64, 4)],
    'resnet8x4': [(64, 1), (128, 2), (256, 4)],
    'wrn16-2': [(32, 1), (64, 2), (128, 4)],
    'vgg8': [(64, 1), (128, 2), (256, 4), (512, 8), (512, 8)],
    'vgg8-half': [(32, 1), (64, 2), (128, 4), (256, 8), (256, 8)],
    'vgg13': [(64, 1), (128, 2), (256, 4), (512, 8), (512, 8)],
    'mobilenetv2': [
        *[(8, 2), (12, 2), (16, 4), (32, 8), (48, 8), (80, 16), (160, 16)],
        (1280, 16),
    ],
    'shufflenetv1': [(240, 2), (480, 4), (960, 8)],
    'shufflenetv2': [(116, 2), (232, 4), (464, 8), (1024, 8)],
}
SMALL = sorted(set(MAPS) - {'vgg13'})


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def build(name, **kwargs):
    torch.manual_seed(0)
    return MODELS.build(dict(CIFAR[name][0], **kwargs))


@pytest.mark.parametrize('name', CIFAR)
def test_numbers_of_parameters(name):
    _, with_100_classes, published = CIFAR[name]
    model = build(name)
    x = torch.zeros(1, 3, 32, 32)
    (last,) = model.eval()(x)
    per_class = last.shape[1] + 1
    assert parameters(model) + 100 * per_class == with_100_classes
    if published is not None:  # cut or rounded in the last digit that is printed
        unit = 10.0 ** -len(published.split('.')[1])
        millions = (parameters(model) + 10 * per_class) / 1e6
        assert millions == pytest.approx(float(published), abs=unit)


def test_mobilenet_v1_is_that_of_the_paper():
    model = MODELS.build(dict(type='mmkd_fm.MobileNetV1', out_indices=range(5)))
    assert parameters(model) + 1025 * 1000 == 4_231_976  # 4.2 million in arXiv 1704.04861
    maps = model.eval()(torch.zeros(1, 3, 64, 64))
    assert [(m.shape[1], 64 // m.shape[-1]) for m in maps] == [
        *[(64, 2), (128, 4), (256, 8), (512, 16)],
        (1024, 32),
    ]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 27  # of the 28 layers of table 1 the last is the classifier
    half = MODELS.build(dict(type='mmkd_fm.MobileNetV1', width=0.5))
    assert parameters(half) + 513 * 1000 == pytest.approx(1.3e6, rel=0.03)  # table 6


@pytest.mark.parametrize('name', MAPS)
def test_channels_and_strides_of_the_stages(name):
    expected = MAPS[name]
    model = build(name, out_indices=range(len(expected))).eval()
    for side in (32, 64):
        x = torch.randn(1, 3, side, side)
        maps = model(x)
        assert isinstance(maps, tuple)
        assert [(m.shape[1], side // m.shape[-1]) for m in maps] == expected
    chosen = build(name, out_indices=[0, len(expected) - 1]).eval()
    assert [torch.equal(a, b) for a, b in zip(chosen(x), (maps[0], maps[-1]))] == [True, True]
    (last,) = build(name).eval()(x)
    assert torch.equal(last, maps[-1])


@pytest.mark.parametrize('name', SMALL)
def test_every_parameter_gets_a_gradient(name):
    model = build(name)
    (last,) = model(torch.randn(4, 3, 32, 32))
    (last * torch.randn_like(last)).sum().backward()
    # the bias of a convolution before a batch norm changes nothing
    idle = {id(m.bias) for m in model.modules() if isinstance(m, nn.Conv2d)}
    for key, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any() or id(parameter) in idle, key


@pytest.mark.parametrize('name', SMALL)
def test_initial_weights_keep_the_scale(name):
    """After `init_weights` the map is neither vanishing nor exploding, in training mode."""
    model = build(name)
    torch.manual_seed(0)
    model.init_weights()
    (last,) = model(torch.randn(8, 3, 32, 32))
    assert 0.1 < last.std() < 10
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and not module.bias.any()


def test_residual_block_without_its_last_norm_is_the_identity():
    block = CIFARResNet(8).stages[0][0].eval()
    x = torch.rand(2, 16, 8, 8)  # not negative, as behind a ReLU
    assert not torch.equal(block(x), x)
    nn.init.zeros_(block.conv2.bn.weight)
    assert torch.equal(block(x), x)


def test_pre_activation_block_without_its_last_convolution_is_the_identity():
    first, second = CIFARWideResNet(16, 2).stages[1].eval()
    x = torch.randn(2, 64, 8, 8)
    nn.init.zeros_(second.conv2.weight)
    assert torch.equal(second(x), x)
    # where the shape changes, the shortcut reads the activated input
    nn.init.zeros_(first.conv2.weight)
    x = torch.randn(2, 32, 8, 8)
    expected = nn.functional.conv2d(first.activate(x), first.shortcut.weight, stride=2)
    torch.testing.assert_close(first(x), expected)
    torch.testing.assert_close(first(-x.abs()), torch.zeros_like(expected))


def test_inverted_residual_adds_its_input_only_where_the_shape_stays():
    blocks = [b for stage in build('mobilenetv2').stages[:-1] for b in stage]
    assert [b.residual for b in blocks].count(True) == 10  # all but the first of each stage
    block = blocks[2].eval()
    x = torch.randn(2, 12, 8, 8)
    nn.init.zeros_(block.layers[2].bn.weight)
    assert torch.equal(block(x), x)


def test_channel_shuffle_interleaves_the_groups():
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert ChannelShuffle(3)(x).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert torch.equal(ChannelShuffle(2)(ChannelShuffle(3)(x)), x)
    assert torch.equal(ChannelShuffle(1)(x), x)


def test_shufflenet_unit_puts_the_average_beside_its_result():
    unit = build('shufflenetv1').stages[0][0].eval()
    x = torch.rand(1, 24, 8, 8)
    y = unit(x)
    assert y.shape == (1, 240, 4, 4)
    average = nn.functional.avg_pool2d(x, 3, 2, 1)
    torch.testing.assert_close(y[:, 216:], average)


def test_shufflenet_v2_unit_passes_half_of_the_channels():
    unit = build('shufflenetv2').stages[0][1].eval()
    x = torch.randn(1, 116, 4, 4)
    assert torch.equal(unit(x)[:, ::2], x[:, :58])


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='mmkd_fm.CIFARResNet', depth=18), r'6n \+ 2, such as 8, 14, 20.* but got 18'),
        (dict(type='mmkd_fm.CIFARResNet', depth=2), 'but got 2'),
        (
            dict(type='mmkd_fm.CIFARResNet', widths=(16, 32, 64)),
            r'stem and of 3 stages, but got \(16',
        ),
        (dict(type='mmkd_fm.CIFARWideResNet', depth=38), r'6n \+ 4, such as 10, 16.* but got 38'),
        (dict(type='mmkd_fm.CIFARWideResNet', widen_factor=0), 'widen_factor must be 1 or more'),
        (
            dict(type='mmkd_fm.CIFARVGG', depth=12),
            'unknown depth 12; valid depths: 8, 11, 13, 16, 19',
        ),
        (
            dict(type='mmkd_fm.CIFARVGG', widths=(64, 128)),
            r'those of 5 stages, but got \(64, 128\)',
        ),
        (dict(type='mmkd_fm.CIFARResNet', out_indices=(3,)), 'CIFARResNet has the stages 0 to 2'),
        (dict(type='mmkd_fm.CIFARMobileNetV2', out_indices=(-1,)), 'has the stages 0 to 7'),
        (dict(type='mmkd_fm.CIFARShuffleNetV1', out_indices=()), 'has the stages 0 to 2'),
    ],
)
def test_errors_name_what_is_valid(cfg, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg)
