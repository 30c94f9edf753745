"""
Denoise
=======

An autoencoder that is given noisy images and trained to return the clean ones. Beside it a median
filter, the best linear map, and a VAE that saw clean images alone, used in two ways.
"""

# %%
# Settings
# --------

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from scipy.ndimage import median_filter
from torch import Generator, Tensor

import vaekit as vk

parser = argparse.ArgumentParser(description="Denoise images with an autoencoder.")
parser.add_argument("--data", choices=("digits", "mnist", "fashion_mnist"), default="digits")
parser.add_argument("--epochs", type=int, help="times through the data (digits 150, others 20)")
parser.add_argument("--steps", type=int, default=150, help="steps that fit a code to an image")
parser.add_argument("--latents", type=int, default=32, help="number of latent dimensions")
parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
parser.add_argument("--out", type=Path, default=Path("runs/denoise"), help="where pictures go")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(args.seed)

# %%
# Noise
# -----
# Gaussian noise of a standard deviation is added to every pixel, and may leave [0, 1]. Salt and
# pepper make a fifth of the pixels white or black, and leave the others as they are.

small = args.data == "digits"
train, test = getattr(vk.datasets, args.data)()
clean, unseen = train[:10_000][0], test[:1000][0]
Noise = Callable[[Tensor, Generator], Tensor]


def gaussian(sigma: float) -> Noise:
    """Make a function that adds Gaussian noise."""
    return lambda x, generator: x + sigma * torch.randn(x.shape, generator=generator)


def salt_and_pepper(x: Tensor, generator: Generator) -> Tensor:
    """Make a tenth of the pixels white and a tenth black."""
    chance = torch.rand(x.shape, generator=generator)
    return x.where(chance > 0.2, (chance < 0.1).float())


NOISES = {f"Gaussian, {sigma}": gaussian(sigma) for sigma in (0.1, 0.2, 0.4)}
NOISES["salt and pepper"] = salt_and_pepper

# %%
# Two models
# ----------
# The denoising autoencoder is given the training images with Gaussian noise, whose standard
# deviation is drawn for each image from 0 to 0.5, anew each time it is seen; it is to return them
# clean. It is not told how strong the noise is, and never sees salt and pepper. The VAE is trained
# on the same images without any noise.


def corrupted(x: Tensor) -> Tensor:
    """Add Gaussian noise, to some images more than to others."""
    sigma = 0.5 * torch.rand(len(x), 1, 1, 1, device=x.device)
    return x + sigma * torch.randn_like(x)


grey = vk.likelihoods.Bernoulli(train.shape, grey_levels=True)
denoiser, objective = vk.recipes.denoising_autoencoder(grey, args.latents)
epochs = (150 if small else 20) if args.epochs is None else args.epochs
fit = {"epochs": epochs, "seed": args.seed}
history = vk.fit(denoiser.to(args.device), objective, train, corruption=corrupted, **fit)
print(f"denoising autoencoder: {history}")
vae, objective = vk.recipes.sigma_vae(train.shape, args.latents)
history = vk.fit(vae.to(args.device), objective, train, **fit)
print(f"VAE: {history}")

# %%
# Ways to denoise
# ---------------
# The best linear map from noisy to clean is found by least squares, from training images with the
# very noise that it is tested on. The VAE can simply encode and decode. Better, its decoder and its
# prior say what clean images look like, and a likelihood says what the noise is like: the code that
# both find most probable is looked for, starting from the encoder's. For salt and pepper that
# likelihood is a Laplace, which few large errors do not impress. Its sigma is how far the noise
# moves pixels, with the VAE's own error.


def linear(noise: Noise, y: Tensor) -> Tensor:
    """Map noisy images by what least squares found for this noise, from ten noisy copies."""
    draws = torch.Generator().manual_seed(args.seed + 1)
    copies = 10 if small else 1
    x = torch.cat([noise(clean, draws) for _ in range(copies)]).flatten(1).double()
    target = clean.flatten(1).double().repeat(copies, 1)
    weights = torch.linalg.lstsq(x - x.mean(0), target - target.mean(0)).solution
    mapped = (y.flatten(1) - x.mean(0)) @ weights + target.mean(0)
    return mapped.float().reshape(y.shape)


def fitted(noise: Noise, y: Tensor) -> Tensor:
    """Decode the most probable codes of noisy images, given what the noise is like."""
    draws = torch.Generator().manual_seed(args.seed + 1)
    error = (noise(clean, draws) - clean).square().mean().item()
    sigma = math.sqrt(error + vae.decoder.likelihood.sigma**2)
    sparse = noise is salt_and_pepper
    kind = vk.likelihoods.Laplace if sparse else vk.likelihoods.Gaussian
    likelihood, y = kind(train.shape, sigma), y.to(args.device)
    z = vae.encode(y).mean.detach().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(args.steps):
        loss = vk.reconstruction(likelihood(vae.decode(z)), y) - vae.prior().log_prob(z)
        optimizer.zero_grad()
        loss.sum().backward(inputs=[z])
        optimizer.step()
    return vae.decode(z).detach().cpu()


def denoise(noise: Noise, y: Tensor) -> dict[str, Tensor]:
    """Denoise images in every way; what leaves [0, 1] is cut."""
    on_device = y.to(args.device)
    found = {
        "noisy": y,
        "median of 3x3": torch.from_numpy(median_filter(y.numpy(), (1, 1, 3, 3))),
        "best linear map": linear(noise, y),
        "VAE, encoded and decoded": vae.reconstruct(on_device).detach().cpu(),
        "VAE, code fitted": fitted(noise, y),
        "denoising autoencoder": denoiser.reconstruct(on_device).detach().cpu(),
    }
    return {name: x.clamp(0, 1) for name, x in found.items()}


# %%
# How good are they?
# ------------------
# Noise is drawn once for the test images, and every way is given the same. PSNR is
# :math:`-10 \log_{10}` of the mean squared error: three more are half the error. The median filter
# takes strokes for noise, which here are a pixel or two wide. Against the weakest noise the linear
# map is best, and to encode and decode does more harm than the noise: not every detail passes
# through so few numbers. Against the stronger Gaussian noise the denoising autoencoder is best,
# though it is not told how strong it is. Salt and pepper, which neither network was trained
# for, is met best by the fitted code: it needs no new training, only another likelihood.


def psnr(x: Tensor) -> float:
    """Hold images against the clean test images, in dB."""
    return -10 * math.log10((x - unseen).square().mean())


results = {}
for name, noise in NOISES.items():
    noisy = noise(unseen, torch.Generator().manual_seed(args.seed))
    results[name] = denoise(noise, noisy)
print(f"\n{'PSNR (dB)':25}" + "".join(f"{name:>17}" for name in NOISES))
for way in results["salt and pepper"]:
    print(f"{way:25}" + "".join(f"{psnr(results[name][way]):17.2f}" for name in NOISES))

shown = ("Gaussian, 0.2", "Gaussian, 0.4", "salt and pepper")
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
for ax, name in zip(axes, shown, strict=True):
    rows = {"clean": unseen, **results[name]}
    ways = list(rows) if ax is axes[0] else None
    vk.plots.images(torch.cat([x[:8] for x in rows.values()]), columns=8, rows=ways, ax=ax)
    ax.set_title(name)
figure.savefig(args.out / "denoised.png", dpi=120)

# %%
# Weaker and stronger noise
# -------------------------
# The denoising autoencoder was trained up to the dashed line. Its lead ends soon behind it; the
# linear map is another one at each strength, and the fitted code is told each.

levels = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
lines: dict[str, list[float]] = {}
for sigma in levels:
    noise = gaussian(sigma)
    for way, x in denoise(noise, noise(unseen, torch.Generator().manual_seed(args.seed))).items():
        lines.setdefault(way, []).append(psnr(x))
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
for way, line in lines.items():
    ax.plot(levels, line, marker="o", markersize=4, label=way)
ax.axvline(0.5, color="0.6", linestyle="--", linewidth=1)
ax.set(xlabel="standard deviation of the noise", ylabel="PSNR (dB)", title="Gaussian noise")
ax.legend(frameon=False)
figure.savefig(args.out / "levels.png", dpi=120)
print(f"wrote {args.out}/denoised.png and levels.png")
