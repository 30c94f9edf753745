"""What is exported computes what the model does, for batches of any size."""

import copy
import sys
from collections.abc import Callable, Iterator
from functools import partial

import onnx
import onnxruntime
import pytest
import torch
from conftest import annotations_unchecked
from test_conformance import LATENTS, LIKELIHOODS, POINTS, build, of
from test_recipes import MAKERS
from torch import Tensor, nn
from torch.distributions import Distribution

import vaekit as vk
from vaekit import export
from vaekit.networks import Conditioned, conv, conv_maps, conv_transpose, conv_transpose_maps, mlp

# torch's own, of recurrent layers, whose weights it reads where they are not registered.
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning")

PARTS = ["encoder", "decoder", "autoencoder"]
TRACED, SIZES = 5, (1, 2, 3, 4, 8, 17)  # some are sides of the data as well
BERNOULLI, GAUSSIAN = vk.likelihoods.Bernoulli, vk.likelihoods.Gaussian


@pytest.fixture(autouse=True)
def _unchecked() -> Iterator[None]:
    """The checker of annotations compares sizes, which a graph takes for facts."""
    with annotations_unchecked():
        yield


def model(encoder: nn.Module, decoder: nn.Module, likelihood: vk.likelihoods.Likelihood) -> vk.VAE:
    latent = vk.GaussianLatent(encoder.out_shape.numel() // 2)
    return vk.VAE(vk.Encoder(encoder, latent), vk.Decoder(decoder, likelihood))


class Own(vk.Encoder):
    """An encoder of one's own: the mean over what a layer makes of each row."""

    def __init__(self) -> None:
        latent = vk.GaussianLatent(3)
        super().__init__(nn.Linear(6, latent.num_params), latent)
        self.row = nn.Sequential(nn.Linear(2, 6), nn.LayerNorm(6), nn.GELU())

    def forward(self, x: Tensor) -> Distribution:
        return self.latent(self.net(self.row(x).mean(1)))


class Recurrent(Own):
    """Another: recurrent, with the last state for the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.GRU(2, 6, batch_first=True)

    def forward(self, x: Tensor) -> Distribution:
        return self.latent(self.net(self.row(x)[0][:, -1]))


class Heads(nn.Module):
    """A network of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.mu, self.logvar = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu(x.flatten(1)), self.logvar(x.flatten(1))


def own(kind: type[Own]) -> vk.VAE:
    return vk.VAE(kind(), vk.Decoder(mlp(3, [8], 8), GAUSSIAN((4, 2))))


def heads() -> vk.VAE:
    encoder = vk.Encoder(Heads(), vk.GaussianLatent(3))
    return vk.VAE(encoder, vk.Decoder(mlp(3, [8], 8), BERNOULLI((2, 4))))


def convolutions(shape: tuple[int, ...]) -> vk.VAE:
    decoder = conv_transpose(3, [8, 4], shape)
    return model(conv(shape, [4, 8], 6), decoder, GAUSSIAN(shape, learn_sigma=True))


def maps(shape: tuple[int, ...]) -> vk.VAE:
    return model(conv_maps(shape, [4], 4), conv_transpose_maps(2, [4], shape), GAUSSIAN(shape))


def conditional(likelihood: vk.likelihoods.Likelihood, nets: vk.recipes.Nets) -> vk.VAE:
    return vk.recipes.cvae(likelihood, 3, 10, nets=nets)[0]


def half_conditional() -> vk.VAE:
    """Of which the decoder alone takes the context."""
    decoder = Conditioned(mlp(3 + 10, [8], 8), 10)
    return model(mlp(8, [8], 6), decoder, BERNOULLI((2, 4)))


def encoding(make: Callable[[], nn.Module]) -> vk.VAE:
    return build(make())


def decoding(make: Callable[[], nn.Module]) -> vk.VAE:
    return build(likelihood=make())


def of_recipe(make: Callable[[], vk.recipes.Recipe]) -> vk.VAE:
    return make().model


#: Networks of all kinds, and the shape of an element of the data.
NETWORKS: dict[str, tuple[Callable[[], vk.VAE], tuple[int, ...]]] = {
    "a table": (lambda: model(mlp(12, [8], 6), mlp(3, [8], 12), GAUSSIAN(12)), (12,)),
    "no hidden layer": (lambda: model(mlp(8, [], 6), mlp(3, [], 8), BERNOULLI(8)), (8,)),
    "one channel": (lambda: model(mlp(8, [8], 6), mlp(3, [8], 8), BERNOULLI((1, 8))), (1, 8)),
    "shaped ends": (
        lambda: model(mlp((2, 4), [8], 6), mlp(3, [8], (2, 4)), BERNOULLI((2, 4))),
        (2, 4),
    ),
    "sequences": (lambda: convolutions((2, 13)), (2, 13)),
    "images": (lambda: convolutions((3, 9, 8)), (3, 9, 8)),
    "volumes": (lambda: convolutions((1, 8, 8, 8)), (1, 8, 8, 8)),
    "maps of sequences": (lambda: maps((1, 17)), (1, 17)),
    "maps of images": (lambda: maps((2, 8, 8)), (2, 8, 8)),
    "a class of one's own": (lambda: own(Own), (4, 2)),
    "a recurrent class": (lambda: own(Recurrent), (4, 2)),  # torch 2.11 writes no valid file of it
    "two heads": (heads, (2, 4)),
    "conditional perceptrons": (
        lambda: conditional(BERNOULLI((1, 8, 8)), vk.recipes.perceptrons((8,))),
        (1, 8, 8),
    ),
    "conditional convolutions": (
        lambda: conditional(GAUSSIAN((3, 8, 8)), vk.recipes.convolutions((4, 4), (8,))),
        (3, 8, 8),
    ),
    "a conditional decoder": (half_conditional, (2, 4)),
}
#: What takes long to trace as it stands in the list of all: a sum over 256 levels.
FEWER_LEVELS = {
    "DiscretizedLogistic": lambda: vk.likelihoods.DiscretizedLogistic((2, 4), 6),
    "DiscretizedLogistic, mixed": lambda: vk.likelihoods.DiscretizedLogistic(
        (2, 4), 6, components=3
    ),
}
DISTRIBUTIONS = {
    **{name: (partial(encoding, make), (2, 4)) for name, make in (LATENTS | POINTS).items()},
    **{
        name: (partial(decoding, FEWER_LEVELS.get(name, make)), (2, 4))
        for name, (make, _) in LIKELIHOODS.items()
    },
}
RECIPES = {name: (partial(of_recipe, make), (1, 8, 8)) for name, (make, _) in MAKERS.items()}
CASES = RECIPES | DISTRIBUTIONS | NETWORKS
#: The others are made of nothing else than these are, which a test checks.
WRITTEN = ["cvae", "ladder_vae", "two_layer_vae", *DISTRIBUTIONS, "sequences", "images", "volumes"]
WRITTEN += ["maps of images", "a class of one's own", "two heads", "a conditional decoder"]
WRITTEN += ["conditional convolutions"]


def given(of: vk.VAE, shape: tuple[int, ...], size: int) -> dict[str, Tensor]:
    """What goes into the parts, ``size`` elements of each."""
    device = next(of.parameters()).device
    context = {"context": torch.randint(10, (size,))} if of.takes_context else {}
    inputs = {"x": torch.rand(size, *shape), "z": torch.randn(size, of.latent_dim)} | context
    return {name: value.to(device) for name, value in inputs.items()}


def names(of: vk.VAE, part: str) -> list[str]:
    """The names of a part's inputs."""
    takers = {"encoder": [of.encoder], "decoder": [of.decoder]}.get(part, [of.encoder, of.decoder])
    takes = any(getattr(taker, "takes_context", False) for taker in takers)
    return ["z" if part == "decoder" else "x", *["context"] * takes]


@torch.no_grad()
def holds(of: vk.VAE, part: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
    """Compare what came out with what the model itself says."""
    context = inputs.get("context")
    if part == "encoder":
        posterior = of.encode(inputs["x"], context)
        wanted = {name: getattr(posterior, name) for name in outputs}
    elif part == "decoder":
        wanted = {"x_hat": of.decode(inputs["z"], context)}
    else:
        wanted = {"x_hat": of.reconstruct(inputs["x"], context)}
    assert len(wanted) > 0
    torch.testing.assert_close(outputs, wanted)


@of(CASES)
def test_programs(case, device) -> None:
    make, shape = case
    original = make().to(device).eval()
    example = given(original, shape, TRACED)
    programs = export.torch_export(original, example["x"], example.get("context"), parts=PARTS)
    assert list(programs) == PARTS
    for part, program in programs.items():
        run = program.module()
        for size in SIZES:
            inputs = given(original, shape, size)
            result = run(*(inputs[name] for name in names(original, part)))
            result = result if isinstance(result, dict) else {"x_hat": result}
            holds(original, part, inputs, result)


@pytest.mark.parametrize("name", WRITTEN)
def test_onnx(name, tmp_path) -> None:
    make, shape = CASES[name]
    original = make().eval()
    example = given(original, shape, TRACED)
    parts = ["encoder"] if name in LATENTS | POINTS else ["encoder", "decoder"]
    parts = ["decoder"] if name in LIKELIHOODS else parts
    files = export.onnx(original, tmp_path, example["x"], example.get("context"), parts=parts)
    assert list(files.values()) == [tmp_path / f"{part}.onnx" for part in parts]
    assert set(tmp_path.iterdir()) == set(files.values())
    for part, file in files.items():
        session = onnxruntime.InferenceSession(file)
        assert [each.name for each in session.get_inputs()] == names(original, part)
        assert {each.shape[0] for each in session.get_inputs()} == {"batch"}
        outputs = [each.name for each in session.get_outputs()]
        for size in SIZES:
            inputs = given(original, shape, size)
            fed = {name: inputs[name].numpy() for name in names(original, part)}
            results = map(torch.as_tensor, session.run(None, fed))
            holds(original, part, inputs, dict(zip(outputs, results, strict=True)))


def test_recipes_are_made_of_what_is_written() -> None:
    """Of perceptrons and a distribution of the lists, or they are written themselves."""
    latents = {type(make()) for make in (LATENTS | POINTS).values()}
    likelihoods = {type(make()) for make, _ in LIKELIHOODS.values()}
    for name in set(RECIPES) - set(WRITTEN):
        model = CASES[name][0]()
        assert type(model.encoder) is vk.Encoder, name
        assert type(model.decoder) is vk.Decoder, name
        assert type(model.encoder.net) is type(model.decoder.net) is vk.networks.Network, name
        assert type(model.encoder.latent) in latents, name
        assert type(model.decoder.likelihood) in likelihoods, name


def test_the_outputs_have_names() -> None:
    def outputs(latent: nn.Module) -> list[str]:
        return list(export.TensorEncoder(build(latent).eval())(torch.rand(2, 2, 4)))

    assert outputs(vk.GaussianLatent(3)) == ["mu", "logvar"]
    assert outputs(POINTS["DeterministicLatent"]()) == ["point"]
    assert outputs(POINTS["VectorQuantizedLatent"]()) == ["point", "commitment", "indices"]
    assert outputs(vk.latents.LaplaceLatent(3)) == ["mean"]


def test_a_posterior_that_keeps_its_parameters_elsewhere_has_them_numbered() -> None:
    class Halves(vk.distributions.DiagonalGaussian):
        def __iter__(self) -> Iterator[Tensor]:
            return iter((1 * self.mu, self.logvar))

    class Halving(vk.Encoder):
        def forward(self, x: Tensor) -> Distribution:
            return Halves(*super().forward(x))

    encoder = Halving(mlp(8, [8], 6), vk.GaussianLatent(3))
    original = vk.VAE(encoder, vk.Decoder(mlp(3, [8], 8), BERNOULLI(8)))
    x = torch.rand(2, 8)
    found = export.TensorEncoder(original)(x)
    assert list(found) == ["parameter_0", "logvar"]
    torch.testing.assert_close(list(found.values()), list(original.encode(x)))


def test_networks_need_no_wrapping() -> None:
    for make, _ in NETWORKS.values():
        net = make().decoder.net
        if isinstance(net, vk.networks.Network):
            x = torch.rand(TRACED, net.in_shape.numel())
            shapes = ({0: torch.export.Dim("batch")},)
            run = torch.export.export(net, (x,), dynamic_shapes=shapes).module()
            for size in SIZES:
                x = torch.rand(size, net.in_shape.numel())
                torch.testing.assert_close(run(x), net(x))


def noisy() -> vk.VAE:
    """A model whose layers do something else in training."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 6))
    encoder = vk.Encoder(net, vk.GaussianLatent(3))
    return vk.VAE(encoder, vk.Decoder(mlp(3, [8], 8, dropout=0.5), GAUSSIAN((2, 4), "optimal")))


def test_the_model_is_left_as_it_was(tmp_path) -> None:
    original, x = noisy(), torch.rand(TRACED, 2, 4)
    original.encoder.net[2].eval()  # one layer is frozen, the others train
    modes = [module.training for module in original.modules()]
    state, random = copy.deepcopy(original.state_dict()), torch.get_rng_state()
    checks = Distribution._validate_args
    programs = export.torch_export(original, x)
    export.onnx(original, tmp_path, x)
    assert [module.training for module in original.modules()] == modes
    torch.testing.assert_close(original.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert Distribution._validate_args == checks
    assert all(parameter.grad is None for parameter in original.parameters())
    # And what was exported in evaluation mode does not follow the model.
    before = copy.deepcopy(original).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(1)
    holds(before, "encoder", {"x": x}, programs["encoder"].module()(x))
    z = torch.randn(TRACED, 3)
    holds(before, "decoder", {"z": z}, {"x_hat": programs["decoder"].module()(z)})


def test_one_element_is_enough(tmp_path) -> None:
    original, x = build().eval(), torch.rand(1, 2, 4)
    programs, files = export.torch_export(original, x), export.onnx(original, tmp_path, x)
    x = torch.rand(7, 2, 4)
    holds(original, "encoder", {"x": x}, programs["encoder"].module()(x))
    mu, logvar = onnxruntime.InferenceSession(files["encoder"]).run(None, {"x": x.numpy()})
    outputs = {"mu": torch.as_tensor(mu), "logvar": torch.as_tensor(logvar)}
    holds(original, "encoder", {"x": x}, outputs)


def test_whole_numbers_go_in_as_they_are(tmp_path) -> None:
    original = build(likelihood=vk.likelihoods.Poisson((2, 4))).eval()
    x = torch.randint(9, (TRACED, 2, 4))
    files = export.onnx(original, tmp_path, x, parts=["autoencoder"])
    assert list(files) == ["autoencoder"]
    (x_hat,) = onnxruntime.InferenceSession(files["autoencoder"]).run(None, {"x": x.numpy()})
    holds(original, "autoencoder", {"x": x}, {"x_hat": torch.as_tensor(x_hat)})


def test_a_batch_brings_its_context() -> None:
    original = conditional(BERNOULLI((2, 4)), vk.recipes.perceptrons((8,))).eval()
    inputs = given(original, (2, 4), TRACED)
    (program,) = export.torch_export(
        original, (inputs["x"], inputs["context"]), parts=["encoder"]
    ).values()
    holds(original, "encoder", inputs, program.module()(inputs["x"], inputs["context"]))


def test_attributes_are_a_context_too() -> None:
    original = conditional(BERNOULLI((2, 4)), vk.recipes.perceptrons((8,))).eval()
    x = torch.rand(TRACED, 2, 4)
    context = torch.rand(TRACED, 10).tolist()
    program = export.torch_export(original, x, context)["encoder"]
    inputs = {"x": torch.rand(3, 2, 4), "context": torch.rand(3, 10)}
    holds(original, "encoder", inputs, program.module()(*inputs.values()))


def test_large_weights_lie_beside_the_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "_LARGE", 0)
    original, x = build().eval(), torch.rand(TRACED, 2, 4)
    files = export.onnx(original, tmp_path, x)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("encoder.onnx", "encoder.onnx.data"),
        *("decoder.onnx", "decoder.onnx.data"),
    }
    mu, _ = onnxruntime.InferenceSession(files["encoder"]).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.as_tensor(mu), original.encode(x).mean)
    monkeypatch.undo()
    export.onnx(original, tmp_path, x)  # of which nothing lies beside
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.onnx", "decoder.onnx"}


def test_files_are_valid(tmp_path) -> None:
    for file in export.onnx(build(), tmp_path / "new" / "folder", torch.rand(2, 2, 4)).values():
        onnx.checker.check_model(onnx.load(file), full_check=True)


class Branching(vk.Encoder):
    def forward(self, x: Tensor) -> Distribution:
        return super().forward(x if x.mean() > 0.5 else -x)


class OfFive(vk.Encoder):
    def forward(self, x: Tensor) -> Distribution:
        return super().forward(x.reshape(int(x.shape[0]), 8))


class Meaningless(vk.distributions.RelaxedBernoulli):
    __iter__ = None

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError


class WithoutMean(vk.Encoder):
    def forward(self, x: Tensor) -> Distribution:
        return Meaningless(self.net(x))


#: What cannot be exported, and words of the reason.
BROKEN = {
    "a branch on values": (Branching, ["data-dependent"]),
    "a size of one's own": (OfFive, ["encoder", "batch"]),
    "no mean": (WithoutMean, ["encoder", "NotImplementedError"]),
}


@of(BROKEN)
def test_what_cannot_be_exported_says_so(case, tmp_path, refuses) -> None:
    kind, words = case
    encoder = kind(mlp(8, [8], 6), vk.GaussianLatent(3))
    original = vk.VAE(encoder, vk.Decoder(mlp(3, [8], 8), BERNOULLI((2, 4))))
    x, checks = torch.rand(TRACED, 2, 4), Distribution._validate_args
    for call in (export.torch_export, lambda *args: export.onnx(args[0], tmp_path, *args[1:])):
        error = refuses(export.ExportError, lambda call=call: call(original, x), *words)
        assert str(error).startswith("encoder: expected a part that torch.export can take, got ")
        assert error.__cause__ is not None
    assert not list(tmp_path.iterdir())
    assert Distribution._validate_args == checks
    assert list(export.torch_export(original, x, parts=["decoder"])) == ["decoder"]


def test_a_codebook_that_is_not_set_up_cannot_be_exported(refuses) -> None:
    from vector_quantize_pytorch import VectorQuantize

    codebook = VectorQuantize(dim=2, codebook_size=4, kmeans_init=True)
    original = build(vk.latents.VectorQuantizedLatent(4, codebook, variables=2))
    x = torch.rand(9, 2, 4)
    refuses(export.ExportError, lambda: export.torch_export(original, x), "encoder")


def test_a_file_that_computes_something_else_is_refused(tmp_path, monkeypatch, refuses) -> None:
    program = export._program

    def other(traced):
        changed = copy.deepcopy(traced.module)
        for parameter in changed.parameters():
            parameter.data.mul_(1.001)
        return program(traced._replace(module=changed))

    monkeypatch.setattr(export, "_program", other)
    original, x = build(), torch.rand(TRACED, 2, 4)
    call = partial(export.onnx, original, tmp_path, x)
    refuses(export.ExportError, call, "encoder", "onnxruntime to return mu")
    assert not list(tmp_path.iterdir())
    assert len(call(tolerance=0.1)) == 2
    assert len(call(check=False)) == 2


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_what_is_missing_is_named(package, tmp_path, monkeypatch, refuses) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    x = torch.rand(2, 2, 4)
    call = partial(export.onnx, build(), tmp_path / "new", x)
    refuses(ImportError, call, f"needs {package}", 'pip install "vaekit[onnx]"')
    assert not (tmp_path / "new").exists()
    if package == "onnxruntime":
        assert len(export.onnx(build(), tmp_path, x, check=False)) == 2


def test_bad_input_is_refused_by_name(tmp_path, refuses) -> None:
    original, x = build(), torch.rand(TRACED, 2, 4)
    words = ["parts", "'encoder', 'decoder', 'autoencoder'", "'prior'"]
    refuses(ValueError, lambda: export.torch_export(original, x, parts=["prior"]), *words)
    for parts in ("encoder", [], None):
        what = "parts: expected a list of one or more of"
        refuses(ValueError, lambda parts=parts: export.torch_export(original, x, parts=parts), what)
    refuses(ValueError, lambda: export.torch_export(original, x[:0]), "x: expected at least one")
    refuses(ValueError, lambda: export.onnx(original, tmp_path, x, tolerance=-1), "tolerance")
    # What the model has to say of the elements comes from the model.
    refuses(ValueError, lambda: export.torch_export(original, x[:, :1]), "x: expected 8 values")
    refuses(TypeError, lambda: export.torch_export(original, x, torch.zeros(5)), "context")
    conditioned = conditional(BERNOULLI((2, 4)), vk.recipes.perceptrons((8,)))
    refuses(TypeError, lambda: export.torch_export(conditioned, x), "context")
