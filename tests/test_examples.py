"""Every example runs by every option that names data, or by noise in its place, and briefly."""

import math
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import annotations_unchecked
from models import elbo
from PIL import Image

import vaekit as vk

FOLDER = Path(__file__).parent.parent / "examples"
BRIEF = {
    "quickstart": ("--epochs", "1"),
    "custom_encoder": ("--epochs", "1"),
    "generate": ("--epochs", "1"),
    "transformation": ("--epochs", "1"),
    "reduce_dimensions": ("--epochs", "1", "--shown", "100"),
    "denoise": ("--epochs", "1", "--steps", "3"),
    "anomalies": ("--epochs", "1"),
    "features": ("--epochs", "1", "--seeds", "2"),
    "compress": ("--epochs", "1", "--steps", "2"),
    "disentangle": ("--steps", "2"),
    "interpolate": ("--epochs", "1"),
    "overfitting": ("--steps", "20", "--images", "100"),
}
FEW = {"anomalies", "denoise", "interpolate", "overfitting", "quickstart"}  # where that is enough
MOST = {"features": 1000}  # of MNIST, which others take 300 of
WITHOUT_MNIST = {"custom_encoder", "disentangle"}
PARTS = "reconstruction", "KL"
ELSEWHERE = {"bigger_than_memory", "lightning_module"}  # test_streams.py, test_lightning.py

Run = Callable[..., dict[str, object]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run an example, and return its names: it has printed numbers, and drawn what it says."""

    def call(name: str, *options: str) -> dict[str, object]:
        path, out = FOLDER / f"{name}.py", tmp_path / "out"
        monkeypatch.setattr(sys, "argv", [str(path), *options, *BRIEF[name], "--out", str(out)])
        with annotations_unchecked():  # as a user runs it
            found = runpy.run_path(str(path), run_name="__main__")
        printed = capsys.readouterr().out
        assert not re.search(r"\b(nan|inf)\b", printed)
        pictures = set(re.findall(r"\w+\.png", printed))
        assert pictures == {each.name for each in out.glob("*.png")}
        assert pictures
        assert all((out / each).stat().st_size > 0 for each in pictures)
        return found | {"printed": printed}

    return call


def shorten(patch: pytest.MonkeyPatch, name: str, most: int) -> None:
    """Let a data set be the first images of each of its parts."""
    load = getattr(vk.datasets, name)

    def few(*args: object, **options: object) -> list[vk.datasets.ArrayDataset]:
        return [part.subset(range(min(len(part), most))) for part in load(*args, **options)]

    patch.setattr(vk.datasets, name, few)


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """A folder of pictures of noise, of unequal sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for index in range(10):
        size = (300 + index, 280, 3)
        Image.fromarray(draws.integers(0, 256, size, np.uint8)).save(folder / f"{index}.png")
    return str(folder)


def test_every_example_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == BRIEF.keys() | ELSEWHERE


@pytest.mark.parametrize("name", BRIEF)
def test_it_runs(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in FEW:
        shorten(monkeypatch, "digits", 200)
    run(name)


def test_the_quickstart_says_what_it_measured(run: Run) -> None:
    found = run("quickstart")
    said = re.search(r"test ELBO +(\S+) nats +\((\S+)", found["printed"])
    nats, bits = map(float, said.groups())
    parts = [float(re.search(rf"{name} +(\S+) nats", found["printed"])[1]) for name in PARTS]
    model, test = found["model"], found["test"]
    assert -nats == pytest.approx(sum(parts), abs=0.02)
    assert -nats == pytest.approx(vk.training.evaluate(model, elbo(), test)["loss"], abs=0.006)
    assert bits == pytest.approx(-nats / math.log(2) / 64, abs=1e-3)


@pytest.mark.mnist
@pytest.mark.usefixtures("mnist_root")
@pytest.mark.parametrize("name", [name for name in BRIEF if name not in WITHOUT_MNIST])
def test_it_runs_on_mnist(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, "mnist", MOST.get(name, 300))
    run(name, "--data", "mnist")


@pytest.mark.parametrize("name", ["compress", "transformation"])
def test_it_runs_on_photos(name: str, run: Run, photos: str) -> None:
    found = run(name, "--photos", photos)
    assert found["unseen"].shape[1:] == (3, 32, 32)


def test_the_autoencoder_of_colour_images_can_be_as_large_as_taesd(run: Run, monkeypatch) -> None:
    shorten(monkeypatch, "digits", 20)
    model = run("compress", "--width", "64", "--blocks", "3")["model"]
    for part in (model.encoder, model.decoder):
        assert sum(each.numel() for each in part.parameters()) == pytest.approx(1.22e6, rel=0.01)


def test_the_areas_of_every_class(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, "digits", 150)
    found = run("anomalies", "--inlier", "all")
    assert len(found["areas"]) == 10
    expected = [vk.metrics.auroc(each, found["outside"]) for each in found["scores"].values()]
    assert found["areas"][-1] == expected


@pytest.mark.parametrize(
    ("name", "data"),
    [
        *((each, "fashion_mnist") for each in ("anomalies", "denoise", "features")),
        ("reduce_dimensions", "fashion_mnist"),
        ("transformation", "cifar10"),
    ],
)
def test_it_runs_on_other_data(name: str, data: str, run: Run, monkeypatch) -> None:
    """On noise of the right shape, for the real data are downloads."""
    shape = (3, 32, 32) if data == "cifar10" else (1, 28, 28)
    draws = torch.Generator().manual_seed(0)

    def made(*args: object, **options: object) -> list[vk.datasets.ArrayDataset]:
        count = MOST.get(name, 300)
        x = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=draws)
        labels, scale = torch.arange(count) % 10, 255.0
        one = vk.datasets.from_tensors(
            x, labels, scale=scale, binarize=options.get("binarize", "none")
        )
        return [one, one]

    monkeypatch.setattr(vk.datasets, data, made)
    run(name, "--data", data)


def test_the_published_sprites(run: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(vk.datasets, "dsprites", lambda path: vk.datasets.sprites())
    run("disentangle", "--data", str(tmp_path / "sprites.npz"))
