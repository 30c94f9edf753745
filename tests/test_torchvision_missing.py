"""torchvision reads some data sets, and nothing else: without it, the rest works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BROKEN = 'raise RuntimeError("operator torchvision::nms does not exist")\n'

# What stands for an interpreter in which torchvision was never installed.
ABSENT = """
import importlib.metadata, sys
sys.modules["torchvision"] = None
version = importlib.metadata.version
def without(name):
    if name == "torchvision":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = without
"""

SCRIPT = """
import sys, warnings
warnings.simplefilter("error")
# An old matplotlib asks a new pyparsing by older names.
warnings.filterwarnings("ignore", category=DeprecationWarning, module="matplotlib|pyparsing")
import torch
import vaekit as vk

latent = vk.GaussianLatent(2)
encoder = vk.Encoder(vk.networks.mlp(64, [8], latent.num_params), latent)
decoder = vk.Decoder(vk.networks.mlp(2, [8], 64), vk.likelihoods.Bernoulli((1, 8, 8)))
model = vk.VAE(encoder, decoder)
train, test = vk.datasets.digits(binarize="dynamic")
objective = vk.Reconstruction() + vk.KL()
history = vk.fit(model, objective, train, steps=3, validation=test, progress=False)
assert history.step == [3]

from PIL import Image
folder = sys.argv[1]
Image.new("RGB", (9, 9), (255, 255, 255)).save(folder + "/a.png")
assert torch.equal(vk.datasets.image_folder(folder, 8)[:], torch.ones(1, 3, 8, 8))

import vaekit.plots
vaekit.plots.reconstructions(model, test, n=2).figure.savefig(folder + "/made.png")

from vaekit.sklearn import VAETransformer
rows = test[:20][0].flatten(1).numpy()
assert VAETransformer(steps=1, likelihood="bernoulli").fit_transform(rows).shape == (20, 2)

import contextlib
from vaekit import cli
with contextlib.redirect_stdout(sys.stderr):
    command = ["train", "digits", "--binarize", "dynamic"]
    command += ["--steps", "1", "--hidden", "4", "--quiet"]
    assert cli.main([*command, "--out", folder + "/run"]) == 0

compiler = torch.compile  # the compiler itself, and what it makes of a model, take long
torch.compile = lambda run: compiler(run, backend="eager")
history = vk.fit(model, objective, train, steps=2, compile=True, progress=False)
assert history.step == [2]

for load in ("mnist", "fashion_mnist", "kmnist", "cifar10", "celeba"):
    for attempt in range(2):
        try:
            getattr(vk.datasets, load)(folder, download=False)
        except ImportError as error:
            print(error)
        else:
            raise SystemExit(load + " was read without torchvision")
"""


@pytest.mark.parametrize(
    ("before", "package", "words"),
    [
        ("", BROKEN, ("operator torchvision::nms", f"98.7.6 beside torch {torch.__version__}")),
        (ABSENT, "", ("Found: no torchvision",)),
    ],
    ids=["broken", "absent"],
)
def test_without_torchvision(
    before: str, package: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    first = tmp_path / "first"
    (first / "torchvision").mkdir(parents=True)
    (first / "torchvision" / "__init__.py").write_text(package)
    metadata = first / "torchvision-98.7.6.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 98.7.6\n"
    )
    paths = [str(first), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", before + SCRIPT, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert len(messages) == 10
    for message in messages:
        for word in (*words, "pip install --force-reinstall torch torchvision"):
            assert word in message
