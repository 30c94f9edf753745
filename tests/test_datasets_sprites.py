"""Sprites, held to exact counts of the lattice points in a shape; and files in dSprites' form."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gaussians import z_score
from torch import Tensor
from torch.distributions import constraints
from torch.utils.data import DataLoader

import vaekit as vk
from vaekit import metrics
from vaekit.datasets import batches, loader
from vaekit.datasets.sprites import _SHAPES, FactorDataset, _draw, dsprites, sprites

Refuses = Callable[..., Exception]

SIZES = (3, 6, 40, 32, 32)
SCALES = torch.linspace(0.5, 1, 6, dtype=torch.double)
ANGLES = torch.linspace(0, 2 * math.pi, 40, dtype=torch.double)
AREA = 529.0
HALF = 11.5  # of a square's side
AXES = math.sqrt(AREA / math.pi * 8 / 5), math.sqrt(AREA / math.pi * 5 / 8)  # of an ellipse, halved
EDGE = math.sqrt(AREA / (1 + math.pi / 4))  # of a heart
PERIMETERS = (
    8 * HALF,
    2 * math.pi * math.sqrt((AXES[0] ** 2 + AXES[1] ** 2) / 2),  # an upper bound
    (2 + math.pi) * EDGE,
)


@pytest.fixture(scope="module")
def data() -> FactorDataset:
    return sprites()


def at(data: FactorDataset, *places: tuple[int, int]) -> Tensor:
    """The images of all shapes, scales and orientations at some places (x, y)."""
    templates = torch.cartesian_prod(*map(torch.arange, SIZES[:3]))
    made = [torch.cat([templates, torch.tensor([place] * 720)], 1) for place in places]
    return data.images(torch.cat(made)).view(len(places), *SIZES[:3], 64, 64)


# Exact numbers of the pixels in each row, from where a line cuts the shape


def _lattice(low: float, high: float) -> int:
    return max(0, math.floor(high) - math.ceil(low) + 1)


def _square_row(y: float, scale: float, angle: float) -> int:
    """Cut the line at height y by the four sides: |cos x + sin y| and |cos y - sin x| <= half."""
    cos, sin, half = math.cos(angle), math.sin(angle), scale * HALF
    low, high = -math.inf, math.inf
    for slope, offset in ((cos, sin * y), (-sin, cos * y)):
        if abs(slope) < 1e-12:
            if abs(offset) > half:
                return 0
            continue
        ends = sorted(((-half - offset) / slope, (half - offset) / slope))
        low, high = max(low, ends[0]), min(high, ends[1])
    return _lattice(low, high)


def _ellipse_row(y: float, scale: float, angle: float) -> int:
    """Solve the quadratic form, which is 1 on the edge, for x at the height y."""
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    form = turn.T @ np.diag([(scale * axis) ** -2 for axis in AXES]) @ turn
    a, b, c = form[0, 0], form[0, 1] * y, form[1, 1] * y**2 - 1
    if b**2 < a * c:
        return 0
    root = math.sqrt(b**2 - a * c)
    return _lattice((-b - root) / a, (-b + root) / a)


@pytest.mark.parametrize(("shape", "row"), [(0, _square_row), (1, _ellipse_row)])
def test_every_row_of_a_square_and_an_ellipse_has_its_exact_number_of_pixels(
    data: FactorDataset, shape: int, row: Callable[[float, float, float], int]
) -> None:
    counted = at(data, (16, 16))[0, shape, ..., 16:49, :].sum(-1).int()  # 33 rows, from 16 up
    wanted = [
        [[row(16 - i, scale, angle) for i in range(33)] for angle in ANGLES.tolist()]
        for scale in SCALES.tolist()
    ]
    assert counted.tolist() == wanted


@pytest.mark.parametrize("shape", range(3))
def test_areas_are_the_analytic_ones(data: FactorDataset, shape: int) -> None:
    counts = at(data, (0, 0))[0, shape].sum((-1, -2)).double()
    areas = AREA * SCALES.square()[:, None]
    # Steinhaus, 1947: the lattice points in a curve differ from its area by less than its length.
    assert ((counts - areas).abs() < SCALES[:, None] * PERIMETERS[shape]).all()
    relative = (counts / areas)[:, :20].flatten()  # the other half are mirror images
    assert z_score(relative, 1.0).abs() < 4


# Geometry


@pytest.mark.parametrize("inside", _SHAPES)
def test_a_quarter_turn_turns_the_pixels(inside: Any) -> None:
    one = _draw(inside, SCALES[:, None], ANGLES)
    other = _draw(inside, SCALES[:, None], ANGLES + math.pi / 2)  # anticlockwise, as is rot90
    assert torch.equal(one.rot90(1, (-2, -1)), other)


@pytest.mark.parametrize(("shape", "symmetric"), [(0, (1, 2)), (1, (2,)), (2, ())])
def test_symmetries(shape: int, symmetric: tuple[int, ...]) -> None:
    drawn = _draw(_SHAPES[shape], SCALES[:, None], ANGLES)
    for quarters in (1, 2):
        turned = _draw(_SHAPES[shape], SCALES[:, None], ANGLES + quarters * math.pi / 2)
        assert torch.equal(drawn, turned) == (quarters in symmetric)


def test_orientations_i_and_39_minus_i_are_mirror_images(data: FactorDataset) -> None:
    drawn = at(data, (16, 16))[0]
    mirrored = drawn.flip(-1).roll(1, -1)  # about column 32, the sprite's middle
    assert torch.equal(mirrored.flip(2), drawn)
    assert torch.equal(drawn[:, :, 0], drawn[:, :, 39])


def test_a_sprite_turns_about_its_centre_of_mass(data: FactorDataset) -> None:
    images = at(data, (16, 16))[0].double()
    steps = torch.arange(64, dtype=torch.double) - 32
    mass = images.sum((-1, -2))
    right = (images.sum(-2) * steps).sum(-1) / mass
    up = -(images.sum(-1) * steps).sum(-1) / mass
    assert (right[:2] == 0).all()
    assert (up[:2] == 0).all()
    # A heart's is on its axis, but for rounding; half of the orientations are mirror images.
    along = (up[2] * ANGLES.cos() - right[2] * ANGLES.sin()) / SCALES[:, None]
    assert along.abs().max() < 0.5
    assert z_score(along[:, :20].flatten(), 0.0).abs() < 4


def test_the_heart_stands_on_its_point(data: FactorDataset) -> None:
    heart = at(data, (16, 16))[0, 2, 5, 0]
    rows = heart.sum(1)
    first, last = rows.nonzero()[[0, -1], 0].tolist()
    assert heart[last].nonzero()[:, 0].tolist() == [32]
    assert heart[first, 32] == 0  # between the two discs
    assert rows[first] > 4
    assert rows.argmax() < 32


def test_no_sprite_leaves_the_image(data: FactorDataset) -> None:
    corners = at(data, (0, 0), (31, 0), (0, 31), (31, 31)).sum((-1, -2))
    assert (corners == corners[0]).all()
    assert corners.min() > 100


@pytest.mark.parametrize("template", [(0, 0, 3), (0, 5, 5), (1, 5, 0), (1, 2, 10), (2, 5, 25)])
def test_positions_are_shifts(data: FactorDataset, template: tuple[int, ...]) -> None:
    shape, scale, orientation = template
    images = data.select(shape=shape, scale=scale, orientation=orientation)[:][0]
    first = images[0, 0]
    assert first.sum() == first[:33, :33].sum()
    wanted = [first.roll((y, x), (0, 1)) for x in range(32) for y in range(32)]
    assert torch.equal(images[:, 0], torch.stack(wanted))


def test_all_shapes_and_scales_differ(data: FactorDataset) -> None:
    drawn = at(data, (3, 4))[0]
    assert len(drawn[:, :, 0].flatten(0, 1).flatten(1).unique(dim=0)) == 18
    for shape in (1, 2):  # an ellipse and a heart look different at every orientation but the last
        for scale in range(6):
            assert len(drawn[shape, scale].flatten(1).unique(dim=0)) == 39


# The data set


def test_what_it_says_of_itself(data: FactorDataset) -> None:
    assert len(data) == 737_280
    assert data.factor_names == ("shape", "scale", "orientation", "x", "y")
    assert data.factor_sizes == SIZES
    assert data.shape == (1, 64, 64)
    assert data.support is constraints.boolean
    values = list(data.factor_values.values())
    for found, wanted in zip(
        values,
        ([1, 2, 3], SCALES, ANGLES, torch.arange(32) / 31, torch.arange(32) / 31),
        strict=True,
    ):
        torch.testing.assert_close(found, torch.as_tensor(wanted).float())
    assert isinstance(data, metrics.GroundTruth)
    expected = "FactorDataset(737280 x (1, 64, 64), shape=3, scale=6, orientation=40, x=32, y=32)"
    assert repr(data) == expected
    part = data.split(0.25, 0.75)[0]
    assert repr(part) == expected.replace("737280", "184320 of 737280")


def test_the_flat_order_is_the_published_one(data: FactorDataset) -> None:
    flat = torch.randint(len(data), (1000,))
    indices = data.indices(flat)
    wanted = np.stack(np.unravel_index(flat.numpy(), SIZES), 1)
    assert indices.tolist() == wanted.tolist()
    assert torch.equal(data.flat(indices), flat)
    images, labels = data[flat]
    assert torch.equal(labels, indices)
    assert torch.equal(data.images(indices), images)
    assert torch.equal(data.indices([-1, 0]), torch.tensor([[2, 5, 39, 31, 31], [0, 0, 0, 0, 0]]))


def test_indexing(data: FactorDataset) -> None:
    image, factors = data[123_456]
    assert image.shape == (1, 64, 64)
    assert set(image.unique().tolist()) == {0.0, 1.0}
    for index in ([123_456], torch.tensor([123_456]), slice(123_456, 123_457), [-613_824]):
        images, labels = data[index]
        assert torch.equal(images, image[None])
        assert torch.equal(labels, factors[None])
    assert data[:0][0].shape == (0, 1, 64, 64)
    assert data.images(torch.empty(0, 5, dtype=torch.long)).shape == (0, 1, 64, 64)
    with pytest.raises(IndexError):
        data[737_280]


def test_values(data: FactorDataset, refuses: Refuses) -> None:
    _, factors = data[[5, 100_000, 737_279]]
    found = data.values(factors)
    for row, indices in zip(found, factors, strict=True):
        pairs = zip(data.factor_values.values(), indices, strict=True)
        assert row.tolist() == [float(values[index]) for values, index in pairs]
    assert found[-1].tolist() == [3, 1, pytest.approx(2 * math.pi), 1, 1]
    part = data.select(scale=[3, 1])
    assert part.values(torch.tensor([[0, 1, 0, 0, 0]]))[0, 1] == data.factor_values["scale"][1]
    refuses(IndexError, lambda: part.values(torch.tensor([[0, 2, 0, 0, 0]])), "scale")


def test_dtypes(data: FactorDataset) -> None:
    half = sprites(dtype=torch.float16)
    indices = torch.tensor([[2, 3, 4, 5, 6]])
    assert half[0][0].dtype == half.images(indices).dtype == torch.float16
    assert half.factor_values["scale"].dtype == torch.float16
    assert torch.equal(half.images(indices).float(), data.images(indices.to(torch.uint8)))


def test_select(data: FactorDataset) -> None:
    chosen = data.select(
        shape=2, orientation=range(0, 40, 4), x=torch.tensor([31, 0]), y=np.array([5, 6, 7])
    )
    assert chosen.factor_sizes == (1, 6, 10, 2, 3)
    assert len(chosen) == 360
    torch.testing.assert_close(chosen.factor_values["orientation"], ANGLES[::4].float())
    assert chosen.factor_values["x"].tolist() == [1, 0]
    images, labels = chosen[:]
    assert torch.equal(labels, torch.cartesian_prod(*map(torch.arange, chosen.factor_sizes)))
    of_whole = torch.stack(
        [
            torch.full((360,), 2),
            labels[:, 1],
            4 * labels[:, 2],
            torch.tensor([31, 0])[labels[:, 3]],
            5 + labels[:, 4],
        ],
        1,
    )
    assert torch.equal(images, data.images(of_whole))
    assert torch.equal(chosen.images(labels), images)
    again = chosen.select(x=1)
    assert again.factor_sizes == (1, 6, 10, 1, 3)
    assert torch.equal(again[:][0], images[labels[:, 3] == 1])
    assert data.factor_sizes == SIZES
    assert data.select(x=(i for i in (3, 4))).factor_sizes == (3, 6, 40, 2, 32)
    assert torch.equal(data.select().labels, data.labels)


def test_parts_keep_their_pairs(data: FactorDataset) -> None:
    small = data.select(scale=[0, 5], orientation=[0, 7], x=[0, 1], y=[2])
    for part in (*small.split(20, 4), small.subset([5, 3, 5])):
        images, labels = part[:]
        assert torch.equal(small.images(labels), images)
        assert torch.equal(part.images(labels), images)
        assert torch.equal(part.indices(range(len(part))), labels)


def test_copies_are_equal(data: FactorDataset) -> None:
    rows = [0, 400_000, 737_279]
    for other in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert all(map(torch.equal, other[rows], data[rows]))
        assert other._x.untyped_storage().nbytes() < 3_000_000


def test_devices(data: FactorDataset, device: torch.device) -> None:
    moved = data.to(device)
    part = data.split(0.5, 0.5)[0].to(device)
    rows = torch.tensor([5, 300_000])
    for one, other in ((moved, data), (part, data.split(0.5, 0.5)[0])):
        images, labels = one[rows]
        assert one.device.type == images.device.type == labels.device.type == device.type
        assert torch.equal(images.cpu(), other[rows][0])
        assert torch.equal(labels.cpu(), other[rows][1])
        for indices in (labels, labels.cpu()):
            assert torch.equal(one.images(indices), images)
    assert torch.equal(moved.flat(labels.cpu()), moved.flat(labels))
    chosen = moved.select(shape=torch.tensor([1], device=device), y=[0])
    assert chosen[0][0].device.type == chosen.factor_values["y"].device.type == device.type
    assert moved._x.untyped_storage().nbytes() < 3_000_000


# What is refused


@pytest.mark.parametrize("factor", range(5))
@pytest.mark.parametrize("outside", [-1, "size"])
def test_indices_out_of_range_name_the_factor(
    data: FactorDataset, refuses: Refuses, factor: int, outside: Any
) -> None:
    name, size = data.factor_names[factor], SIZES[factor]
    index = size if outside == "size" else outside
    indices = torch.zeros(4, 5, dtype=torch.long)
    indices[2, factor] = index
    for call in (
        lambda: data.images(indices),
        lambda: data.flat(indices),
        lambda: data.select(**{name: index}),
    ):
        error = refuses(IndexError, call, f"from 0 to {size - 1}", f"{index}")
        assert str(error).startswith(f"{name}:")


def test_bad_indices(data: FactorDataset, refuses: Refuses) -> None:
    refuses(TypeError, lambda: data.images(torch.zeros(2, 5)), "indices", "torch.float32")
    for shape in ((5,), (2, 6)):
        indices = torch.zeros(shape, dtype=torch.long)
        refuses(ValueError, lambda indices=indices: data.images(indices), "shape, scale", "(n, 5)")
    refuses(IndexError, lambda: data.indices([737_280]), "flat", "737279")


def test_bad_selections(data: FactorDataset, refuses: Refuses) -> None:
    refuses(ValueError, lambda: data.select(colour=[0]), "factors", "'colour'", "'orientation'")
    refuses(ValueError, lambda: data.select(x=[]), "x: expected at least one")
    refuses(ValueError, lambda: data.select(x=[1, 1]), "x", "twice", "[1, 1]")
    refuses(TypeError, lambda: data.select(x=[0.5]), "x: expected", "whole numbers")
    refuses(TypeError, lambda: data.select(shape=["heart"]), "shape: expected", "whole numbers")
    refuses(TypeError, lambda: data.select(x=[True] * 32), "x: expected", "whole numbers")
    part = data.select(x=[0, 1], y=0).split(0.5, 0.5)[0]
    refuses(ValueError, lambda: part.select(x=0), "a whole product", "720 of 1440", "Select first")


# Images of one's own


def test_images_of_ones_own() -> None:
    x = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2)
    names: dict[str, Any] = {"size": [1.5, 2.5], "colour": torch.arange(3)}
    data = FactorDataset(x, names)
    assert data.support is constraints.unit_interval
    assert torch.equal(data[:][0], x / 255)
    assert torch.equal(data.images(data.labels), x / 255)
    backwards = FactorDataset(x, names, torch.arange(5, -1, -1).view(2, 3), scale=1)
    assert torch.equal(backwards[:][0], x.flip(0).float())
    assert backwards.support is constraints.real
    assert FactorDataset(x.clamp(max=1), names, scale=1).support is constraints.boolean
    assert FactorDataset(x > 4, names).support is constraints.boolean
    one = FactorDataset(x, {"only": range(6)})
    assert one.labels.tolist() == [[i] for i in range(6)]


def test_what_does_not_fit_is_refused(refuses: Refuses) -> None:
    x = torch.rand(6, 2)
    names = {"size": [1, 2], "colour": [1, 2, 3]}
    make: Any = FactorDataset
    refuses(TypeError, lambda: make(x.numpy(), names), "x: expected a tensor", "ndarray")
    refuses(ValueError, lambda: make(torch.full((6, 2), math.nan), names), "x", "NaN")
    refuses(ValueError, lambda: make(x[:5], names), "factor_values", "5 elements", "(2, 3)")
    refuses(ValueError, lambda: make(x, {}), "factor_values")
    refuses(ValueError, lambda: make(x, names | {"more": []}), "more: expected")
    refuses(ValueError, lambda: make(x, names, torch.arange(6)), "rows: expected shape (2, 3)")
    rows = torch.arange(6).view(2, 3)
    refuses(ValueError, lambda: make(x, names, rows + 1), "rows", "from 0 to 5", "1 to 6")


# What takes a data set


def test_batches(data: FactorDataset) -> None:
    small = data.select(orientation=[0, 3], x=[0, 31], y=[4, 5])  # 144 images
    for made in (
        loader(small, 50),
        DataLoader(small, 50),
        DataLoader(small, 50, num_workers=1),
        batches(small, 50),
    ):
        sizes, seen = [], []
        for batch in made:
            images, labels = batch[0], batch[-1]
            assert torch.equal(small.images(labels), images)
            sizes.append(len(images))
            seen.append(labels)
        assert sizes == [50, 50, 44]
        assert torch.equal(torch.cat(seen), small.labels)
    shuffled = torch.cat([labels for _, labels in loader(small, 50, shuffle=True)])
    assert not torch.equal(shuffled, small.labels)
    assert torch.equal(small.flat(shuffled).sort().values, torch.arange(144))


class Conditional(torch.nn.Module):
    """A network that is told the factors."""

    takes_context = True

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.net = vk.networks.mlp(into + 5, [16], out)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.net(torch.cat([x.flatten(1), context.to(x.dtype)], 1))


@pytest.mark.parametrize("conditional", [False, True])
def test_training(data: FactorDataset, device: torch.device, conditional: bool) -> None:
    train, test = data.select(scale=[5], orientation=[0, 5]).to(device).split(5000, 1144)
    latent, size = vk.GaussianLatent(2), 64 * 64

    def net(into: int, out: int) -> torch.nn.Module:
        return Conditional(into, out) if conditional else vk.networks.mlp(into, [16], out)

    model = vk.VAE(
        vk.Encoder(net(size, latent.num_params), latent),
        vk.Decoder(net(2, size), vk.likelihoods.Bernoulli((1, 64, 64))),
    ).to(device)
    objective = vk.Reconstruction() + vk.KL()
    history = vk.fit(
        model,
        objective,
        train,
        steps=20,
        validate_every=10,
        validation=test,
        progress=False,
        seed=0,
    )
    losses = history.validation["loss"]
    assert losses[-1] < losses[0]


# The metrics


def places(images: Tensor) -> Tensor:
    """The column and the row of each sprite's centre of mass: a perfect code of the places."""
    mass = images[:, 0].double()
    steps = torch.arange(64, dtype=torch.double)
    return (
        torch.stack([(mass.sum(dim) * steps).sum(1) for dim in (1, 2)], 1)
        / mass.sum((1, 2))[:, None]
    )


def test_mig_of_the_identity_is_one_within_its_bins(data: FactorDataset) -> None:
    pytest.importorskip("sklearn")
    small = data.select(orientation=range(39), x=[0, 9, 18, 27], y=range(4))
    codes, factors = small.labels.double(), small.labels
    assert metrics.mig(codes, factors, bins=39 * 38).score == pytest.approx(1, abs=1e-12)
    coarse = metrics.mig(codes, factors, bins=13)  # three orientations to a bin
    wanted = [1, 1, math.log(13) / math.log(39), 1, 1]
    assert coarse.by_factor.tolist() == pytest.approx(wanted, abs=1e-12)


def binned_share(values: int, bins: int) -> float:
    """How much of the entropy of 0, 1, ... values - 1, all as common, stays in equal bins."""
    counts = [0] * bins
    for value in range(values):
        counts[min(value * bins // (values - 1), bins - 1)] += 1
    shares = [count / values for count in counts if count]
    return -sum(share * math.log(share) for share in shares) / math.log(values)


def test_mig_of_the_identity_on_all_factors_lacks_what_its_bins_hide(data: FactorDataset) -> None:
    pytest.importorskip("sklearn")
    everything = torch.cartesian_prod(*map(torch.arange, SIZES))
    assert len(everything) == len(data) == 737_280
    found = metrics.mig(everything.double(), everything)  # in 20 bins, of the factors' 40 and 32
    wanted = [binned_share(size, 20) for size in SIZES]
    assert wanted[:3] == pytest.approx([1, 1, math.log(20) / math.log(40)])
    # A bin of the places holds two of the 32, but 8 of the 20 hold one.
    assert wanted[3] == pytest.approx(1 - 24 / 32 * math.log(2) / math.log(32))
    assert found.by_factor.tolist() == pytest.approx(wanted, abs=1e-12)
    assert found.score == pytest.approx(sum(wanted) / 5, abs=1e-12)


def test_metrics_draw_from_it(data: FactorDataset) -> None:
    small = data.select(shape=[2], scale=[3], orientation=[7])
    score = metrics.factor_vae_score(small, places, train=200, test=100, batch=8, variance_of=500)
    assert score.score.mean == 1
    codes, factors = metrics.encode_factors(small, places, n=500)
    offset = codes - factors
    torch.testing.assert_close(offset, offset[:1].expand_as(offset), rtol=0, atol=1e-9)


# Files in the published form

KEYS = ("imgs", "latents_classes", "latents_values")
CHOSEN = {"shape": [0, 2], "scale": [1, 4], "orientation": [0, 10, 20], "x": [3, 30], "y": [0, 8]}


class NotToBeRead:
    def __reduce__(self) -> Any:
        return pytest.fail, ("the metadata were unpickled",)


def arrays(data: FactorDataset) -> dict[str, Any]:
    """A product of fewer values in the authors' form: with a colour, and classes of the whole."""
    small = data.select(**CHOSEN)
    images, labels = small[:]
    kept = [torch.tensor(which)[labels[:, i]] for i, which in enumerate(CHOSEN.values())]
    columns = zip(small.factor_values.values(), labels.T, strict=True)
    values = [values[index] for values, index in columns]
    zero = torch.zeros(len(labels))
    return {
        "imgs": images[:, 0].numpy().astype(np.uint8),
        "latents_classes": torch.stack([zero.long(), *kept], 1).numpy(),
        "latents_values": torch.stack([zero + 1, *values], 1).double().numpy(),
    }


def write(folder: Path, held: dict[str, Any]) -> Path:
    path = folder / "dsprites.npz"
    np.savez_compressed(path, metadata=np.array(NotToBeRead(), dtype=object), **held)
    return path


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_file_comes_as_it_was_written(
    data: FactorDataset, tmp_path: Path, device: torch.device, shuffled: bool
) -> None:
    held = arrays(data)
    if shuffled:
        order = np.random.default_rng(0).permutation(48)
        held = {key: value[order] for key, value in held.items()}
    read = dsprites(write(tmp_path, held))
    wanted = data.select(**CHOSEN)
    assert repr(read) == repr(wanted)
    assert read.support is constraints.boolean
    for name, values in wanted.factor_values.items():
        assert torch.equal(read.factor_values[name], values)
    assert all(map(torch.equal, read[:], wanted[:]))
    assert torch.equal(read.images(read.labels), wanted[:][0])
    assert torch.equal(read.to(device)[:][0].cpu(), wanted[:][0])
    assert (
        dsprites(str(tmp_path / "dsprites.npz"), dtype=torch.float64)[0][0].dtype == torch.float64
    )


def _without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda held: held.pop(key)


def _set(key: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda held: held.update({key: change(held[key])})


def _put(key: str, row: int, column: Any, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda held: held[key].__setitem__((row, column), value)


def _last_is_first(held: dict[str, Any]) -> None:
    for array in held.values():
        array[-1] = array[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *((_without(key), ("path: expected arrays", f"none of the name {key}")) for key in KEYS),
        (_set("imgs", lambda x: x[:, :32]), ("imgs: expected", "(48, 32, 64)")),
        (_set("imgs", lambda x: x.astype(float)), ("imgs: expected bytes", "float64")),
        (_set("imgs", lambda x: 255 * x), ("imgs: expected pixels of 0 and 1", "255")),
        (_set("imgs", lambda x: x[:0]), ("imgs: expected", "(0, 64, 64)")),
        (
            _set("latents_classes", lambda x: x[:, 1:]),
            ("latents_classes: expected shape", "(48, 6)"),
        ),
        (_set("latents_values", lambda x: x[1:]), ("latents_values: expected shape (48, 6)",)),
        (_put("latents_classes", 3, 0, 1), ("latents_classes: expected one colour",)),
        (_put("latents_values", 3, 2, 9.0), ("latents_values: expected one value", "scale")),
        (_last_is_first, ("2 x 2 x 3 x 2 x 2", "48 rows, 47 of them different")),
        (
            lambda held: held.update({key: value[:-1] for key, value in held.items()}),
            ("latents_classes", "47 rows, 47"),
        ),
    ],
)
def test_other_files_are_refused(
    data: FactorDataset,
    refuses: Refuses,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], Any],
    words: tuple[str, ...],
) -> None:
    held = arrays(data)
    change(held)
    path = write(tmp_path, held)
    refuses(ValueError, lambda: dsprites(path), *words)


def test_no_file_and_no_npz(refuses: Refuses, tmp_path: Path) -> None:
    missing = tmp_path / "dsprites.npz"
    address = "github.com/google-deepmind/dsprites-dataset"
    refuses(FileNotFoundError, lambda: dsprites(missing), "path", str(missing), address)
    for name, content in (("words.npz", b"words"), ("empty.npz", b""), ("torn.npz", b"PK\3\4torn")):
        other = tmp_path / name
        other.write_bytes(content)
        refuses(ValueError, lambda other=other: dsprites(other), "path: expected an npz file", name)
    np.save(tmp_path / "array.npy", np.zeros(3))
    refuses(ValueError, lambda: dsprites(tmp_path / "array.npy"), "path: expected an npz file")
