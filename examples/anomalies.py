"""
Find anomalies
==============

A VAE that has seen one digit alone is asked of every image whether it is another. Four scores of
the model answer, and one without it, the distance to the nearest training image.
"""

# %%
# Settings
# --------

import argparse
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import vaekit as vk

parser = argparse.ArgumentParser(description="Tell one class from the others by a VAE of it.")
parser.add_argument("--data", choices=("digits", "mnist", "fashion_mnist"), default="digits")
parser.add_argument("--inlier", default="3", help="the class to train on, 0 to 9; or all, in turn")
parser.add_argument("--epochs", type=int, help="times through the data (digits 200, others 30)")
parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
parser.add_argument("--out", type=Path, default=Path("runs/anomalies"), help="where pictures go")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)

# %%
# Data
# ----
# Black and white, so that the Bernoulli likelihood is one. Of the small digits about a third is
# kept for the test, for otherwise it would hold some thirty images of a kind.

if args.data == "digits":
    train, test = vk.datasets.digits(binarize="threshold", test=597)
else:
    train, test = getattr(vk.datasets, args.data)(binarize="threshold")
    test = test.subset(range(min(len(test), 2000)))
x_test, y_test = (part.to(args.device) for part in test[:])
likelihood = vk.likelihoods.Bernoulli(train.shape)

# %%
# The scores
# ----------
# `metrics.anomaly_scores` gives four. The encoder may be bad at images that it has never seen, and
# then the ELBO is low for no fault of the image. Likelihood regret (Xiao, Yan and Amit, 2020) turns
# that into a score: how many nats the ELBO of an image gains when a posterior is fitted to it
# alone, starting from the encoder's. Their argument: what the model was trained on gains little.


def score(model: vk.VAE, known: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Score images five ways; ``known`` are those trained on."""
    found = vk.metrics.anomaly_scores(model, x, seed=args.seed)
    names = ("reconstruction", "negative ELBO", "likelihood", "likelihood regret")
    nearest = torch.cdist(x.flatten(1), known.flatten(1)).amin(1).cpu()
    return dict(zip(names, found, strict=True)) | {"nearest image": nearest}


# %%
# One class, or each in turn
# --------------------------
# The area under the ROC curve (AUROC) is the chance that an image of another class scores higher
# than one of the class trained on: 1/2 is guessing. It is the share of pairs of test images in
# which it does, and the standard error beside it (DeLong and others, 1988) is how far another test
# set of the same size would move it: far, with about sixty images of the class among the small
# digits. The five areas of the class of 3 lie within twice that of each other, that of the distance
# to the nearest image among them. Of MNIST's digits, each in turn and over the whole test set,
# "Anomalies" in :doc:`/benchmarks` holds the areas of another model, under a Gaussian likelihood.


def print_row(head: str, cells: Iterable[str | float]) -> None:
    """Print a row of a table."""
    texts = (each if isinstance(each, str) else f"{each:.3f}" for each in cells)
    print(f"{head:25}" + "".join(f"{text:>19}" for text in texts))


areas: list[list[vk.metrics.Mean]] = []
for inlier in range(10) if args.inlier == "all" else [int(args.inlier)]:
    torch.manual_seed(args.seed)
    inside = train.subset(train.labels == inlier)
    model, objective = vk.recipes.vae(likelihood, latent_dim=8)
    epochs = (200 if args.data == "digits" else 30) if args.epochs is None else args.epochs
    vk.fit(model.to(args.device), objective, inside, epochs=epochs, batch_size=32, seed=args.seed)
    known = inside[:][0].to(args.device)
    scores, outside = score(model, known, x_test), (y_test != inlier).long().cpu()
    if not areas:
        print_row("inlier", scores)
    areas.append([vk.metrics.auroc(each, outside) for each in scores.values()])
    print_row(f"{inlier}", [f"{mean:.3f} ± {error:.3f}" for mean, error in areas[-1]])
if len(areas) > 1:
    print_row("mean", torch.tensor(areas).mean(0)[:, 0].tolist())

ax = vk.plots.roc(scores, outside)
ax.set_title(f"Trained on class {inlier}: finding the others")
ax.figure.savefig(args.out / "roc.png", dpi=120)

# %%
# What is wrong with them
# -----------------------
# Four images of the class, the four others that the negative ELBO finds strangest, and the four
# that it misses: those others that score lowest. The model redraws what it is shown as the digit
# that it knows, and the errors are what it had to change.


def draw_errors(groups: dict[str, Tensor], name: str) -> None:
    """Draw groups of images with what the model makes of them: framed, parted, and named."""
    images = torch.cat(list(groups.values()))
    ax = vk.plots.error_map(model, images, n=len(images))
    height, width = images.shape[-2:]
    gap = max(1, min(height, width) // 12)
    for column in range(len(images)):
        for row in range(3):
            corner = column * (width + gap) - 0.5, row * (height + gap) - 0.5
            frame = plt.Rectangle(corner, width, height, fill=False, edgecolor="0.6", clip_on=False)
            ax.add_patch(frame)
    start = 0
    for kind, x in groups.items():
        left, right = (place * (width + gap) - (gap + 1) / 2 for place in (start, start + len(x)))
        ax.text((left + right) / 2, -1 - gap, kind, ha="center", va="bottom")
        if start:
            ax.axvline(left, color="tab:red", linewidth=2)
        start += len(x)
    ax.figure.savefig(args.out / name, dpi=120)


order = scores["negative ELBO"].argsort()
others = order[outside[order] == 1]
groups = {
    "the class, its strangest": order[outside[order] == 0][-4:],
    "others, the strangest": others[-4:],
    "others, missed": others[:4],
}
draw_errors({kind: x_test[of.to(x_test.device)] for kind, of in groups.items()}, "errors.png")

# %%
# Unlike anything
# ---------------
# Images that are no digits at all. The table tells for each score the share of the test images of
# the class that lie below: 1 is caught, 0 is taken for the most ordinary of all. Among the small
# digits every score catches all of these. In the picture look at the middle row: whatever the model
# is shown, it draws the digit that it knows.

normal = x_test[y_test == inlier]
density = normal.mean().expand(normal.shape)  # as many white pixels as the class has
strange = {
    "inverted": 1 - normal,
    "noise, half the pixels": torch.rand_like(normal).round(),
    "noise, as many as a digit": torch.bernoulli(density),
    "black": torch.zeros_like(normal[:1]),
    "white": torch.ones_like(normal[:1]),
}
print()
print_row("", scores)
for kind, x in strange.items():
    found = score(model, known, x)
    below = [found[name][:, None] > scores[name][outside == 0] for name in scores]
    print_row(kind, [float(share.double().mean()) for share in below])

names = ("inverted", "noise, half", "noise, as many", "black", "white")
draw_errors(dict(zip(names, (x[:2] for x in strange.values()), strict=True)), "strange.png")
print(f"wrote {args.out}/roc.png, errors.png and strange.png")
