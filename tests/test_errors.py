"""Errors that say what came in, where something else would have come of it."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import annotations_unchecked
from models import elbo, tiny
from torch.utils.data import DataLoader, TensorDataset

import vaekit as vk
from vaekit.datasets import from_tensors, mnist, unpack

X = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()


@pytest.mark.parametrize(
    "target", [X * 0.5, X[..., :7], X + math.nan], ids=["grey", "narrow", "NaN"]
)
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}], ids=str)
def test_a_target_is_called_so(target, options, refuses) -> None:
    data = [{"x": X, "target": target}]
    fit = lambda: vk.fit(tiny(), elbo(), data, epochs=1, progress=False, **options)  # noqa: E731
    refuses(ValueError, fit, "target")
    refuses(ValueError, lambda: vk.training.evaluate(tiny(), elbo(), data), "target")


def test_nan_in_latents_that_have_a_gradient(refuses) -> None:
    z = torch.full((3, 2), math.nan, requires_grad=True)
    refuses(ValueError, lambda: tiny().decode(z), "z", "3, 2")


@pytest.mark.parametrize("y", [torch.arange(19), np.arange(21), [1, 2]], ids=["-", "+", "list"])
def test_labels_of_another_length(y, refuses) -> None:
    forms = [((X, y), {}), ({"x": X, "y": y}, {}), ((X, X, y), {"pairs": True})]
    for batch, options in forms:
        refuses(ValueError, lambda b=batch, o=options: unpack(b, **o), "y", "20", str(len(y)))
        options = options | {"epochs": 1, "progress": False}
        refuses(ValueError, lambda b=batch, o=options: vk.fit(tiny(), elbo(), [b], **o), "y")
    assert unpack((X, torch.tensor(3))).y == 3
    assert len(unpack((X, [torch.arange(20)] * 2)).y) == 2  # several labels, as collated


def test_names_of_fewer_classes_than_labels_count(refuses) -> None:
    few = partial(from_tensors, X, labels=range(20), classes=["a", "b"])
    refuses(ValueError, few, "classes", "up to 19", "2 names")
    assert from_tensors(X, labels=[0, 1] * 10, classes=["a", "b"]).classes == ("a", "b")


@pytest.mark.parametrize(
    ("likelihood", "x", "shape"),
    [
        (vk.likelihoods.Bernoulli((8, 8)), X, "(1, 8, 8)"),
        (vk.likelihoods.Gaussian(64), X.flatten(1)[:, None], "(1, 64)"),
        (vk.likelihoods.Gaussian(64), X.flatten(1)[0], ""),
        (vk.likelihoods.Gaussian(64), X.flatten(1)[:1], ""),
    ],
    ids=["images", "rows", "one without a batch", "one"],
)
def test_elements_are_not_set_beside_those_of_others(likelihood, x, shape: str, refuses) -> None:
    latent = vk.GaussianLatent(2)
    encoder = vk.Encoder(vk.networks.mlp(64, [8], latent.num_params), latent)
    model = vk.VAE(encoder, vk.Decoder(vk.networks.mlp(2, [8], 64), likelihood))
    for samples in (None, 3):
        out = model(X, samples)
        refuses(ValueError, lambda o=out: vk.reconstruction(o.likelihood, x), "x", "(20, ", shape)
    if shape:
        fit = partial(vk.fit, model, elbo(), epochs=1, progress=False)
        refuses(ValueError, lambda: fit(x), "data", shape)  # which tells its shape
        refuses(ValueError, lambda: fit([x]), "x", shape)
        refuses(ValueError, lambda: vk.training.evaluate(model, elbo(), x), "x", shape)
        measure = vk.metrics.negative_log_likelihood
        refuses(ValueError, lambda: measure(model, x, samples=2), "x", shape)


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}], ids=str)
def test_an_empty_batch_is_called_so(options, refuses) -> None:
    for data in ([X[:0]], [X, X[:0]]):
        fit = partial(vk.fit, tiny(), elbo(), data, epochs=1, progress=False, **options)
        refuses(ValueError, fit, "data", "at least one element in each batch", "none")


def test_options_are_looked_at_before_files(tmp_path: Path, refuses) -> None:
    nowhere = tmp_path / "nowhere"
    for make in (mnist, lambda path, **given: vk.datasets.image_folder(path, 8, **given)):
        for name, value in (("binarize", "dynamc"), ("threshold", 5)):
            refuses(ValueError, lambda m=make, g={name: value}: m(nowhere, **g), name, str(value))
    for value in (-1, 0.5):
        refuses(ValueError, lambda v=value: mnist(nowhere, validation=v), "validation", str(value))


def test_seeds_and_decays_that_are_none(refuses) -> None:
    run = partial(vk.fit, tiny(), elbo(), X, epochs=1, progress=False)
    for seed in ("a", 1.5):
        refuses(TypeError, partial(run, seed=seed), "seed", "a whole number", repr(seed))
        refuses(TypeError, partial(from_tensors(X).split, 0.5, 0.5, seed=seed), "seed")
        refuses(TypeError, partial(from_tensors, X, binarize="static", seed=seed), "seed")
    refuses(ValueError, partial(run, ema="x"), "ema", "'x'")
    with annotations_unchecked():
        assert json.dumps(run(seed=np.int64(3)).to_dict())


def test_divergences_of_batches_that_do_not_fit(refuses) -> None:
    q, longer, narrower = (
        vk.distributions.DiagonalGaussian(torch.zeros(shape), torch.zeros(shape))
        for shape in ((4, 3), (5, 3), (9, 2))
    )
    kl, tc = partial(vk.kl_divergence, q), partial(vk.total_correlation, q, q.mu)
    for method in ("analytic", "monte_carlo"):
        refuses(ValueError, partial(kl, longer, method=method), "prior", "(4,)", "(5,)")
    draws = partial(kl, z=torch.zeros(2, 2, 4, 3), method="monte_carlo")
    refuses(ValueError, draws, "z", "(K, 4, 3)", "(2, 2, 4, 3)")
    without = partial(vk.decompose_kl, q, None, q.mu, dataset_size=9)
    refuses(TypeError, without, "prior", "NoneType")
    for size in ("10", 10.7):
        refuses(ValueError, partial(tc, dataset_size=size), "dataset_size", "at least 4", str(size))
    other = partial(tc, estimator="exact", dataset_posterior=narrower)
    refuses(ValueError, other, "dataset_posterior", "(3,)", "(2,)")


def test_what_is_no_module_generator_or_device(refuses) -> None:
    latent, likelihood = vk.GaussianLatent(2), vk.likelihoods.Bernoulli(4)
    refuses(TypeError, lambda: vk.Encoder("abc", latent), "net", "'abc'")
    refuses(TypeError, lambda: vk.Decoder(None, likelihood), "net", "None")
    refuses(TypeError, lambda: tiny().sample(3, generator=0), "generator", "torch.Generator")
    zeros = torch.zeros(3, 2)
    draw = partial(tiny().reparameterize, zeros, zeros, generator=3)
    refuses(TypeError, draw, "generator", "torch.Generator", "3")
    refuses(TypeError, lambda: tiny().decode([[0.0, 0.0]]), "z", "a tensor", "list")
    refuses(ValueError, lambda: from_tensors(X).to("gpu"), "device", "'gpu'")


def test_a_file_of_another_kind_than_its_name(tmp_path: Path, refuses) -> None:
    pytest.importorskip("torchvision")
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for what in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            (folder / f"{part}-{what}").write_bytes(bytes([0, 0, 10, 3]) + bytes(16))
    refuses(FileNotFoundError, lambda: mnist(tmp_path), "root", "a folder that holds MNIST")


GREY = X * 0.5


@pytest.mark.parametrize(
    "data",
    [
        GREY,
        from_tensors(GREY),
        TensorDataset(GREY),
        DataLoader(TensorDataset(GREY, torch.arange(20)), 8),
        DataLoader(TensorDataset(X[..., :7]), 8),
        [{"x": X, "target": GREY}],
        [{"y": X}],
        [X[:0]],
    ],
    ids=["tensor", "arrays", "elements", "loader", "shape", "target", "keys", "empty"],
)
def test_validation_data_are_looked_at_before_training(data, refuses) -> None:
    model = tiny()
    before = [each.clone() for each in model.parameters()]
    fit = lambda: vk.fit(model, elbo(), X, epochs=1, validation=data, progress=False)  # noqa: E731
    refuses(ValueError, fit, "validation")
    assert all(map(torch.equal, before, model.parameters()))


def test_later_validation_data_are_called_so(refuses) -> None:
    data = [X, GREY]
    fit = lambda: vk.fit(tiny(), elbo(), X, epochs=1, validation=data, progress=False)  # noqa: E731
    refuses(ValueError, fit, "validation", "zeros and ones")


class Drawing(torch.utils.data.Dataset):
    """Elements beside which numbers are drawn."""

    def __init__(self) -> None:
        self.drawn: list[float] = []

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> torch.Tensor:
        self.drawn.append(np.random.rand())  # noqa: NPY002 (the global one, which is kept)
        return X[index]


def test_the_look_draws_nothing_that_training_would() -> None:
    noise, data = [], Drawing()
    for validation in (None, from_tensors(X, binarize="dynamic"), data):
        torch.manual_seed(1)
        vk.fit(tiny(), elbo(), X, steps=1, validation=validation, progress=False)
        noise.append(torch.rand(()))
    assert noise[0] == noise[1]
    assert len(data.drawn) == 40
    assert data.drawn[:20] == data.drawn[20:]  # at the look, and at the end of the row
