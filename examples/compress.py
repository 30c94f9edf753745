"""
Compress: how few numbers will do
=================================

First with likelihoods: how many bits a pixel costs under VAEs of more and more latent dimensions,
beside general-purpose compressors, and how good what comes back is. Then with colour images: an
autoencoder whose latents are maps, 48 times fewer numbers, beside what linear algebra does with as
many.
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
parser.add_argument("--side", type=int, default=32, help="side of the colour images")
parser.add_argument("--width", type=int, default=16, help="its channels; 64 is TAESD's size")
parser.add_argument("--blocks", type=int, default=1, help="its blocks a scale; 3 is TAESD's size")
parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
parser.add_argument("--out", type=Path, default=Path("runs/compress"), help="where pictures go")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(args.seed)

# %%
# Bits and quality
# ----------------
# A model that gives an image the probability p can code it in :math:`-\log_2 p` bits: the negative
# ELBO is an upper bound on the length, which bits-back coding comes close to. Of its two parts the
# KL is what the latents cost, and the reconstruction what is left to be corrected afterwards.
# Without corrections, what is decoded from the latents has an error: PSNR is :math:`-10 \log_{10}`
# of its mean square, so that three more are half the error. Look at where more latents stop paying.
# (The compressors are given all test images in one stream, eight pixels to the byte.)


def psnr(result: Tensor, original: Tensor) -> float:
    """Hold images against the originals, in dB."""
    return -10 * math.log10((result.clamp(0, 1) - original).square().mean())


load = vk.datasets.mnist if args.data == "mnist" else vk.datasets.digits
train, test = load(binarize="dynamic")
_, fixed = load(binarize="static")
pixels = train.shape.numel()
packed = np.packbits(fixed[:][0].numpy().astype(bool)).tobytes()
epochs = (20 if args.data == "mnist" else 50) if args.epochs is None else args.epochs
images = fixed[:][0]
sizes, found, decoded, models = (1, 2, 4, 8, 16), [], {"original": images}, {}
print(f"{'':14}{'bits/pixel':>12}{'latents':>10}{'corrections':>13}{'PSNR (dB)':>12}")
for name, length in (("bz2", len(bz2.compress(packed, 9))), ("lzma", len(lzma.compress(packed)))):
    print(f"{name:14}{8 * length / len(fixed) / pixels:12.3f}")


def train_vae(size: int, beta: float = 1.0) -> vk.VAE:
    """Train a VAE of so many latents, under a weight of the KL."""
    model, objective = vk.recipes.beta_vae(vk.likelihoods.Bernoulli(train.shape), size, beta=beta)
    model.to(args.device)
    vk.fit(model, objective, train, epochs=epochs, learning_rate=2e-3, seed=args.seed)
    return model


for size in sizes:
    models[size] = model = train_vae(size)
    elbo = vk.metrics.elbo(model, fixed, samples=10)
    bits = [part.mean / math.log(2) / pixels for part in (elbo.kl, elbo.reconstruction)]
    found.append(bits)
    name = f"{size} latent" + "s" * (size > 1)
    with torch.no_grad():
        decoded[name] = model.reconstruct(images.to(args.device)).cpu()
    quality = psnr(decoded[name], images)
    print(f"{name:14}{sum(bits):12.3f}{bits[0]:10.3f}{bits[1]:13.3f}{quality:12.2f}")

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
# Test images, black and white, and what is decoded from more and more latents: look at how strokes
# come back as they were, rather than as those of an ordinary digit.


def draw_rows(rows: dict[str, Tensor], size: tuple[float, float]) -> plt.Figure:
    """Draw a row of pictures for each name."""
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    pictures = torch.cat([each[:12] for each in rows.values()])
    vk.plots.images(pictures, rows=list(rows), ax=ax)
    return figure


draw_rows(decoded, (8, 3.6)).savefig(args.out / "sizes.png", dpi=150)

# %%
# Rate and distortion
# -------------------
# The number of latents is one way to trade bits for quality, the weight of the KL another. Each
# point is a model of eight latents; its rate is what the latents cost and its distortion what is
# left to be corrected, in nats for each image. Their sum, the length of the code, is the same along
# the dashed line: a weight of 1 asks for the least sum, and others pay for what they weigh less.

for beta in (0.1, 0.3, 3.0, 10.0):
    models[8, beta] = train_vae(8, beta)
curve = vk.metrics.rate_distortion(
    {beta: models[8, beta] if beta != 1 else models[8] for beta in (0.1, 0.3, 1.0, 3.0, 10.0)},
    fixed,
    samples=10,
)
print(f"\n{'beta':>6}{'rate':>9}{'distortion':>13}{'sum':>9}")
for point in curve:
    length = point.rate.mean + point.distortion.mean
    print(f"{point.beta:6.1f}{point.rate.mean:9.2f}{point.distortion.mean:13.2f}{length:9.2f}")
ax = vk.plots.rate_distortion(curve)
rate, distortion = curve[2].rate.mean, curve[2].distortion.mean
ax.axline((rate, distortion), slope=-1, color="0.6", linestyle="--", linewidth=1)
ax.set_title("Eight latents, several weights of the KL")
ax.figure.savefig(args.out / "rate_distortion.png", dpi=150)

# %%
# Colour images
# -------------
# Digits of bright colours on dark grounds (of MNIST the first 10,000, and 1,000 to test on); or
# squares cut out of photographs of yours, of which those to test on come from other photographs
# than those to train on.

SIDE = args.side


def colour(digits: Tensor) -> Tensor:
    """Enlarge grey digits, and mix a colour and a ground by their grey."""
    grey = nn.functional.interpolate(digits, size=(SIDE, SIDE), mode="bilinear")
    ink, ground = torch.rand(2, len(grey), 3, 1, 1)
    return grey * (0.4 + 0.6 * ink) + (1 - grey) * 0.4 * ground


def cut(pictures: Tensor) -> Tensor:
    """Cut ten squares out of each photograph."""
    places = torch.randint(pictures.shape[-1] - SIDE + 1, (10, 2)).tolist()
    return torch.cat([pictures[:, :, y : y + SIDE, x : x + SIDE] for y, x in places])


if args.photos:
    parts = vk.datasets.image_folder(args.photos, size=256).split(0.9, 0.1, seed=args.seed)
    photos = (part[:] if part.labels is None else part[:][0] for part in parts)
    coloured, unseen = map(cut, photos)
else:
    known, others = load()
    coloured, unseen = colour(known[:10_000][0]), colour(others[:1000][0])

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
# autoencoder of Stable Diffusion's latents: 1.22 million parameters each. With these, seed 0 and
# ``--epochs 1`` (of the models above), the table at the end had 27.2 dB for the autoencoder and
# 23.4 for the components of blocks.


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
    batch_size=16,
    learning_rate=2e-3,
    scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps),
    seed=args.seed,
)
counts = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder)]
print(f"\nencoder {counts[0]:,} parameters, decoder {counts[1]:,}; {history}")

# %%
# Side by side on images never seen, with the image scaled down to about as few numbers and up
# again. Look at the edges of strokes: the colour is easy, the shape is what numbers are spent on.

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
    print(
        f"{name:24}{count:8,}" + (f"{psnr(result, unseen):11.2f}" if result is not unseen else "")
    )
figure = draw_rows({name: result for name, (result, _) in made.items()}, (9.5, 2.6))
figure.savefig(args.out / "colours.png", dpi=150)
print(f"wrote {args.out}/bits.png, sizes.png, rate_distortion.png and colours.png")
