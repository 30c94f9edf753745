"""
Compress: how few numbers will do
=================================

First with likelihoods: how many bits a pixel costs under VAEs of more and more latent dimensions,
beside general-purpose compressors. Then with colour images: an autoencoder whose latents are maps,
48 times fewer numbers, beside what linear algebra does with as many.
"""

# %%
# Settings
# --------

import argparse
import bz2
import lzma
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

import vaekit as vk

parser = argparse.ArgumentParser(description="Compress digits and colour images.")
parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
parser.add_argument("--photos", type=Path, help="a folder of images; coloured digits if not given")
parser.add_argument("--epochs", type=int, help="times through the digits (digits 50, MNIST 20)")
parser.add_argument(
    "--steps", type=int, default=300, help="steps of the autoencoder of colour images"
)
parser.add_argument("--side", type=int, default=16, help="side of the colour images")
parser.add_argument("--width", type=int, default=16, help="its channels; 64 is TAESD's size")
parser.add_argument("--blocks", type=int, default=1, help="its blocks a scale; 3 is TAESD's size")
parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
parser.add_argument("--out", type=Path, default=Path("runs/compress"), help="where pictures go")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(args.seed)

# %%
# Bits
# ----
# A model that gives an image the probability p can code it in :math:`-\log_2 p` bits: the negative
# ELBO is an upper bound on the length, which bits-back coding comes close to. Of its two parts the
# KL is what the latents cost, and the reconstruction what is left to be corrected afterwards. Look
# at where more latents stop paying. (The compressors are given all test images in one stream, eight
# pixels to the byte.)

load = vk.datasets.mnist if args.data == "mnist" else vk.datasets.digits
train, test = load(binarize="dynamic")
_, fixed = load(binarize="static")
pixels = train.shape.numel()
packed = np.packbits(fixed[:][0].numpy().astype(bool)).tobytes()
epochs = args.epochs or (20 if args.data == "mnist" else 50)
sizes, found = (1, 2, 4, 8, 16), []
print(f"{'':14}{'bits/pixel':>12}{'latents':>10}{'corrections':>13}")
for name, length in (("bz2", len(bz2.compress(packed, 9))), ("lzma", len(lzma.compress(packed)))):
    print(f"{name:14}{8 * length / len(fixed) / pixels:12.3f}")
for size in sizes:
    model, objective = vk.recipes.vae(vk.likelihoods.Bernoulli(train.shape), size)
    model.to(args.device)
    vk.fit(model, objective, train, epochs=epochs, learning_rate=2e-3, seed=args.seed)
    elbo = vk.metrics.elbo(model, fixed, samples=10)
    bits = [part.mean / math.log(2) / pixels for part in (elbo.kl, elbo.reconstruction)]
    found.append(bits)
    print(
        f"{f'{size} latent' + 's' * (size > 1):14}{sum(bits):12.3f}{bits[0]:10.3f}{bits[1]:13.3f}"
    )

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
kl, rest = zip(*found, strict=True)
names = [str(size) for size in sizes]
ax.bar(names, kl, label="the latents")
ax.bar(names, rest, bottom=kl, label="corrections, given the latents")
ax.set(
    xlabel="latent dimensions",
    ylabel="bits a pixel",
    title="Code length of the test images",
    ylim=(0, 1.3 * max(map(sum, found))),
)
ax.legend(frameon=False)
figure.savefig(args.out / "bits.png", dpi=150)

# %%
# Colour images
# -------------
# Digits of every colour on grounds of every colour; or squares cut out of photographs of yours, of
# which those to test on come from other photographs than those to train on.

SIDE = args.side


def colour(digits: Tensor) -> Tensor:
    """Enlarge grey digits, and mix a colour and a ground by their grey."""
    grey = nn.functional.interpolate(digits, size=(SIDE, SIDE), mode="bilinear")
    ink, ground = torch.rand(2, len(grey), 3, 1, 1)
    return grey * ink + (1 - grey) * ground


def cut(pictures: Tensor) -> Tensor:
    """Cut ten squares out of each photograph."""
    places = torch.randint(pictures.shape[-1] - SIDE + 1, (10, 2)).tolist()
    return torch.cat([pictures[:, :, y : y + SIDE, x : x + SIDE] for y, x in places])


if args.photos:
    parts = vk.datasets.image_folder(args.photos, size=256).split(0.9, 0.1, seed=args.seed)
    coloured, unseen = (cut(part[:][0]) for part in parts)
else:
    coloured, unseen = (colour(part[:][0]) for part in vk.datasets.digits())

# %%
# The best linear code
# --------------------
# Four numbers for each block of 8x8 pixels in three colours: 48 times fewer. The principal
# components of blocks are the best that a linear code of blocks can do.


def blockwise(images: Tensor) -> Tensor:
    """Arrange images as rows, one for each block of 8x8 pixels: the colours one after another."""
    tiles = images.unfold(2, 8, 8).unfold(3, 8, 8)  # (B, 3, rows, columns, 8, 8)
    return tiles.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)


pca = PCA(4).fit(blockwise(coloured).numpy())

# %%
# A code that is not linear
# -------------------------
# Maps for latents: 4 channels, an eighth of the sides. Both networks begin as the linear code, a
# convolution of stride 8 and its transpose, and learn what to add: residual blocks, which see
# beyond the border of a block. ``--width 64 --blocks 3`` gives them the size of TAESD, the small
# autoencoder of Stable Diffusion's latents: 1.22 million parameters each.


class Block(nn.Module):
    """Three convolutions beside a path that leaves everything as it is."""

    def __init__(self, width: int) -> None:
        """Make the convolutions."""
        super().__init__()
        layers = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.path = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def forward(self, x: Tensor) -> Tensor:
        """Add what the convolutions have to add."""
        return (self.path(x) + x).relu()


class Sum(nn.Module):
    """A linear code, and what a network adds to it: nothing at first."""

    def __init__(self, linear: nn.Module, layers: list[nn.Module]) -> None:
        """Let the last layer begin with zeros."""
        super().__init__()
        self.linear, self.added = linear, nn.Sequential(*layers)
        for parameter in layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Add the two."""
        return self.linear(x) + self.added(x)


width, blocks = args.width, range(args.blocks)
down: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), Block(width)]
up: list[nn.Module] = [nn.Conv2d(4, width, 3, padding=1), nn.ReLU()]
for _ in range(3):
    half = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
    double = nn.Conv2d(width, width, 3, padding=1, bias=False)
    down += [half, *(Block(width) for _ in blocks)]
    up += [*(Block(width) for _ in blocks), nn.Upsample(scale_factor=2), double]
down += [nn.Conv2d(width, 4, 3, padding=1)]
up += [Block(width), nn.Conv2d(width, 3, 3, padding=1)]

analysis, synthesis = nn.Conv2d(3, 4, 8, stride=8), nn.ConvTranspose2d(4, 3, 8, stride=8)
components = torch.from_numpy(pca.components_).float().reshape(4, 3, 8, 8)
mean = torch.from_numpy(pca.mean_).float().reshape(3, 8, 8)
with torch.no_grad():
    analysis.weight.copy_(components)
    analysis.bias.copy_(-(components * mean).sum((1, 2, 3)))
    synthesis.weight.copy_(components)
    synthesis.bias.copy_(mean.mean((1, 2)))

numbers = 4 * (SIDE // 8) ** 2
unflat = nn.Unflatten(1, (4, SIDE // 8, SIDE // 8))
model = vk.VAE(
    vk.Encoder(Sum(analysis, down), vk.latents.DeterministicLatent(numbers)),
    vk.Decoder(
        nn.Sequential(unflat, Sum(synthesis, up)),
        vk.likelihoods.Gaussian((3, SIDE, SIDE), sigma="optimal"),
    ),
).to(args.device)
history = vk.fit(
    model,
    vk.Reconstruction(),
    coloured,
    steps=args.steps,
    batch_size=32,
    learning_rate=2e-3,
    seed=args.seed,
)
counts = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder)]
print(f"\nencoder {counts[0]:,} parameters, decoder {counts[1]:,}; {history}")

# %%
# Side by side on images never seen, with the image scaled down to about as few numbers and up
# again. PSNR is :math:`-10 \log_{10}` of the mean squared error: three more are half the error.
# Look at the edges of strokes: the colour is easy, the shape is what numbers are spent on. After so
# short a training the blocks still show; ``--steps 5000`` goes on.

few = round((numbers / 3) ** 0.5)
small = nn.functional.interpolate(unseen, size=(few, few), mode="area")
rows = torch.from_numpy(pca.inverse_transform(pca.transform(blockwise(unseen).numpy()))).float()
tiles = rows.reshape(-1, SIDE // 8, SIDE // 8, 3, 8, 8).permute(0, 3, 1, 4, 2, 5)
with torch.no_grad():
    autoencoded = model.reconstruct(unseen.to(args.device)).cpu()
made = {
    "original": (unseen, 3 * SIDE**2),
    f"scaled to {few}x{few}": (
        nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bicubic"),
        3 * few**2,
    ),
    "components of blocks": (tiles.reshape(unseen.shape), numbers),
    "autoencoder": (autoencoded, numbers),
}
print(f"\n{'':24}{'numbers':>8}{'PSNR (dB)':>11}")
for name, (result, count) in made.items():
    error = (result.clamp(0, 1) - unseen).square().mean().item()
    print(f"{name:24}{count:8,}" + (f"{-10 * math.log10(error):11.2f}" if error else ""))

figure, axes = plt.subplots(4, 1, figsize=(9, 4.6), layout="constrained")
for ax, (name, (result, _)) in zip(axes, made.items(), strict=True):
    vk.plots.images(result[:10], columns=10, ax=ax)
    ax.set_title(name, fontsize=10)
figure.savefig(args.out / "colours.png", dpi=150)
print(f"wrote {args.out}/bits.png and colours.png")
plt.show()
