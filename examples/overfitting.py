"""
Overfitting
===========

A VAE of few images learns them by heart: the loss goes on falling in training and rises on other
images. Eight remedies, each alone, measured on the same images by the same bound.
"""

# %%
# Settings
# --------

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import vaekit as vk

parser = argparse.ArgumentParser(description="Overfit a VAE, and prevent it.")
parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
parser.add_argument("--images", type=int, help="how many to train on (digits 200, MNIST 1000)")
parser.add_argument("--steps", type=int, help="steps of each model (digits 1000, MNIST 5000)")
parser.add_argument("--latents", type=int, default=10, help="number of latent dimensions")
parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
parser.add_argument("--out", type=Path, default=Path("runs/overfitting"), help="where pictures go")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)

# %%
# Three sets of images
# --------------------
# Few to train on, some to watch (validation), and some to report on (test), which nothing is chosen
# by. The pixels are black or white, drawn once with their grey level as the probability. ``fresh``
# holds the same images as ``few``, but their pixels are drawn again each time.

small = args.data == "digits"
load = vk.datasets.digits if small else vk.datasets.mnist
whole, validation, test = load(binarize="static", validation=300 if small else 1000)
size = (200 if small else 1000) if args.images is None else args.images
few, test = whole.subset(range(size)), test.subset(range(min(len(test), 1000)))
fresh = load(binarize="dynamic", validation=len(validation))[0].subset(range(size))
print(f"few:   {few}\nwhole: {whole}\ntest:  {test}")

# %%
# One model, and what may be done about it
# ----------------------------------------
# All take equally many steps. Noise on the input, weight decay and dropout act in training alone.
# While a model is trained, its loss is measured as it is used: on the few images and on those to
# watch, without noise, without dropout, and with the pixels that were drawn once.

WIDTH, BATCH = 400, 50


def networks(width: int = WIDTH, dropout: float = 0.0) -> vk.recipes.Nets:
    """Build perceptrons of one hidden layer, in which values are dropped."""
    return vk.recipes.Nets(
        lambda shape, out: vk.networks.mlp(shape.numel(), [width], out, dropout=dropout),
        lambda inputs, shape: vk.networks.mlp(inputs, [width], shape.numel(), dropout=dropout),
    )


def decaying(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make an optimiser that draws all weights towards 0."""
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1.0)


def flipped(x: Tensor) -> Tensor:
    """Turn a tenth of the pixels, chosen at random, from black to white and back."""
    return (x - torch.bernoulli(torch.full_like(x, 0.1))).abs()


Curve = list[tuple[int, float, float]]  # steps, and the loss of the few and in validation


def watching(curve: Curve) -> Callable[[vk.training.TrainingState], None]:
    """Make a callback that measures the loss."""

    def measure(state: vk.training.TrainingState) -> None:
        losses = (
            vk.training.evaluate(state.model, state.objective, data, batch_size=BATCH)["loss"]
            for data in (few, validation)
        )
        curve.append((state.step, *losses))

    return measure


def train(
    data: vk.datasets.ArrayDataset = few,
    nets: vk.recipes.Nets | None = None,
    latents: int = args.latents,
    **fit: Any,
) -> tuple[vk.VAE, Curve]:
    """Train a model, and return it with its curve."""
    torch.manual_seed(args.seed)
    likelihood = vk.likelihoods.Bernoulli(few.shape)
    model, objective = vk.recipes.vae(likelihood, latents, nets=nets or networks())
    curve: Curve = []
    steps = (1000 if small else 5000) if args.steps is None else args.steps
    fit |= {"steps": steps, "validate_every": steps // 20, "seed": args.seed}
    vk.fit(
        model.to(args.device), objective, data, batch_size=BATCH, callbacks=[watching(curve)], **fit
    )
    return model, curve


remedies: dict[str, dict[str, Any]] = {
    "nothing": {},
    "early stopping": {"validation": validation, "patience": 5},
    "a smaller network": {"nets": networks(WIDTH // 12)},
    "fewer latents": {"latents": 4},
    "weight decay": {"optimizer": decaying},
    "dropout": {"nets": networks(dropout=0.5)},
    "noise on the input": {"corruption": flipped},
    "pixels drawn afresh": {"data": fresh},
    f"{len(whole):,} images": {"data": whole},
}

# %%
# How good are they?
# ------------------
# The ELBO of the few images and of the test images, in nats, from ten draws: the higher, the
# better. Every row is measured on the same images, with the same pixels. Nothing does better than
# more data, and to draw the pixels afresh is of that kind: the grey levels, from which they are
# drawn, tell more of an image than any one drawing. Early stopping, weight decay, dropout and noise
# come next; fewer latents help the least.
#
# The last column estimates :math:`\log p(x)` of the test images with a hundred draws, which does
# not hang on the encoder as much. Without a remedy it is worse than with early stopping, but by
# less than the ELBO is: much of the overfitting is the encoder's, which no longer knows where to
# look for the codes of other images.

models, curves = {}, {}
print(f"\n{'':22}{'ELBO, few':>11}{'ELBO, test':>17}{'log p(x), test':>16}")
for name, what in remedies.items():
    models[name], curves[name] = model, curve = train(**what)
    known, unknown = (vk.metrics.elbo(model, data, samples=10).elbo for data in (few, test))
    likelihood = -vk.metrics.negative_log_likelihood(model, test, samples=100).nats.mean
    print(
        f"{name:22}{known.mean:11.2f}{unknown.mean:10.2f} ± {unknown.standard_error:.2f}"
        f"{likelihood:16.2f}"
    )

# %%
# Curves
# ------
# The dot is where the loss in validation is lowest. Without a remedy that is before half of the
# steps; early stopping goes back to there. The smaller network is slow, and would go on. The grey
# line is the one in validation without a remedy.

figure, axes = plt.subplots(3, 3, figsize=(11, 8), layout="constrained", sharex=True, sharey=True)
steps, _, untreated = zip(*curves["nothing"], strict=True)
for ax, (name, curve) in zip(axes.flat, curves.items(), strict=True):
    ax.plot(steps, untreated, color="0.8")
    at, known, unknown = zip(*curve, strict=True)
    ax.plot(at, known, color="C0", label="the few images")
    ax.plot(at, unknown, color="C1", label="validation")
    lowest = unknown.index(min(unknown))
    ax.plot(at[lowest], unknown[lowest], "o", color="C1", markersize=5)
    ax.set_title(name)
axes[0, 0].set_ylim(top=1.1 * untreated[0])
axes[0, 0].legend(frameon=False, loc="upper right")
figure.supxlabel("steps")
figure.supylabel("negative ELBO (nats)")
figure.savefig(args.out / "curves.png", dpi=120)

# %%
# Learned by heart
# ----------------
# Black and white originals above, reconstructions below; the titles give the mean error of a pixel,
# over all images of the kind. Without a remedy, images that were trained on come back much better
# than test images; where their pixels were drawn afresh, hardly better. What that model returns is
# greyer: it is less sure of pixels that are chance, which costs error and gains likelihood.

figure, axes = plt.subplots(2, 2, figsize=(12, 2.9), layout="constrained")
for row, name in zip(axes, ("nothing", "pixels drawn afresh"), strict=True):
    for ax, data, kind in zip(row, (few, test), ("trained on", "test images"), strict=True):
        error = (models[name].reconstruct(data).detach().cpu() - data[:][0]).abs().mean()
        vk.plots.reconstructions(models[name], data, n=12, ax=ax)
        ax.set_title(f"{name}: {kind}, mean error {error:.2f}", fontsize=10)
figure.savefig(args.out / "reconstructions.png", dpi=120)
print(f"wrote {args.out}/curves.png and reconstructions.png")
