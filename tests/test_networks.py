"""Networks that know what they take and return."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import annotations_unchecked
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from vaekit import networks
from vaekit.networks import Conditioned, Network, Rungs, conv, conv_transpose, mlp

Refuses = Callable[..., Exception]

MAKERS: dict[str, Callable[..., Network]] = {
    "mlp": lambda **options: mlp(8, [6, 5], 4, **options),
    "mlp of shapes": lambda **options: mlp((2, 4), [6], (2, 2), **options),
    "linear": lambda **options: mlp(8, [], 4, **options),
    "conv": lambda **options: conv((2, 9, 8), [3, 4], 5, hidden=[6], **options),
    "conv_transpose": lambda **options: conv_transpose(5, [4, 3], (2, 9, 8), hidden=[6], **options),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@st.composite
def stacks(draw: st.DrawFn) -> dict[str, Any]:
    """Shapes of sequences, images and volumes, and convolutions that fit them."""
    sides = draw(st.lists(st.integers(8, 14), min_size=1, max_size=3))
    return {
        "shape": (draw(st.integers(1, 4)), *sides),
        "channels": draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)),
        "kernel_size": draw(st.integers(2, 6)),
        "hidden": draw(st.lists(st.integers(1, 6), max_size=2)),
        "features": draw(st.integers(1, 6)),
    }


def _check(net: Network, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
    """Shapes are as promised, and every parameter has part in the output."""
    assert (net.in_shape, net.out_shape) == (in_shape, out_shape)
    out = net(torch.randn(2, *in_shape))
    assert out.shape == (2, *out_shape)
    out.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def _shapes(net: Network, x: Tensor) -> list[tuple[int, ...]]:
    """What goes in and out of each convolution."""
    shapes: list[tuple[int, ...]] = []
    convolutions = (nn.modules.conv._ConvNd,)
    for layer in net.layers:
        before, x = x, layer(x)
        if isinstance(layer, convolutions):
            shapes += [tuple(before.shape[1:]), tuple(x.shape[1:])]
    return shapes


@given(stack=stacks())
def test_conv_and_conv_transpose_mirror_each_other(stack: dict[str, Any]) -> None:
    shape, channels, features = stack["shape"], stack["channels"], stack["features"]
    options = {
        "hidden": stack["hidden"],
        "kernel_size": stack["kernel_size"],
        "activation": nn.Tanh,
    }
    down = conv(shape, channels, features, **options)
    up = conv_transpose(features, channels[::-1], shape, **options)
    _check(down, shape, (features,))
    _check(up, (features,), shape)
    forth = _shapes(down, torch.zeros(1, *shape))
    back = _shapes(up, torch.zeros(1, features))
    assert forth == back[::-1]
    assert [sizes[0] for sizes in forth[1::2]] == channels
    for before, after in zip(forth[::2], forth[1::2], strict=True):
        for side, half in zip(before[1:], after[1:], strict=True):
            assert half in (side // 2, (side + 1) // 2)


@given(
    in_shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    hidden=st.lists(st.integers(1, 6), max_size=3),
    out_shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_mlp(in_shape: list[int], hidden: list[int], out_shape: list[int]) -> None:
    net = mlp(in_shape, hidden, out_shape, activation=nn.Tanh)
    _check(net, tuple(in_shape), tuple(out_shape))
    widths = [layer.out_features for layer in net.layers if isinstance(layer, nn.Linear)]
    assert widths == [*hidden, math.prod(out_shape)]
    assert sum(isinstance(layer, nn.Tanh) for layer in net.layers) == len(hidden)


def test_mlp_without_hidden_layers_is_linear() -> None:
    net = mlp(3, [], 2)
    (layer,) = net.layers
    x = torch.randn(5, 3)
    assert torch.equal(net(x), nn.functional.linear(x, layer.weight, layer.bias))


@makers
@given(batch=st.lists(st.integers(2, 3), max_size=3))
def test_any_batch_dimensions(make: Callable[..., Network], batch: list[int]) -> None:
    net = make().double()
    x = torch.randn(*batch, *net.in_shape, dtype=torch.float64)
    out = net(x)
    assert out.shape == (*batch, *net.out_shape)
    flat = net(x.reshape(-1, *net.in_shape))
    torch.testing.assert_close(out, flat.reshape(out.shape), rtol=1e-10, atol=1e-10)


@makers
def test_an_empty_batch(make: Callable[..., Network]) -> None:
    net = make()
    assert net(torch.zeros(0, *net.in_shape)).shape == (0, *net.out_shape)


@pytest.mark.parametrize("event", [(64,), (1, 8, 8), (8, 8), (4, 4, 4), (2, 2, 2, 8)])
@pytest.mark.parametrize("batch", [1, 5])
def test_mlp_flattens_pictures(event: tuple[int, ...], batch: int) -> None:
    net = mlp(64, [3], 2)
    x = torch.randn(batch, *event)
    assert torch.equal(net(x), net(x.reshape(batch, 64)))


@makers
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_computes_in_the_dtype_of_its_weights(
    make: Callable[..., Network], dtype: torch.dtype
) -> None:
    net = make().to(dtype)
    assert net(torch.zeros(3, *net.in_shape, dtype=dtype)).dtype == dtype


@makers
def test_it_runs_on_a_device(make: Callable[..., Network], device: torch.device) -> None:
    net = make().to(device)
    assert net(torch.zeros(3, *net.in_shape, device=device)).device.type == device.type


@makers
def test_autocast(make: Callable[..., Network]) -> None:
    net = make()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.zeros(3, *net.in_shape)).dtype == torch.bfloat16


@makers
def test_copies_and_state_dicts(make: Callable[..., Network]) -> None:
    net = make()
    x = torch.randn(3, *net.in_shape)
    other = make()
    assert not torch.equal(other(x), net(x))
    other.load_state_dict(net.state_dict())
    for twin in (other, copy.deepcopy(net)):
        assert torch.equal(twin(x), net(x))
        assert (twin.in_shape, twin.out_shape) == (net.in_shape, net.out_shape)
        assert {p.data_ptr() for p in twin.parameters()}.isdisjoint(
            p.data_ptr() for p in net.parameters()
        )


@makers
def test_its_repr_lists_its_layers(make: Callable[..., Network]) -> None:
    net = make()
    assert repr(net).startswith("Network(")
    assert all(repr(layer) in repr(net) for layer in net.layers)


@pytest.mark.parametrize("activation", ["relu", nn.ReLU(), None])
def test_an_activation_is_a_maker(activation: Any) -> None:
    with annotations_unchecked(), pytest.raises(TypeError, match=r"^activation: expected a class"):
        mlp(3, [4], 2, activation=activation)


@makers
def test_activations_are_made_anew(make: Callable[..., Network]) -> None:
    made: list[nn.Module] = []

    def activation() -> nn.Module:
        made.append(nn.PReLU())
        return made[-1]

    net = make(activation=activation)
    held = [layer for layer in net.layers if isinstance(layer, nn.PReLU)]
    assert len(held) == len(set(map(id, held))) == len(made)
    assert not isinstance(net.layers[-1], nn.PReLU)


def test_dropout_drops_in_training_alone() -> None:
    net = mlp(4, [10_000], 1, dropout=0.25)
    x = torch.randn(1, 4)
    assert not torch.equal(net(x), net(x))
    hidden = net.layers[:-1]
    kept = (hidden(x) != 0).double().mean() / (hidden.eval()(x) != 0).double().mean()
    active = int((hidden(x) != 0).sum())
    assert abs(kept - 0.75) < 5 * math.sqrt(0.75 * 0.25 / active)
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.bool])
@makers
def test_whole_numbers_become_floats_of_the_weights_dtype(
    make: Callable[..., Network], dtype: torch.dtype
) -> None:
    net = make().double()
    x = torch.randint(2, (2, *net.in_shape)).to(dtype)
    assert torch.equal(net(x), net(x.double()))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.complex64])
@makers
def test_bytes_and_complex_numbers_are_refused(
    make: Callable[..., Network], dtype: torch.dtype, refuses: Refuses
) -> None:
    net = make()
    x = torch.zeros(2, *net.in_shape, dtype=dtype)
    hint = "float() / 255" if dtype == torch.uint8 else ""
    refuses(TypeError, lambda: net(x), "x: expected floating-point values", str(dtype), hint)


def test_channels_that_come_last_are_told_to_come_first(refuses: Refuses) -> None:
    net, x = conv((3, 8, 8), [4], 2), torch.rand(5, 8, 8, 3)
    refuses(ValueError, lambda: net(x), "x: expected shape (..., 3, 8, 8)", "x.movedim(-1, 1)")
    assert net(x.movedim(-1, 1)).shape == (5, 2)


def test_counts_beside_attributes_leave_these_as_they_are() -> None:
    counts, attributes = torch.randint(5, (3, 4)), torch.rand(3, 2)
    net = Conditioned(mlp(6, [], 5), 2)
    assert torch.equal(net(counts, attributes), net(counts.float(), attributes))
    rungs = Rungs(4, [3, 2], [2, 2])
    for one, other in zip(rungs(counts), rungs(counts.float()), strict=True):
        assert torch.equal(one, other)


@makers
def test_another_dtype_than_that_of_the_weights_is_refused(
    make: Callable[..., Network], refuses: Refuses
) -> None:
    net = make()
    x = torch.zeros(2, *net.in_shape, dtype=torch.float64)
    refuses(TypeError, lambda: net(x), "x: expected torch.float32", "weights", "torch.float64")


def test_what_else_goes_wrong_inside_keeps_its_own_error() -> None:
    net = Network([nn.Linear(3, 2), nn.Linear(3, 2)], [3], [2])
    for autocast in (False, True):
        x = torch.zeros(1, 3, dtype=torch.bfloat16 if autocast else torch.float32)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            pytest.raises(RuntimeError, match="cannot be multiplied"),
        ):
            net(x)


@pytest.mark.parametrize(
    ("net", "shape", "words"),
    [
        (mlp(8, [3], 2), (2, 7), ("x: expected 8 values for each element", "(2, 7)")),
        (mlp(8, [3], 2), (2, 3, 3), ("x: expected 8 values", "(2, 3, 3)")),
        (mlp(8, [3], 2), (), ("x: expected 8 values", "()")),
        (mlp((2, 4), [3], 2), (5, 7), ("x: expected shape (..., 2, 4)", "(5, 7)")),
        (conv((1, 8, 8), [2], 2), (5, 3, 8, 8), ("x: expected shape (..., 1, 8, 8)", "3, 8, 8")),
        (conv((1, 8, 8), [2], 2), (8, 8), ("x: expected shape (..., 1, 8, 8)", "(8, 8)")),
        (conv_transpose(4, [2], (1, 8)), (5, 3), ("x: expected 4 values", "(5, 3)")),
    ],
)
def test_a_shape_that_does_not_fit_is_named(
    net: Network, shape: tuple[int, ...], words: tuple[str, ...], refuses: Refuses
) -> None:
    refuses(ValueError, lambda: net(torch.zeros(shape)), *words)


def _down(**options: Any) -> Network:
    return conv(**{"in_shape": (1, 8, 8), "channels": [4], "out_features": 2} | options)


def _up(**options: Any) -> Network:
    return conv_transpose(**{"in_features": 2, "channels": [4], "out_shape": (1, 8, 8)} | options)


def _dense(**options: Any) -> Network:
    return mlp(**{"in_features": 4, "hidden": [3], "out_features": 2} | options)


@pytest.mark.parametrize(
    ("error", "make", "options", "words"),
    [
        (ValueError, _dense, {"in_features": 0}, ("in_features: expected", "got 0")),
        (ValueError, _dense, {"in_features": ()}, ("in_features: expected", "got ()")),
        (ValueError, _dense, {"in_features": (2, -1)}, ("in_features: expected", "got -1")),
        (ValueError, _dense, {"out_features": (2, 2.5)}, ("out_features: expected", "got 2.5")),
        (ValueError, _dense, {"out_features": True}, ("out_features: expected", "got True")),
        (ValueError, _dense, {"hidden": [3, 0]}, ("hidden: expected", "got 0")),
        (ValueError, _dense, {"hidden": [-3]}, ("hidden: expected", "got -3")),
        (ValueError, _dense, {"hidden": [2.5]}, ("hidden: expected", "got 2.5")),
        (TypeError, _dense, {"hidden": 400}, ("hidden: expected a sequence", "got 400")),
        (TypeError, _dense, {"hidden": None}, ("hidden: expected a sequence", "got None")),
        (ValueError, _dense, {"dropout": 1}, ("dropout: expected", "[0, 1)", "got 1")),
        (ValueError, _dense, {"dropout": -0.1}, ("dropout: expected", "at least 0", "got -0.1")),
        (ValueError, _dense, {"dropout": math.nan}, ("dropout: expected", "nan")),
        (ValueError, _dense, {"dropout": None}, ("dropout: expected", "None")),
        *(
            (error, make, {name: value}, words)
            for make, name in ((_down, "in_shape"), (_up, "out_shape"))
            for error, value, words in (
                (ValueError, 8, (f"{name}: expected (C, L), (C, H, W)", "(8,)")),
                (ValueError, (1,) * 5, (f"{name}: expected (C, L), (C, H, W)", "1, 1)")),
                (ValueError, (1, 8, 0), (f"{name}: expected", "above 0", "got 0")),
                (
                    ValueError,
                    (1, 1, 8),
                    ("channels: expected", "halved", "1 for sides (1, 8)", name),
                ),
            )
        ),
        *(
            (error, make, options, words)
            for make in (_down, _up)
            for error, options, words in (
                (ValueError, {"channels": []}, ("channels: expected at least one", "got []")),
                (ValueError, {"channels": [0]}, ("channels: expected", "above 0", "got 0")),
                (ValueError, {"channels": [4, -1]}, ("channels: expected", "got -1")),
                (TypeError, {"channels": 4}, ("channels: expected a sequence", "got 4")),
                (ValueError, {"channels": [4] * 4}, ("channels: expected", "4 for sides (8, 8)")),
                (ValueError, {"kernel_size": 1}, ("kernel_size: expected at least 2", "got 1")),
                (ValueError, {"kernel_size": 2.5}, ("kernel_size: expected", "got 2.5")),
                (ValueError, {"hidden": [0]}, ("hidden: expected", "got 0")),
                (TypeError, {"hidden": 4}, ("hidden: expected a sequence", "got 4")),
            )
        ),
    ],
)
def test_what_does_not_fit_is_named(
    error: type[Exception],
    make: Callable[..., Network],
    options: dict[str, Any],
    words: tuple[str, ...],
    refuses: Refuses,
) -> None:
    refuses(error, lambda: make(**options), *words)


@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5])
def test_a_side_of_one_cannot_be_halved(kernel_size: int, refuses: Refuses) -> None:
    words = ("channels: expected", "1 for sides (8, 1)")
    refuses(ValueError, lambda: _down(in_shape=(1, 8, 1), kernel_size=kernel_size), *words)


def test_three_halvings_of_eight_are_not_too_many() -> None:
    assert _down(channels=[4] * 3).out_shape == (2,)
    assert _up(channels=[4] * 3).out_shape == (1, 8, 8)


@pytest.mark.parametrize("sides", [(8,), (9, 16), (8, 8, 8)])
def test_maps_mirror_each_other_and_take_flat_latents(sides: tuple[int, ...]) -> None:
    down = networks.conv_maps((3, *sides), [4, 8], 6)
    up = networks.conv_transpose_maps(3, [8, 4], (3, *sides))
    maps = down(torch.rand(5, 3, *sides))
    assert maps.shape == (5, *down.out_shape)
    assert down.out_shape[1:] == up.in_shape[1:]
    z = maps[:, :3]
    assert up(z).shape == (5, 3, *sides)
    torch.testing.assert_close(up(z.flatten(1)), up(z))


class TestConditioned:
    def test_the_context_lies_beside_the_input(self) -> None:
        net = networks.Conditioned(mlp(4 + 2, [], 3), 2)
        x, y = torch.rand(5, 2, 2), torch.tensor([0, 1, 1, 0, 1])
        beside = torch.stack([y == 0, y == 1], dim=1).float()
        torch.testing.assert_close(net(x, y), net.net(torch.cat([x.flatten(1), beside], dim=1)))

    def test_pictures_get_channels(self) -> None:
        net = networks.Conditioned(conv((1 + 3, 8, 8), [2], 5), 3)
        assert net.in_shape == (1, 8, 8)
        x, c = torch.rand(4, 1, 8, 8), torch.rand(4, 3)
        channels = c[:, :, None, None].expand(4, 3, 8, 8)
        torch.testing.assert_close(net(x, c), net.net(torch.cat([x, channels], dim=1)))

    def test_labels_come_in_many_forms(self) -> None:
        net, x, labels = networks.Conditioned(mlp(4 + 3, [], 5), 3), torch.rand(2, 4), [2, 0]
        expected = net(x, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
        rows = np.eye(3)[labels]
        for context in (labels, tuple(labels), np.array(labels), torch.tensor(labels), rows):
            assert torch.equal(net(x, context), expected)
        assert torch.equal(net(x, rows.tolist()), expected)

    @pytest.mark.parametrize("context", [7, {"y": [1, 2]}, "ab", ["a", "b"], [[1], [1, 2]]])
    def test_other_forms_are_refused(self, context: Any, refuses: Refuses) -> None:
        net = networks.Conditioned(mlp(4 + 3, [], 5), 3)
        words = "context: expected a tensor, an array or a sequence", repr(context)
        refuses(TypeError, lambda: net(torch.rand(2, 4), context), *words)

    def test_a_network_for_the_context_alone_is_refused(self, refuses: Refuses) -> None:
        refuses(
            ValueError, lambda: networks.Conditioned(mlp(3, [], 2), 3), "net", "more than the 3"
        )


def test_the_first_values_alone_are_read(refuses: Refuses) -> None:
    net = networks.FirstOf(mlp(2, [], 3), 5)
    x = torch.rand(4, 5)
    torch.testing.assert_close(net(x), net.net(x[:, :2]))
    assert net.in_shape == (5,)
    refuses(ValueError, lambda: networks.FirstOf(mlp(2, [], 3), 1), "size", "at least the 2", "1")


def test_rungs_are_outputs_behind_each_hidden_layer(refuses: Refuses) -> None:
    net = networks.Rungs(4, [6, 5], [3, 2])
    x = torch.rand(7, 2, 2)
    low, high = net(x)
    first = net.stages[0](x.flatten(1))
    torch.testing.assert_close(low, net.heads[0](first))
    torch.testing.assert_close(high, net.heads[1](net.stages[1](first)))
    assert (net.in_shape, net.out_shape) == ((4,), (5,))
    refuses(ValueError, lambda: networks.Rungs(4, [6, 5], [3]), "out_features", "2 hidden", "[3]")


def test_every_network_is_tested_here() -> None:
    assert set(networks.__all__) == {
        "Conditioned",
        "FirstOf",
        "Network",
        "Rungs",
        "conv",
        "conv_maps",
        "conv_transpose",
        "conv_transpose_maps",
        "mlp",
    }


def test_flat_maps_of_one_channel_are_a_batch_of_one() -> None:
    net = networks.conv_transpose_maps(1, [4], (1, 9))
    z = torch.randn(1, net.in_shape.numel())
    assert net(z).shape == (1, 1, 9)
    torch.testing.assert_close(net(z.expand(3, -1))[0], net(z)[0])


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64"])
def test_contexts_of_unsigned_numbers(kind: str) -> None:
    labels = torch.tensor([7, 0], dtype=getattr(torch, kind))
    for held in (labels, labels.numpy()):
        context = networks.as_context(held)
        assert context.dtype == torch.int64
        assert context.tolist() == [7, 0]
