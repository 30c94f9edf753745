import json
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import saved
import torch
from models import tiny
from packaging.version import Version
from test_conformance import LATENTS, LIKELIHOODS, POINTS, PRIORS
from test_recipes import MAKERS
from torch import distributions as td
from torch import nn

import vaekit as vk
from vaekit import pretrained, storage
from vaekit.architecture import UndescribedError, build, describe
from vaekit.training import DamagedFileError

#: What does not tell what it was made with: zuko's flows keep no arguments.
UNTOLD = {"flow_prior_vae", "FlowPrior"}


class Halves(vk.Encoder):
    """An encoder of the user's own, that keeps what it was made with."""

    def __init__(self, width: int, latent: nn.Module, scale: float = 1.0) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, width)), latent)
        self.width, self.scale = width, scale
        self.heads = nn.ModuleDict({"mu": nn.Linear(width, 2), "logvar": nn.Linear(width, 2)})

    def forward(self, x):
        hidden = self.net(x).relu() * self.scale
        return self.latent(torch.cat([self.heads["mu"](hidden), self.heads["logvar"](hidden)], -1))


class Forgetful(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(64, width)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Told(Forgetful):
    def init_args(self) -> dict:
        return {"width": self.layer.out_features}


def custom(net: nn.Module | None = None) -> vk.VAE:
    model, latent = tiny(), vk.GaussianLatent(2)
    encoder = Halves(12, latent, scale=0.5) if net is None else vk.Encoder(net, latent)
    return vk.VAE(encoder, model.decoder)


def of(net: nn.Module, shape: tuple[int, ...] = (1, 8, 8)) -> vk.VAE:
    """A model with some network for its encoder."""
    return vk.VAE(vk.Encoder(net, vk.GaussianLatent(2)), tiny(shape).decoder)


def with_tensors() -> vk.VAE:
    """A model with a part that was made with tensors."""
    model = tiny()
    wide = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    model.prior = vk.priors.Fixed(torch.distributions.Independent(wide, 1))
    return model


def alike(one: nn.Module, other: nn.Module) -> bool:
    mine, others = one.state_dict(), other.state_dict()
    same = (torch.equal(mine[key], others[key]) for key in mine)
    kinds = (mine[key].dtype == others[key].dtype for key in mine)
    return list(mine) == list(others) and all(same) and all(kinds)


def again(model: vk.VAE, folder: Path, **options) -> vk.VAE:
    model.save_pretrained(folder)
    with torch.random.fork_rng([]):
        before = torch.get_rng_state()
        found = vk.VAE.from_pretrained(folder, **options)
        assert torch.equal(torch.get_rng_state(), before)
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_every_recipe_comes_back(name: str, tmp_path: Path) -> None:
    make, _ = MAKERS[name]
    torch.manual_seed(1)
    model, _ = make()
    for parameter in model.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    if name in UNTOLD:
        with pytest.warns(UserWarning, match="needs model="):
            model.save_pretrained(tmp_path)
        other = vk.VAE.from_pretrained(tmp_path, model=make()[0])
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            other = again(model, tmp_path)
    assert alike(model, other)
    assert repr(model) == repr(other)
    assert not other.training
    x = torch.rand(4, 1, 8, 8).round()
    context = torch.tensor([0, 1, 2, 3]) if name == "cvae" else None
    torch.manual_seed(5)
    mine = model.eval()(x, None, context)
    torch.manual_seed(5)
    others = other(x, None, context)
    assert torch.equal(mine.z, others.z)
    assert torch.equal(mine.likelihood.mean, others.likelihood.mean)
    if not isinstance(mine.posterior, vk.distributions.PointMass):
        assert torch.equal(mine.prior.log_prob(mine.z), others.prior.log_prob(mine.z))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *LATENTS.items(),
        *POINTS.items(),
        *PRIORS.items(),
        *((name, make) for name, (make, _) in LIKELIHOODS.items()),
    ],
)
def test_every_part_tells_what_it_was_made_with(name: str, make) -> None:
    part, tensors = make(), {}
    if name in UNTOLD:
        with pytest.raises(UndescribedError, match="'features'"):
            describe(part, tensors)
        return
    described = json.loads(json.dumps(describe(part, tensors)))
    other = build(described, tensors, pretrained._finder([], vk.VAE._rooms), 1_000_000)
    assert repr(part) == repr(other)
    shapes = [{k: v.shape for k, v in each.state_dict().items()} for each in (part, other)]
    assert shapes[0] == shapes[1]


NETS = {
    "convolutions": lambda: vk.networks.conv((1, 8, 8), [4, 8], 4, activation=nn.ELU),
    "perceptron": lambda: vk.networks.mlp(64, [8], 4, dropout=0.1, activation=nn.Tanh),
    "torch": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, bias=False),
        nn.BatchNorm2d(4, momentum=0.2),
        nn.LeakyReLU(0.3),
        nn.GroupNorm(2, 4, affine=False),
        nn.Sequential(nn.Identity(), nn.Flatten(), nn.LayerNorm(36), nn.PReLU()),
        nn.Linear(36, 4),
    ),
    "pools": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d((3, 2)), nn.AdaptiveMaxPool2d(1), nn.Flatten()
    ),
    "one layer twice": lambda: nn.Sequential(
        nn.Flatten(), *[nn.Linear(64, 64)] * 2, *[nn.Tanh()] * 2, nn.Linear(64, 4, bias=False)
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_every_network_comes_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = of(NETS[name]())
    x = torch.rand(5, 1, 8, 8)
    model.train()(x)  # running statistics
    other = again(model, tmp_path)
    assert alike(model, other)
    assert torch.equal(model.eval().encode(x).mean, other.encode(x).mean)
    tied = [len({id(p) for p in each.parameters()}) for each in (model, other)]
    assert tied[0] == tied[1]


class Last(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)[0][:, -1]


@pytest.mark.parametrize(
    "net",
    [
        nn.LSTM(3, 4, num_layers=2, batch_first=True, bidirectional=False),
        nn.GRU(3, 4, batch_first=True, bias=False),
        nn.RNN(3, 4, batch_first=True, nonlinearity="relu"),
    ],
)
def test_recurrent_networks(net: nn.Module, tmp_path: Path) -> None:
    model = of(Last(net), (6, 3))
    other = again(model, tmp_path, classes=[Last])
    x = torch.rand(2, 6, 3)
    assert torch.equal(model.encode(x).mean, other.encode(x).mean)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float32], ids=str)
def test_in_every_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    model, _ = MAKERS["ladder_vae"][0]()
    other = again(model.to(dtype), tmp_path)
    assert alike(model, other)
    assert other.sample(2).dtype == model.sample(2).dtype


def test_from_and_to_a_device(device, tmp_path: Path) -> None:
    model = tiny().to(device)
    other = again(model, tmp_path)
    assert next(other.parameters()).device.type == "cpu"
    moved = vk.VAE.from_pretrained(tmp_path, device=device)
    assert alike(model, moved)
    assert next(moved.parameters()).device.type == torch.device(device).type


def test_a_prior_fitted_afterwards(tmp_path: Path) -> None:
    model = tiny()
    model.prior = vk.priors.fit_gaussian_mixture(torch.randn(50, 2), 3)
    other = again(model, tmp_path)
    z = torch.randn(6, 2)
    assert torch.equal(model.prior().log_prob(z), other.prior().log_prob(z))


FIXED = [
    torch.distributions.Normal(torch.tensor([1.0, 2.0]), 3.0),
    torch.distributions.StudentT(torch.tensor([2.0, 5.0])),
    torch.distributions.Laplace(torch.zeros(2), torch.ones(2)),
    torch.distributions.Uniform(torch.zeros(2) - 9, torch.tensor([9.0, 20.0])),
]


@pytest.mark.parametrize("distribution", FIXED, ids=lambda each: type(each).__name__)
def test_a_prior_of_torchs_own(distribution, tmp_path: Path) -> None:
    model = tiny()
    model.prior = vk.priors.Fixed(torch.distributions.Independent(distribution, 1))
    other = again(model, tmp_path)
    z = torch.randn(6, 2)
    assert torch.equal(model.prior().log_prob(z), other.prior().log_prob(z))


class TestClassesOfOnesOwn:
    def test_named_by_the_caller(self, tmp_path: Path) -> None:
        model = custom()
        other = again(model, tmp_path, classes=[Halves])
        assert isinstance(other.encoder, Halves)
        assert other.encoder.scale == 0.5
        x = torch.rand(3, 1, 8, 8)
        assert torch.equal(model.encode(x).mean, other.encode(x).mean)
        assert "classes=[Halves]" in (tmp_path / "README.md").read_text()

    def test_not_named(self, tmp_path: Path, refuses) -> None:
        words = "classes: expected 'Halves' among them", "VAE"
        refuses(ValueError, lambda: again(custom(), tmp_path), *words)

    def test_that_do_not_tell(self, tmp_path: Path, refuses) -> None:
        model = custom(Forgetful(4))
        words = "encoder.net: expected an attribute 'width', as Forgetful takes.*needs model="
        with pytest.warns(UserWarning, match=words):
            model.save_pretrained(tmp_path)
        refuses(ValueError, lambda: vk.VAE.from_pretrained(tmp_path), "model: expected", "'width'")
        other = vk.VAE.from_pretrained(tmp_path, model=custom(Forgetful(4)))
        assert alike(model, other)
        assert "model=model" in (tmp_path / "README.md").read_text()

    def test_that_have_a_method_for_it(self, tmp_path: Path) -> None:
        assert alike(custom(net := Told(4)), again(custom(net), tmp_path, classes=[Told]))

    def test_a_model_of_another_class(self, tmp_path: Path, refuses) -> None:
        class Mine(vk.VAE):
            pass

        tiny().save_pretrained(tmp_path)
        refuses(TypeError, lambda: Mine.from_pretrained(tmp_path), "expected a Mine, got VAE")
        parts = tiny()
        Mine(parts.encoder, parts.decoder).save_pretrained(tmp_path)
        assert type(Mine.from_pretrained(tmp_path)) is Mine


class Doubles(nn.Module):
    """Keeps something else under the name of an argument."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope, self.layer = 2 * slope, nn.Linear(64, 4)

    def forward(self, x):
        return self.slope * self.layer(x.flatten(1))


class Random(Doubles):
    def __init__(self) -> None:
        super().__init__(1.0)
        self.register_buffer("noise", torch.rand(4), persistent=False)

    def init_args(self) -> dict:
        return {}


class Mode(Doubles):
    def __init__(self, training: int) -> None:
        super().__init__(float(training))


def swapped() -> nn.Module:
    net = vk.networks.Rungs(64, [8], [4])
    net.stages[0][1] = nn.Tanh()
    return net


def hooked() -> nn.Module:
    net = vk.networks.mlp(64, [8], 4)
    net.register_forward_hook(lambda module, args, out: 2 * out)
    return net


def two_of_one_name() -> nn.Module:
    other = type("Told", (Told,), {"forward": lambda self, x: self.layer(x)})
    return nn.Sequential(Told(64), other(4))


class TestModelsThatWouldComeBackAsOthers:
    @pytest.mark.parametrize(
        ("make", "classes"),
        [
            (lambda: Doubles(3.0), [Doubles]),
            (Random, [Random]),
            (lambda: Mode(2), [Mode]),
            (swapped, []),
            (hooked, []),
            (two_of_one_name, [Told]),
        ],
    )
    def test_are_saved_with_a_warning(self, make, classes, tmp_path: Path) -> None:
        model = of(make())
        with pytest.warns(UserWarning, match="needs model="):
            model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="model: expected one of the same parts"):
            vk.VAE.from_pretrained(tmp_path, classes=classes)

    def test_what_is_frozen_stays_so(self, tmp_path: Path) -> None:
        model = tiny()
        model.encoder.requires_grad_(False)
        other = again(model, tmp_path)
        flags = [[p.requires_grad for p in each.parameters()] for each in (model, other)]
        assert flags[0] == flags[1]
        given = vk.VAE.from_pretrained(tmp_path, model=tiny())
        assert flags[0] == [p.requires_grad for p in given.parameters()]

    def test_arguments_are_looked_at_before_files(self, tmp_path: Path, refuses) -> None:
        load = vk.VAE.from_pretrained
        refuses(ValueError, lambda: load(tmp_path / "none", device="nope"), "device", "'nope'")
        refuses(TypeError, lambda: load(tmp_path, classes=Last), "classes", "a list", "[Last]")

    def test_a_layer_that_was_derived(self, tmp_path: Path) -> None:
        class Mine(nn.Linear):
            def forward(self, x):
                return super().forward(x.flatten(1)) / 2

        for bias in (True, False):
            model = of(Mine(64, 4, bias=bias))
            other = again(model, tmp_path, classes=[Mine])
            x = torch.rand(3, 1, 8, 8)
            assert torch.equal(model.encode(x).mean, other.encode(x).mean)


def tampered(folder: Path, name: str, change) -> None:
    """Write a file that was changed, and make the sums fit, as an attacker would."""
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    if name != "config.json":
        config = json.loads((folder / "config.json").read_text())
        config["sums"][name] = storage.sum_of(path)
        (folder / "config.json").write_text(json.dumps(config))


def reworded(old: str, new: str):
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return change


class TestAttacks:
    """Files made to harm are refused, and nothing they name is run."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        tiny().save_pretrained(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
    def test_pickle(self, folder: Path, name: str) -> None:
        class Run:
            def __reduce__(self):
                return (folder / "harm").write_text, ("done",)

        tampered(folder, name, lambda _: pickle.dumps(Run()))
        with pytest.raises(DamagedFileError, match=name):
            vk.VAE.from_pretrained(folder)
        assert not (folder / "harm").exists()

    @pytest.mark.parametrize("length", [2**63 - 1, 2**40, 150_000_000])
    def test_a_huge_header(self, folder: Path, length: int) -> None:
        tampered(
            folder, "model.safetensors", lambda content: length.to_bytes(8, "little") + content[8:]
        )
        with pytest.raises(DamagedFileError, match="holds no tensors"):
            vk.VAE.from_pretrained(folder)

    def test_a_huge_description(self, folder: Path) -> None:
        tampered(folder, "config.json", lambda content: content + b" " * 10_000_000)
        with pytest.raises(DamagedFileError, match="larger than any description"):
            vk.VAE.from_pretrained(folder)

    def test_nan_in_a_description(self, folder: Path) -> None:
        tampered(folder, "config.json", lambda content: content.replace(b"false", b"NaN", 1))
        assert "NaN" in (folder / "config.json").read_text()
        with pytest.raises(DamagedFileError, match="NaN among its numbers"):
            vk.VAE.from_pretrained(folder)

    def test_a_deep_description(self, folder: Path) -> None:
        deep = '{"format": 1, "sums": {}, "model": ' + "[" * 100_000 + "]" * 100_000 + "}"
        tampered(folder, "config.json", lambda _: deep.encode())
        with pytest.raises(DamagedFileError, match=r"config\.json"):
            vk.VAE.from_pretrained(folder)

    @pytest.mark.parametrize(
        "name",
        [
            "os.system",
            "builtins.eval",
            "torch.nn.Module.apply",
            "torch.load",
            "torch.nn.functional",
            "torch.nn.init",
            "torch.nn.../x",
            "vaekit.storage.scratch",
            "vaekit.vae.torch",
            "vaekit.networks.math",
            "vaekit.networks._widths",
            "../../etc/passwd",
            "Path",
            "",
        ],
    )
    def test_a_class_that_is_none_of_ours(self, folder: Path, name: str) -> None:
        tampered(folder, "config.json", reworded("torch.nn.Linear", name))
        with pytest.raises(ValueError, match="classes: expected") as caught:
            vk.VAE.from_pretrained(folder)
        assert repr(name) in str(caught.value)

    @pytest.mark.parametrize("name", ["vaekit.networks.mlp", "vaekit.networks.Activation"])
    def test_what_is_no_class(self, folder: Path, name: str) -> None:
        tampered(folder, "config.json", reworded("torch.nn.Linear", name))
        with pytest.raises(ValueError, match=r"classes: expected|no model can be built"):
            vk.VAE.from_pretrained(folder)

    @pytest.mark.parametrize("value", ["10000000000", "1000000", "-1", "NaN", "true", '"x"', "[]"])
    def test_sizes_that_do_not_fit(self, folder: Path, value: str) -> None:
        described = json.loads((folder / "config.json").read_text())
        layer = next(_layers(described["model"]))
        dict_of = dict(map(tuple, layer["arguments"]))
        dict_of["in_features"] = json.loads(value)
        layer["arguments"] = [list(pair) for pair in dict_of.items()]
        (folder / "config.json").write_text(json.dumps(described))
        with pytest.raises(ValueError, match=r"config\.json|shape"):
            vk.VAE.from_pretrained(folder)

    @pytest.mark.parametrize(
        "prior",
        [
            "evil",
            {"type": "torch.nn.Linear"},
            {"type": "vaekit.networks.mlp"},
            {
                "class": "torch.nn.TransformerEncoderLayer",
                "arguments": [["d_model", 8], ["nhead", 2]],
            },
            {"class": "torch.nn.DataParallel", "arguments": []},
            {"class": "torch.nn.Linear", "arguments": [["in_features", 2], ["device", "meta"]]},
            {"class": "torch.nn.Sequential", "arguments": []},
            {
                "class": "torch.nn.RNN",
                "arguments": [["input_size", 1], ["hidden_size", 1], ["num_layers", 10**7]],
            },
            {"class": "vaekit.priors.StandardNormal", "arguments": [["dim", 10**9]]},
            {"class": "vaekit.priors.StandardNormal"},
            {
                "class": "vaekit.latents.FlowLatent",
                "arguments": [
                    ["dim", 1],
                    ["context", 4 * 10**9],
                    ["flow", {"class": "torch.nn.Identity", "arguments": []}],
                ],
            },
            {"again": 99},
            {"tensor": "none"},
            {"tuple": 3},
            {},
        ],
    )
    def test_parts_that_are_none(self, folder: Path, prior) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["model"]["arguments"] = [
            [name, prior if name == "prior" else value]
            for name, value in config["model"]["arguments"]
        ]
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"config\.json: no model can be|classes: expected"):
            vk.VAE.from_pretrained(folder)

    @pytest.mark.parametrize("where", ["../outside", "/outside", "sub/../../outside"])
    def test_a_path_out_of_the_folder(self, folder: Path, where: str) -> None:
        """A file that would be read if the names in a description were paths."""
        model = with_tensors()
        model.save_pretrained(folder)
        (told,) = folder.glob("arguments-*.safetensors")
        outside = folder.parent / "outside"
        outside.mkdir(exist_ok=True)
        told.rename(outside / told.name)
        start = str(outside) if where.startswith("/") else where
        config = json.loads((folder / "config.json").read_text())
        config["sums"][f"{start}/{told.name}"] = config["sums"].pop(told.name)
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(DamagedFileError, match="no model can be built"):
            vk.VAE.from_pretrained(folder)

    @pytest.mark.parametrize("value", [torch.nan, 0.0])
    def test_arguments_that_harm(self, folder: Path, value: float) -> None:
        model = with_tensors()
        model.save_pretrained(folder)
        (told,) = folder.glob("arguments-*.safetensors")
        tensors, _ = storage.read_tensors(told)
        loc, scale = sorted(tensors)
        if value:
            tensors[loc].fill_(value)
        else:  # as many numbers as their product
            tensors = {loc: torch.zeros(40_000, 1), scale: torch.ones(1, 40_000)}
        storage.write_tensors(told, tensors, {})
        tampered(folder, told.name, bytes)
        with pytest.raises(ValueError, match=r"expected no NaN|larger than the weights"):
            vk.VAE.from_pretrained(folder)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
    def test_numbers_of_another_kind(self, folder: Path, dtype: torch.dtype) -> None:
        tensors, _ = storage.read_tensors(folder / "model.safetensors")
        name, value = tensors.popitem()
        if dtype.is_complex and Version(version("safetensors")) < Version("0.7"):
            pytest.skip("this safetensors writes no complex numbers, and reads none")
        storage.write_tensors(folder / "model.safetensors", tensors | {name: value.to(dtype)}, {})
        tampered(folder, "model.safetensors", bytes)
        with pytest.raises(ValueError, match=f"{name}: expected numbers like torch.float32"):
            vk.VAE.from_pretrained(folder)

    def test_wrong_shapes(self, folder: Path) -> None:
        tensors, _ = storage.read_tensors(folder / "model.safetensors")
        name = next(iter(tensors))
        storage.write_tensors(folder / "model.safetensors", tensors | {name: torch.zeros(3)}, {})
        tampered(folder, "model.safetensors", bytes)
        with pytest.raises(ValueError, match=rf"{name}: expected shape .* got \(3,\)"):
            vk.VAE.from_pretrained(folder)

    @pytest.mark.parametrize("change", [lambda t: t.popitem(), lambda t: t.update(x=t["y"])])
    def test_weights_that_lack_or_are_foreign(self, folder: Path, change) -> None:
        tensors, _ = storage.read_tensors(folder / "model.safetensors")
        tensors["y"] = torch.zeros(1)
        change(tensors)
        tensors.pop("y", None)
        tensors["z"] = torch.zeros(1)
        storage.write_tensors(folder / "model.safetensors", tensors, {})
        tampered(folder, "model.safetensors", bytes)
        with pytest.raises(ValueError, match="model: expected the weights of its parts"):
            vk.VAE.from_pretrained(folder)

    def test_nan(self, folder: Path) -> None:
        tensors, _ = storage.read_tensors(folder / "model.safetensors")
        name, value = tensors.popitem()
        value.view(-1)[0] = torch.nan
        storage.write_tensors(folder / "model.safetensors", tensors | {name: value}, {})
        tampered(folder, "model.safetensors", bytes)
        model = tiny()
        with pytest.raises(ValueError, match=f"{name}: expected no NaN, got 1 NaN"):
            vk.VAE.from_pretrained(folder, model=model)
        assert alike(model, tiny())

    def test_every_damaged_byte_of_the_weights(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        whole = path.read_bytes()
        for place in range(0, len(whole), 97):
            damaged = bytearray(whole)
            damaged[place] ^= 16
            path.write_bytes(damaged)
            with pytest.raises(DamagedFileError, match="do not add up"):
                vk.VAE.from_pretrained(folder)

    def test_weights_of_another_description(self, folder: Path, tmp_path_factory) -> None:
        other = tmp_path_factory.mktemp("other")
        tiny(width=8).save_pretrained(other)
        (other / "model.safetensors").replace(folder / "model.safetensors")
        with pytest.raises(DamagedFileError, match="do not add up"):
            vk.VAE.from_pretrained(folder)

    def test_a_newer_format(self, folder: Path) -> None:
        tampered(folder, "config.json", reworded('"format": 1', '"format": 2'))
        with pytest.raises(DamagedFileError, match="newer format"):
            vk.VAE.from_pretrained(folder)

    @pytest.mark.parametrize("content", ["[]", "{}", "null", '{"format": "1", "sums": {}}', "x"])
    def test_a_description_of_nothing(self, folder: Path, content: str) -> None:
        (folder / "config.json").write_text(content)
        with pytest.raises(DamagedFileError, match=r"config\.json"):
            vk.VAE.from_pretrained(folder)


def _layers(described):
    if isinstance(described, list):
        for each in described:
            yield from _layers(each)
    elif isinstance(described, dict):
        if described.get("class") == "torch.nn.Linear":
            yield described
        for each in described.values():
            yield from _layers(each)


class TestFiles:
    def test_nothing_else_is_there(self, tmp_path: Path) -> None:
        tiny().save_pretrained(tmp_path / "new", text="Of digits.")
        found = sorted(path.name for path in (tmp_path / "new").iterdir())
        assert found == ["README.md", "config.json", "model.safetensors"]
        card = (tmp_path / "new" / "README.md").read_text()
        assert card.startswith("---\nlibrary_name: vaekit\n")
        assert "Of digits." in card
        config = json.loads((tmp_path / "new" / "config.json").read_text())
        assert config["versions"] == {"vaekit": vk.__version__, "torch": torch.__version__}

    def test_missing(self, tmp_path: Path, refuses) -> None:
        words = "source: expected"
        for source in (tmp_path / "none", "./none", "none", "a/b/c", "../x/y"):
            refuses(FileNotFoundError, lambda s=source: vk.VAE.from_pretrained(s), words)
        refuses(FileNotFoundError, lambda: vk.VAE.from_pretrained(tmp_path), words, "config.json")
        tiny().save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        refuses(
            FileNotFoundError, lambda: vk.VAE.from_pretrained(tmp_path), words, "model.safetensors"
        )

    def test_written_over(self, tmp_path: Path) -> None:
        tiny().save_pretrained(tmp_path)
        model = tiny(width=8)
        assert alike(again(model, tmp_path), model)

    def test_a_state_that_is_no_tensor(self, tmp_path: Path, refuses) -> None:
        class Odd(Forgetful):
            def get_extra_state(self):
                return {"a": 1}

            def set_extra_state(self, state) -> None:
                pass

        refuses(
            TypeError, lambda: custom(Odd(4)).save_pretrained(tmp_path), "encoder.net._extra_state"
        )

    @pytest.mark.parametrize("place", [1, 2])
    def test_a_full_disk_leaves_what_was_there(
        self, place: int, tmp_path: Path, monkeypatch
    ) -> None:
        model, write, left = with_tensors(), storage.write_tensors, place
        model.save_pretrained(tmp_path)

        def full(*args) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise OSError(28, "No space left on device")
            write(*args)

        monkeypatch.setattr(storage, "write_tensors", full)
        with pytest.raises(OSError, match="No space"):
            model.save_pretrained(tmp_path)
        assert alike(vk.VAE.from_pretrained(tmp_path), model)
        assert len(list(tmp_path.iterdir())) == 4

    def test_a_process_killed_at_any_renaming(self, tmp_path: Path) -> None:
        script = Path(__file__).with_name("killed_saves.py")
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not done.returncode, done.stderr
        ends = json.loads(done.stdout)
        assert [each["renamed"] for each in ends] == [0, 1, 2, 3, 4, 5]
        assert [each["signal"] for each in ends] == [signal.SIGKILL] * 5 + [0]
        # What described both models has its name second, and the weights have it third.
        assert [each["model"] for each in ends] == ["old"] * 3 + ["new"] * 3
        assert all(each["saved_again"] == "newest" for each in ends)

    @pytest.mark.parametrize("page", [b"My project", "Überblick".encode("latin-1")])
    def test_a_page_of_ones_own_is_left(self, tmp_path: Path, page: bytes) -> None:
        (tmp_path / "README.md").write_bytes(page)
        tiny().save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_bytes() == page
        assert alike(vk.VAE.from_pretrained(tmp_path), tiny())

    def test_a_folder_of_another_library_is_left(self, tmp_path: Path, refuses) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        words = "folder: expected one without a config.json of something else", str(tmp_path)
        refuses(ValueError, lambda: tiny().save_pretrained(tmp_path), *words)
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]

    def test_the_folder_that_one_is_in(self, tmp_path: Path, monkeypatch) -> None:
        (tmp_path / "digits").mkdir()
        monkeypatch.chdir(tmp_path / "digits")
        tiny().save_pretrained(".")
        assert "# digits" in Path("README.md").read_text()

    def test_a_folder_has_no_revisions(self, tmp_path: Path, refuses) -> None:
        tiny().save_pretrained(tmp_path)
        words = "revision: expected None", "'v1'"
        refuses(ValueError, lambda: vk.VAE.from_pretrained(tmp_path, revision="v1"), *words)

    def test_a_mistyped_path_is_no_repository(self, tmp_path: Path, monkeypatch, refuses) -> None:
        (tmp_path / "runs").mkdir()
        monkeypatch.chdir(tmp_path)
        words = "source: expected"
        refuses(FileNotFoundError, lambda: vk.VAE.from_pretrained("runs/modle"), words)


class TestHub:
    def test_to_it_and_back(self, tmp_path: Path, monkeypatch) -> None:
        import huggingface_hub

        store = tmp_path / "hub"
        # Which refuse what the real ones do not take.
        api = create_autospec(huggingface_hub.HfApi)
        address = huggingface_hub.RepoUrl("https://huggingface.co/me/digits")
        api.return_value.create_repo.return_value = address
        api.return_value.upload_folder.side_effect = lambda **given: shutil.copytree(
            given["folder_path"], store
        )
        download = create_autospec(huggingface_hub.snapshot_download, return_value=str(store))
        monkeypatch.setattr(huggingface_hub, "HfApi", api)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        model = tiny()
        said = model.push_to_hub("me/digits", private=True, token="t", message="First")
        assert said == "https://huggingface.co/me/digits"
        other = vk.VAE.from_pretrained("me/digits", revision="main")
        assert alike(model, other)
        api.assert_called_once_with(token="t")
        hub = api.return_value
        hub.create_repo.assert_called_once_with("me/digits", private=True, exist_ok=True)
        assert hub.upload_folder.call_args.kwargs["commit_message"] == "First"
        assert download.call_args.args == ("me/digits",)
        assert download.call_args.kwargs["revision"] == "main"
        assert "config.json" in download.call_args.kwargs["allow_patterns"]
        assert 'from_pretrained("me/digits")' in (store / "README.md").read_text()


def test_a_model_of_version_0_1() -> None:
    folder = Path(__file__).with_name("pretrained_0_1")
    model = vk.VAE.from_pretrained(folder)
    expected, _ = storage.read_tensors(folder / "expected.safetensors")
    torch.testing.assert_close(model.encode(expected["x"]).mean, expected["mean"])
    torch.testing.assert_close(model.decode(expected["mean"]), expected["decoded"])
    z = expected["mean"]
    torch.testing.assert_close(model.prior().log_prob(z), expected["log_prior"])


def test_a_folder_that_is_a_file(tmp_path: Path, refuses) -> None:
    (file := tmp_path / "file").write_text("mine")
    words = "folder: expected a folder, got a file"
    refuses(FileExistsError, lambda: tiny().save_pretrained(file), words)
    assert file.read_text() == "mine"


def _several(**alternatives: torch.Tensor) -> list[td.Distribution]:
    """Distributions that torch takes by one of several parameters."""
    normals = td.Independent(td.Normal(torch.randn(2, 3), torch.ones(2, 3)), 1)
    half = torch.tensor(0.5)
    return [
        td.MixtureSameFamily(td.Categorical(**alternatives), normals),
        td.OneHotCategorical(**alternatives),
        td.OneHotCategoricalStraightThrough(**alternatives),
        td.RelaxedOneHotCategorical(half, **alternatives),
        td.Independent(td.RelaxedBernoulli(half, **alternatives), 1),
        td.Independent(td.Bernoulli(**alternatives), 1),
        td.Independent(td.NegativeBinomial(3.0, **alternatives), 1),
    ]


def test_priors_that_torch_takes_by_one_of_several_parameters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spread = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    given = [*_several(probs=torch.rand(2)), *_several(logits=torch.randn(2))]
    names = "covariance_matrix", "precision_matrix", "scale_tril"
    given += [
        td.MultivariateNormal(torch.zeros(2), **{name: spread.tril() if "tril" in name else spread})
        for name in names
    ]
    for distribution in given:
        model = tiny(dim=distribution.event_shape[0])
        model.prior = vk.priors.Fixed(distribution)
        held = model.prior()
        for used in (False, True):
            if used:  # torch keeps what it computes under the others' names
                for part in (held, getattr(held, "base_dist", held)):
                    for name in ("probs", "logits", *names):
                        getattr(part, name, None)
                held.log_prob(held.sample())
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                other = again(model, tmp_path)
            torch.manual_seed(1)
            mine = held.sample((20,))
            torch.manual_seed(1)
            assert torch.equal(mine, other.prior().sample((20,)))
            assert torch.equal(held.log_prob(mine), other.prior().log_prob(mine))


def test_parts_that_files_name_again_and_again_are_counted() -> None:
    whole: dict[str, object] = {"class": "torch.nn.Identity", "arguments": []}
    for index in range(30):
        children = [["0", whole], ["1", {"again": index}]]
        whole = {"class": "torch.nn.Sequential", "children": children}
    with pytest.raises(MemoryError, match="more than 10000 parts"):
        build(whole, {}, pretrained._finder([], vk.VAE._rooms), 10_000)


SAVED = Path(__file__).with_name("saved_0_1")


@pytest.mark.parametrize("name", saved.MODELS)
def test_models_of_version_0_1(name: str) -> None:
    model = vk.VAE.from_pretrained(SAVED / name)
    weights, _ = storage.read_tensors(SAVED / name / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])
    expected, _ = storage.read_tensors(SAVED / name / "expected.safetensors")
    given = {key: expected.pop(key) for key in saved.inputs(name)}
    torch.testing.assert_close(saved.told(model, **given, z=expected["z"]), expected)


def test_weights_tied_by_hand_are_not_untied_in_silence(tmp_path: Path) -> None:
    model = tiny(width=2)
    net = torch.nn.Sequential(
        torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), *model.decoder.net.layers
    )
    net[1].weight = net[0].weight
    model = vk.VAE(model.encoder, vk.Decoder(net, model.decoder.likelihood))
    with pytest.warns(UserWarning, match="tied"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model: expected one of the same parts"):
        vk.VAE.from_pretrained(tmp_path)
