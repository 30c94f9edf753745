"""Errors that say what came in, where something else would have come of it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
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


@pytest.mark.parametrize("y", [torch.arange(19), np.arange(21)], ids=["fewer", "more"])
def test_labels_of_another_length(y, refuses) -> None:
    refuses(ValueError, lambda: unpack((X, y)), "y", "20", f"({len(y)},)")
    refuses(ValueError, lambda: vk.fit(tiny(), elbo(), [(X, y)], epochs=1, progress=False), "y")
    assert unpack((X, torch.tensor(3))).y == 3


def test_what_is_no_module_generator_or_device(refuses) -> None:
    latent, likelihood = vk.GaussianLatent(2), vk.likelihoods.Bernoulli(4)
    refuses(TypeError, lambda: vk.Encoder("abc", latent), "net", "'abc'")
    refuses(TypeError, lambda: vk.Decoder(None, likelihood), "net", "None")
    refuses(TypeError, lambda: tiny().sample(3, generator=0), "generator", "torch.Generator")
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
