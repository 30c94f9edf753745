"""
Learn a transformation
======================

An autoencoder learns from pairs to make a colour image grey, turn it and halve its size. Ordinary
image operations do the same, so that the two can be held against each other: error, arithmetic,
time and memory.
"""

# %%
# Settings
# --------

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import vaekit as vk

parser = argparse.ArgumentParser(description="Learn a transformation of images.")
parser.add_argument("--data", choices=("digits", "mnist", "cifar10"), default="digits")
parser.add_argument("--photos", type=Path, help="a folder of images, to take in place of --data")
parser.add_argument("--epochs", type=int, default=25, help="times through the data")
parser.add_argument("--latents", type=int, default=64, help="numbers between the two networks")
parser.add_argument("--width", type=int, default=8, help="channels of the outer convolutions")
parser.add_argument("--side", type=int, default=32, help="side of the photos, an even number")
parser.add_argument("--angle", type=float, default=30, help="how far to turn, in degrees")
parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
parser.add_argument("--out", type=Path, default=Path("runs/transformation"))
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(args.seed)

# %%
# The transformation
# ------------------
# Three operations, one after the other. The weights of the colours are those of television. Where
# each pixel of the turned image comes from is computed once; what comes from outside is black.

SIDE = 32 if args.photos is None else args.side
WEIGHTS = torch.tensor([0.299, 0.587, 0.114], device=args.device)
cosine, sine = math.cos(math.radians(args.angle)), math.sin(math.radians(args.angle))
turn = torch.tensor([[[cosine, sine, 0], [-sine, cosine, 0]]], device=args.device)
GRID = F.affine_grid(turn, [1, 1, SIDE, SIDE], align_corners=False)
Step = Callable[[Tensor], Tensor]


def grey(x: Tensor) -> Tensor:
    """Make colour images grey."""
    return torch.einsum("c,bchw->bhw", WEIGHTS, x)[:, None]


def turned(x: Tensor) -> Tensor:
    """Turn images about their centres."""
    return F.grid_sample(x, GRID.expand(len(x), -1, -1, -1), align_corners=False)


def halved(x: Tensor) -> Tensor:
    """Average squares of four pixels."""
    return F.avg_pool2d(x, 2)


PIPELINE = (grey, turned, halved)


def through(steps: Sequence[Step], x: Tensor) -> Tensor:
    """Put images through steps: ``(B, 3, H, W) -> (B, 1, H/2, W/2)``."""
    for step in steps:
        x = step(x)
    return x


# %%
# Pairs
# -----
# Digits, or MNIST's, of every colour on grounds of every colour, drawn anew each time; or CIFAR-10;
# or photographs of yours. What is gone through in training need only yield batches, which here are
# pairs: what goes in, and what is to come out.


class Pairs:
    """Batches of images and what the transformation makes of them."""

    def __init__(self, images: Tensor) -> None:
        """Take images, or digits that are yet to be coloured."""
        self.images = images

    def __len__(self) -> int:
        """Count the batches."""
        return math.ceil(len(self.images) / 50)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the images once, in random order."""
        for rows in torch.randperm(len(self.images)).split(50):
            x = coloured(self.images[rows]).to(args.device)
            yield x, through(PIPELINE, x)


def coloured(images: Tensor) -> Tensor:
    """Enlarge digits and give them two colours; leave colour images as they are."""
    if images.shape[1] == 3:
        return images
    grey = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear")
    ink, ground = torch.rand(2, len(grey), 3, 1, 1)
    return grey * ink + (1 - grey) * ground


if args.photos:
    parts = vk.datasets.image_folder(args.photos, size=SIDE).split(0.9, 0.1, seed=args.seed)
else:
    parts = getattr(vk.datasets, args.data)()
images = [part[:] if part.labels is None else part[:][0] for part in parts]
pairs, unseen = Pairs(images[0]), coloured(images[1][:1000]).to(args.device)
wanted = through(PIPELINE, unseen)

# %%
# The network
# -----------
# An autoencoder whose decoder returns another shape than its encoder takes. Nobody tells it what
# the transformation is.


def train(corruption: Callable[[Tensor], Tensor] | None = None) -> vk.VAE:
    """Train an autoencoder on the pairs, or on pairs whose input is corrupted."""
    torch.manual_seed(args.seed)
    latent = vk.latents.DeterministicLatent(args.latents)
    likelihood = vk.likelihoods.Gaussian((1, SIDE // 2, SIDE // 2), sigma="optimal")
    narrow, wide = args.width, 2 * args.width
    reading = vk.networks.conv((3, SIDE, SIDE), [narrow, wide], latent.num_params)
    writing = vk.networks.conv_transpose(args.latents, [wide, narrow], likelihood.shape)
    model = vk.VAE(vk.Encoder(reading, latent), vk.Decoder(writing, likelihood)).to(args.device)
    steps = args.epochs * len(pairs)
    history = vk.fit(
        model,
        vk.Reconstruction(),
        pairs,
        pairs=True,
        corruption=corruption,
        epochs=args.epochs,
        learning_rate=5e-3,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        seed=args.seed,
    )
    print(history)
    return model


model = train()

# %%
# How good is it?
# ---------------
# On images never seen, held against what the pipeline makes of them, which is the truth here. PSNR
# is :math:`-10 \log_{10}` of the mean squared error. The second number is what it costs nothing to
# reach: the same picture for all, the mean of what is wanted. Look at the edges of strokes.


def psnr(x: Tensor) -> float:
    """Hold images against those wanted, in dB."""
    return -10 * math.log10((x.clamp(0, 1) - wanted).square().mean())


def draw(rows: dict[str, Tensor], name: str) -> None:
    """Draw the first images of each row, all in one size, and save the figure."""
    alike = [F.interpolate(x[:12].expand(-1, 3, -1, -1), (SIDE, SIDE)) for x in rows.values()]
    figure, ax = plt.subplots(figsize=(11, 0.8 + 0.75 * len(rows)), layout="constrained")
    vk.plots.images(torch.cat(alike), rows=list(rows), ax=ax)
    figure.savefig(args.out / f"{name}.png", dpi=120)


learned = model.reconstruct(unseen).detach()
mean = through(PIPELINE, coloured(images[0][:5000]).to(args.device)).mean(0)
print(f"\nnetwork: {psnr(learned):.1f} dB; the mean image: {psnr(mean):.1f} dB")
draw({"input": unseen, "pipeline": wanted, "network": learned}, "transformed")

# %%
# What it costs
# -------------
# Multiply-adds are counted: by PyTorch in convolutions and products of matrices; by hand, four for
# each pixel that is turned and four for each average. Times are medians over many runs, in turn,
# without gradients, of the layers alone. Memory is what is held all the time (parameters; the grid
# and the weights), and the most that what goes into a step and what comes out of it take together.
# No row is the network's: who has the pipeline needs no network for it.


def arithmetic(steps: Sequence[Step]) -> int:
    """Count the multiply-adds of convolutions and products of matrices, for an image."""
    with FlopCounterMode(display=False) as counter:
        through(steps, unseen[:1])
    return counter.get_total_flops() // 2


def times(ways: Sequence[Sequence[Step]], x: Tensor, runs: int = 60) -> list[float]:
    """Measure how long each way takes for an image of a batch, in microseconds."""
    seconds: list[list[float]] = []
    for _ in range(runs):
        seconds.append([])
        for steps in ways:
            start = time.perf_counter()
            through(steps, x)
            if args.device != "cpu":
                torch.accelerator.synchronize()
            seconds[-1].append(time.perf_counter() - start)
    return [1e6 * statistics.median(each) / len(x) for each in zip(*seconds, strict=True)]


def on_the_way(steps: Sequence[Step]) -> float:
    """Measure how many kB an image takes at most, before and after a step."""
    x, most = unseen[:1], 0
    for step in steps:
        y = step(x)
        most = max(most, x.nbytes + y.nbytes * (y.data_ptr() != x.data_ptr()))
        x = y
    return most / 1024


layers = (*model.encoder.net.layers, *model.decoder.net.layers)
ways, many = (PIPELINE, layers), unseen[:128]
held = ((WEIGHTS, GRID), list(model.parameters()))
with torch.no_grad():
    costs = {
        "multiply-adds an image": [
            f"{arithmetic(PIPELINE) + 4 * SIDE**2 + 4 * (SIDE // 2) ** 2:,}",
            f"{arithmetic(layers):,}",
        ],
        "time of one image (us)": [f"{each:.1f}" for each in times(ways, unseen[:1])],
        f"time an image, {len(many)} at once (us)": [f"{each:.1f}" for each in times(ways, many)],
        "held all the time (kB)": [f"{sum(x.nbytes for x in each) / 1024:.1f}" for each in held],
        "held on the way, an image (kB)": [f"{on_the_way(steps):.1f}" for steps in ways],
    }
print(f"\n{'':34}{'pipeline':>12}{'network':>12}")
for quantity, cells in costs.items():
    print(f"{quantity:34}" + "".join(f"{cell:>12}" for cell in cells))

# %%
# What it is good for
# -------------------
# A pipeline does what was written down, to every image alike. A network does what the pairs show,
# also where nobody could write it down. Here a grey square lies somewhere on each image that goes
# in, and what is wanted is still made of the image without it. The pipeline turns the square with
# the rest, and the network trained on whole images does little better. A second network of the same
# size, trained on covered images, paints in some of what is missing. It has to guess, and is worse
# on whole images for it.


def covered(x: Tensor) -> Tensor:
    """Lay a grey square over each image, somewhere."""
    size, at = 3 * SIDE // 8, torch.arange(SIDE, device=x.device)
    first = torch.randint(SIDE - size + 1, (2, len(x), 1, 1), device=x.device)
    rows, columns = (at >= first) & (at < first + size)
    return x.masked_fill((rows.mT & columns)[:, None], 0.5)


mending = train(corruption=covered)
torch.manual_seed(args.seed)
hidden = covered(unseen)
results = {
    "pipeline": (wanted, through(PIPELINE, hidden)),
    "network": (learned, model.reconstruct(hidden).detach()),
    "second network": (
        mending.reconstruct(unseen).detach(),
        mending.reconstruct(hidden).detach(),
    ),
}
print(f"\n{'PSNR (dB)':16}{'whole':>9}{'covered':>9}")
for name, (of_whole, of_covered) in results.items():
    exact = of_whole is wanted
    print(f"{name:16}{'exact' if exact else f'{psnr(of_whole):.1f}':>9}{psnr(of_covered):9.1f}")
rows = {"input": hidden, **{name: made for name, (_, made) in results.items()}, "wanted": wanted}
draw(rows, "covered")
print(f"wrote {args.out}/transformed.png and covered.png")
