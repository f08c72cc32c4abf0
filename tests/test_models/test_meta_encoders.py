import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmkd_fm.models import meta_encoders
from mmkd_fm.models.meta_encoders import (
    ChannelLayerNorm,
    ConvMetaEncoder,
    ConvNeXtMetaEncoder,
    DepthwiseMetaEncoder,
    MLPMetaEncoder,
    ResidualConvMetaEncoder,
    WindowAttention,
    WindowTransformerMetaEncoder,
)
from mmkd_fm.registry import MODELS, build_part

ENCODERS = sorted(
    name
    for name, module in MODELS.module_dict.items()
    if module.__module__ == meta_encoders.__name__
)
every_encoder = pytest.mark.parametrize('name', ENCODERS)


def make(name, channels, random=False, **kwargs):
    """An encoder in float64; all its parameters random on request, those that start at 0 too."""
    torch.manual_seed(0)
    encoder = build_part(dict(type=name, **kwargs), 'MetaEncoder', channels=channels).double()
    for parameter in encoder.parameters() if random else ():
        torch.nn.init.normal_(parameter, std=0.5)
    return encoder


def inputs(batch, channels, height, width):
    torch.manual_seed(1)
    x = torch.randn(batch, channels, height, width, dtype=torch.float64)
    return x, torch.randn(batch, channels, 1, 1, dtype=torch.float64)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


# --- what holds for every encoder


def test_all_are_listed_as_meta_encoders():
    assert len(ENCODERS) == 6 and all(name.endswith('MetaEncoder') for name in ENCODERS)


@every_encoder
@pytest.mark.parametrize('channels', [1, 3, 8])
def test_shape_is_kept_and_samples_are_apart(name, channels):
    encoder = make(name, channels, random=True)
    for height, width in [(1, 1), (2, 3), (5, 7), (8, 8), (9, 13)]:
        x, t = inputs(3, channels, height, width)
        velocity = encoder(x, t)
        assert velocity.shape == x.shape
        order = torch.tensor([2, 0, 1])
        assert_close(encoder(x[order], t[order]), velocity[order])
        assert_close(encoder(x[1:2], t[1:2]), velocity[1:2])


@every_encoder
@pytest.mark.parametrize('channels', [1, 3, 8])
def test_starts_at_zero_velocity_and_leaves_it(name, channels):
    encoder = make(name, channels)
    x, t = inputs(2, channels, 9, 13)
    target = torch.randn_like(x)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)

    velocity = encoder(x, t)
    assert torch.equal(velocity, torch.zeros_like(x))
    (velocity - target).square().mean().backward()
    assert any(p.grad.abs().max() > 1e-6 for p in encoder.parameters())
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

    velocity = encoder(x, t)
    assert velocity.abs().max() > 1e-6
    (velocity - target).square().mean().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, parameter_name  # or DDP waits for it
        # of one channel, a LayerNorm leaves nothing but its bias
        assert parameter.grad.abs().max() > 0 or channels == 1, parameter_name


@every_encoder
def test_learns_a_velocity(name):
    encoder = make(name, 8)
    x, t = inputs(2, 8, 9, 13)
    teacher = make(name, 8, random=True)
    with torch.no_grad():
        target = teacher(x, t)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append((encoder(x, t) - target).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@every_encoder
def test_depends_on_the_time_as_on_a_shift_of_the_state(name):
    encoder = make(name, 8, random=True)
    x, t = inputs(2, 8, 5, 7)
    velocity = encoder(x, t)
    assert (velocity - encoder(x, -t)).abs().amax((1, 2, 3)).min() > 0.1
    assert_close(encoder(x + t, torch.zeros_like(t)), velocity)
    assert_close(encoder(torch.zeros_like(x), x + t), velocity)  # an embedding of the state's shape


@every_encoder
def test_same_when_recomputed_in_the_backward_pass(name):
    encoder = make(name, 3, random=True)
    x, t = inputs(2, 3, 5, 8)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    results = []
    for forward in [encoder, lambda x, t: checkpoint(encoder, x, t, use_reentrant=False)]:
        encoder.zero_grad()
        x_leaf = x.clone().requires_grad_()
        forward(x_leaf, t).square().sum().backward()
        results.append([x_leaf.grad] + [p.grad for p in encoder.parameters()])
    for plain, recomputed in zip(*results):
        assert torch.equal(plain, recomputed)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key])  # no statistics


@every_encoder
@pytest.mark.parametrize('height, width', [(1, 1), (2, 3)])
def test_gradcheck(name, height, width):
    small = dict(num_heads=2, head_dim=3, window_size=2) if 'Window' in name else {}
    encoder = make(name, 3, random=True, **small)
    names, parameters = zip(*encoder.named_parameters())

    def velocity(x, t, *parameters):
        return torch.func.functional_call(encoder, dict(zip(names, parameters)), (x, t))

    x, t = (value.requires_grad_() for value in inputs(2, 3, height, width))
    assert torch.autograd.gradcheck(velocity, (x, t, *parameters), fast_mode=True)


@every_encoder
def test_autocast_is_close(name):
    encoder = make(name, 8).float()
    for parameter in encoder.parameters():  # also those that start at zero
        parameter.data.add_(0.1 * torch.rand_like(parameter))
    x, t = (value.float() for value in inputs(2, 8, 9, 13))
    x.requires_grad_()
    velocity = encoder(x, t)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        low = encoder(x, t)
    assert (low - velocity).norm() < 0.03 * velocity.norm()
    low.float().square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@every_encoder
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_is_close_on_a_gpu(name, dtype):
    encoder = make(name, 8, random=True)
    x, t = inputs(2, 8, 9, 13)
    expected = encoder(x, t)
    encoder, x, t = encoder.float().cuda(), x.float().cuda().requires_grad_(), t.float().cuda()
    with torch.autocast('cuda', dtype=dtype):
        low = encoder(x, t)
    assert (low.double().cpu() - expected).norm() < 0.03 * expected.norm()
    low.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in [x, *encoder.parameters()])


@every_encoder
@pytest.mark.parametrize('c', [1, 3, 8])
def test_number_of_parameters(name, c):
    expected = dict(
        ConvMetaEncoder=9 * c * c + 2 * c + 9 * c * c,
        DepthwiseMetaEncoder=c * c + 2 * c + 9 * c,
        ResidualConvMetaEncoder=2 * (9 * c * c + 2 * c) + c,
        MLPMetaEncoder=2 * c * c + 2 * c,
        # norms; q, k, v and projection of 4 heads of 64; biases of 13 x 13 offsets; MLP; scale
        WindowTransformerMetaEncoder=4 * c + 4 * 256 * c + c + 4 * 169 + 8 * c * c + 5 * c + c,
        ConvNeXtMetaEncoder=49 * c + c + 2 * c + 8 * c * c + 5 * c + c,
    )
    assert sum(p.numel() for p in make(name, c).parameters()) == expected[name]


# --- each encoder by its formula


def group_norm(x, norm):
    mean = x.mean((1, 2, 3), keepdim=True)
    variance = x.var((1, 2, 3), unbiased=False, keepdim=True)
    x = (x - mean) / (variance + norm.eps).sqrt()
    return norm.weight[:, None, None] * x + norm.bias[:, None, None]


def layer_norm(x, norm):
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    x = (x - mean) / (variance + norm.eps).sqrt()
    return norm.weight[:, None, None] * x + norm.bias[:, None, None]


def conv_formula(encoder, h):
    h = F.conv2d(F.silu(h), encoder.conv1.weight, padding=1)
    return F.conv2d(F.silu(group_norm(h, encoder.norm)), encoder.conv2.weight, padding=1)


def depthwise_formula(encoder, h):
    h = F.relu(group_norm(F.conv2d(F.relu(h), encoder.conv1.weight), encoder.norm))
    return F.conv2d(h, encoder.conv2.weight, padding=1, groups=h.shape[1])


def residual_conv_formula(encoder, h):
    for _, conv, norm in encoder.blocks:
        h = h + group_norm(F.conv2d(F.silu(h), conv.weight, padding=1), norm)
    return h * encoder.scale


def mlp_formula(encoder, h):
    for (conv1, _, conv2), norm in zip(encoder.blocks, encoder.norms):
        h = h + F.conv2d(F.relu(F.conv2d(h, conv1.weight)), conv2.weight)
        h = layer_norm(h, norm)
    return h


def convnext_formula(encoder, h):
    conv, (expand, _, reduce) = encoder.conv, encoder.mlp
    h = F.conv2d(h, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2, groups=h.shape[1])
    h = F.conv2d(layer_norm(h, encoder.norm), expand.weight, expand.bias)
    return F.conv2d(F.gelu(h), reduce.weight, reduce.bias) * encoder.scale


def window_transformer_formula(encoder, h):
    h = h + attention_formula(encoder.attention, layer_norm(h, encoder.norm1))
    expand, _, reduce = encoder.mlp
    mlp = F.gelu(F.conv2d(layer_norm(h, encoder.norm2), expand.weight, expand.bias))
    return (h + F.conv2d(mlp, reduce.weight, reduce.bias)) * encoder.scale


def attention_formula(attention, x):
    """Window by window, head by head, query by query, over the positions inside the map."""
    (n, _, height, width), side, heads = x.shape, attention.window_size, attention.num_heads
    qkv = F.conv2d(x, attention.qkv.weight)
    q, k, v = qkv.reshape(n, 3, heads, -1, height, width).unbind(1)
    bias = attention.position_bias.reshape(heads, 2 * side - 1, 2 * side - 1)
    result = torch.zeros_like(q)
    for i in range(height):
        for j in range(width):
            top, left = i // side * side, j // side * side
            keys = [
                (y, x)
                for y in range(top, min(top + side, height))
                for x in range(left, min(left + side, width))
            ]
            for head in range(heads):
                scores = torch.stack(
                    [
                        (q[:, head, :, i, j] * k[:, head, :, y, x]).sum(1) / q.shape[2] ** 0.5
                        + bias[head, i - y + side - 1, j - x + side - 1]
                        for y, x in keys
                    ]
                )
                weights = scores.exp() / scores.exp().sum(0)
                values = torch.stack([v[:, head, :, y, x] for y, x in keys])
                result[:, head, :, i, j] = (weights[..., None] * values).sum(0)
    return F.conv2d(result.flatten(1, 2), attention.proj.weight, attention.proj.bias)


FORMULAE = [
    (ConvMetaEncoder, {}, conv_formula),
    (DepthwiseMetaEncoder, {}, depthwise_formula),
    (ResidualConvMetaEncoder, {}, residual_conv_formula),
    (MLPMetaEncoder, {}, mlp_formula),
    (MLPMetaEncoder, dict(num_blocks=3), mlp_formula),
    (ConvNeXtMetaEncoder, {}, convnext_formula),
    (ConvNeXtMetaEncoder, dict(kernel_size=3), convnext_formula),
    (
        WindowTransformerMetaEncoder,
        dict(num_heads=2, head_dim=3, window_size=3, mlp_ratio=2),
        window_transformer_formula,
    ),
]


@pytest.mark.parametrize('encoder, arguments, formula', FORMULAE)
@pytest.mark.parametrize('height, width', [(1, 1), (3, 6), (5, 4)])
def test_equals_its_formula(encoder, arguments, formula, height, width):
    encoder = make(encoder.__name__, 5, random=True, **arguments)
    x, t = inputs(2, 5, height, width)
    with torch.no_grad():
        assert_close(encoder(x, t), formula(encoder, x + t))


@pytest.mark.parametrize('window_size', [0, -7])
def test_windows_of_no_size_are_refused(window_size):
    with pytest.raises(ValueError, match=f'window_size must be 1 or more .*got {window_size}'):
        make('WindowTransformerMetaEncoder', 8, window_size=window_size)


@torch.no_grad()
def test_a_map_smaller_than_the_window_attends_to_all_of_itself():
    torch.manual_seed(0)
    large, small = (WindowAttention(4, 2, 3, side).double() for side in (7, 5))
    torch.nn.init.normal_(large.position_bias)
    small.qkv, small.proj = large.qkv, large.proj
    offsets = large.position_bias.reshape(2, 13, 13)  # -6 to 6, of which -4 to 4 are used
    small.position_bias.copy_(offsets[:, 2:-2, 2:-2].reshape(2, -1))
    x, _ = inputs(2, 4, 5, 5)
    assert_close(large(x), small(x))


@torch.no_grad()
def test_windows_do_not_see_each_other():
    torch.manual_seed(0)
    attention = WindowAttention(4, 2, 3, 3).double()
    torch.nn.init.normal_(attention.position_bias)
    x, _ = inputs(2, 4, 7, 5)
    result = attention(x)
    for rows in [slice(0, 3), slice(3, 6), slice(6, 7)]:
        for columns in [slice(0, 3), slice(3, 5)]:
            assert_close(attention(x[:, :, rows, columns]), result[:, :, rows, columns])


@torch.no_grad()
def test_attention_without_scores_is_the_mean_of_a_window():
    attention = WindowAttention(2, 1, 2, 4).double()
    torch.nn.init.zeros_(attention.position_bias)
    attention.qkv.weight.zero_()
    attention.qkv.weight[4:, :, 0, 0] = torch.eye(2)
    attention.proj.weight[:, :, 0, 0] = torch.eye(2)
    attention.proj.bias.zero_()
    x, _ = inputs(2, 2, 4, 6)
    result = attention(x)
    for columns in [slice(0, 4), slice(4, 6)]:
        mean = x[..., columns].mean((2, 3), keepdim=True)
        assert_close(result[..., columns], mean.expand(2, 2, 4, columns.stop - columns.start))


@torch.no_grad()
def test_channel_layer_norm():
    norm = ChannelLayerNorm(6).double()
    x, _ = inputs(2, 6, 3, 4)
    assert_close(norm(x), layer_norm(x, norm))
    torch.testing.assert_close(norm(5 * x + 3), norm(x), rtol=0, atol=1e-3)  # eps is not scaled
    assert_close(norm(x).mean(1), torch.zeros(2, 3, 4, dtype=torch.float64))


@torch.no_grad()
def test_velocity_of_the_mlp_is_bounded_as_said():
    encoder = make('MLPMetaEncoder', 8, random=True)
    x, t = inputs(2, 8, 5, 5)
    norm = encoder.norms[-1]
    bound = norm.weight.abs().max() * 8**0.5 + norm.bias.norm()
    assert encoder(1e3 * x, t).norm(dim=1).max() <= bound


@pytest.mark.parametrize('num_blocks', [1, 2, 3])
def test_an_mlp_has_so_many_blocks_and_starts_at_zero(num_blocks):
    encoder = make('MLPMetaEncoder', 8, num_blocks=num_blocks)
    assert sum(p.numel() for p in encoder.parameters()) == num_blocks * (2 * 8 * 8 + 2 * 8)
    x, t = inputs(2, 8, 5, 5)
    assert torch.equal(encoder(x, t), torch.zeros_like(x))
    # of an earlier one at 0, what follows would divide by the root of its eps
    first = [norm.weight.unique().tolist() for norm in encoder.norms]
    assert first == [[1.0]] * (num_blocks - 1) + [[0.0]]
    encoder = make('MLPMetaEncoder', 8, random=True, num_blocks=num_blocks)
    encoder(x, t).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())


def test_arguments_are_checked():
    with pytest.raises(ValueError, match='kernel_size must be odd .* got 4'):
        ConvNeXtMetaEncoder(4, kernel_size=4)
    with pytest.raises(ValueError, match='num_blocks must be 1 or more'):
        MLPMetaEncoder(4, num_blocks=0)
