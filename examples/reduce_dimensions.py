"""
Reduce dimensions: VAE, PCA and t-SNE
=====================================

Four pictures of the same images: their principal components, their t-SNE, the two latents of a
VAE, and the t-SNE of a VAE with more latents. Two numbers hold each against the images themselves,
and images that came later are put into the pictures that can take them.
"""

# %%
# Settings
# --------

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

import vaekit as vk

parser = argparse.ArgumentParser(description="Reduce images to two dimensions, in four ways.")
parser.add_argument("--data", choices=("digits", "mnist", "fashion_mnist"), default="digits")
parser.add_argument("--epochs", type=int, help="times through the data (digits 50, others 15)")
parser.add_argument("--latents", type=int, default=10, help="of the larger VAE")
parser.add_argument(
    "--shown", type=int, help="training images in a picture (digits 700, others 2000)"
)
parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
parser.add_argument("--out", type=Path, default=Path("runs/reduce_dimensions"))
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(args.seed)

# %%
# Two VAEs
# --------
# They learn from all training images. Only the first of them are drawn, since t-SNE takes
# long for many points. ``sigma_vae`` estimates the noise of a pixel with the rest, so that nobody
# need guess how much detail the latents should keep.

small = args.data == "digits"
train, test = getattr(vk.datasets, args.data)()
shown, later = train.subset(range(args.shown or (700 if small else 2000))), test.subset(range(297))
nets = vk.recipes.perceptrons((256,) if small else (512, 512, 256))
codes: dict[str, tuple[Tensor, Tensor | None]] = {}  # of the images shown, and of later ones
for latents in (2, args.latents):
    model, objective = vk.recipes.sigma_vae(train.shape, latents, nets=nets)
    epochs = (50 if small else 15) if args.epochs is None else args.epochs
    history = vk.fit(model.to(args.device), objective, train, epochs=epochs, seed=args.seed)
    print(f"VAE of {latents} latents: {history}")
    codes[f"VAE, {latents} latents"] = tuple(model.encode(x).mean.cpu() for x in (shown, later))

# %%
# Principal components and t-SNE
# ------------------------------
# PCA is a linear map, found from all training images, which any image can be put through. t-SNE is
# no map at all: it moves the points it was given until neighbours lie together. An image that was
# not among them has no place, other than by doing it all again.

x, labels = shown[:]
x_later, labels_later = later[:]
pca = PCA(2).fit(train[:][0].flatten(1))
codes["PCA"] = tuple(torch.from_numpy(pca.transform(each.flatten(1))) for each in (x, x_later))
codes["pixels"] = x.flatten(1), x_later.flatten(1)


def tsne(points: Tensor) -> tuple[Tensor, None]:
    """Embed points in two dimensions; there is nothing for later ones."""
    found = TSNE(2, random_state=args.seed, max_iter=400).fit_transform(points)
    return torch.from_numpy(found), None


deep = f"VAE, {args.latents} latents"
codes["t-SNE of pixels"] = tsne(x.flatten(1))
codes[f"t-SNE of {args.latents} latents"] = tsne(codes[deep][0])

# %%
# How good are they?
# ------------------
# **Trustworthiness** asks whether neighbours in the picture are neighbours among the images, pixel
# by pixel; 1 is best, about 1/2 is chance. **k-NN** asks whether the five nearest points tell the
# digit: for a quarter of the images shown, and for later ones. No method saw a label, but t-SNE saw
# every image that it is asked about. The last rows are no pictures: what they had to start from.

pictures = ("PCA", "t-SNE of pixels", "VAE, 2 latents", f"t-SNE of {args.latents} latents")
captions = {}
print(f"\n{'':22} trustworthiness  continuity    k-NN        k-NN of later images")
for name in (*pictures, deep, "pixels"):
    z, z_later = codes[name]
    kept = vk.metrics.neighbourhood_preservation(x, z)
    near = vk.metrics.nearest_neighbours(z, labels, seed=args.seed).accuracy
    told = f"{near.mean:.3f} ± {near.standard_error:.3f}"
    told_later = "impossible"
    if z_later is not None:
        near_later = vk.metrics.nearest_neighbours(z, labels, test=(z_later, labels_later)).accuracy
        told_later = f"{near_later.mean:.3f} ± {near_later.standard_error:.3f}"
    print(
        f"{name:22} {kept.trustworthiness:15.3f} {kept.continuity:11.3f}    {told}     {told_later}"
    )
    captions[name] = f"trustworthiness {kept.trustworthiness:.3f}, k-NN {near.mean:.3f}"

# %%
# The pictures
# ------------
# t-SNE draws the cleanest islands, of pixels or of latents; how far apart they lie and how large
# they are means little. The VAE's two latents keep more apart than two principal components, and
# overlap in the middle: two numbers are few for a decoder that has to draw the image again.

figure, axes = plt.subplots(2, 2, figsize=(10, 9.5), layout="constrained")
for ax, name in zip(axes.flat, pictures, strict=True):
    z = codes[name][0]
    points = ax.scatter(z[:, 0], z[:, 1], s=5, c=labels, cmap="tab10")
    ax.set(title=name, xlabel=captions[name], xticks=[], yticks=[])
legend = points.legend_elements()[0]
figure.legend(legend, train.classes or range(10), loc="outside right center", frameon=False)
figure.savefig(args.out / "pictures.png", dpi=120)

# %%
# Images that came later
# ----------------------
# Test images (in colour) among the training images (grey): the encoder, like PCA, places an image
# without ever having seen it. Most land among their kind where the training images are apart.

figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained")
for ax, name in zip(axes, ("PCA", "VAE, 2 latents"), strict=True):
    z, z_later = codes[name]
    ax.scatter(z[:, 0], z[:, 1], s=4, color="0.8")
    ax.scatter(z_later[:, 0], z_later[:, 1], s=14, c=labels_later, cmap="tab10")
    ax.set(title=f"{name}: test images", xticks=[], yticks=[])
figure.legend(legend, train.classes or range(10), loc="outside right center", frameon=False)
figure.savefig(args.out / "later.png", dpi=120)
print(f"wrote {args.out}/pictures.png and later.png")
