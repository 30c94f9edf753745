"""
Quickstart: a VAE of handwritten digits
=======================================

Train a variational autoencoder, measure it, generate with it, and look at what it learned. The
1,797 digits come with vaekit; ``--data mnist`` takes MNIST, downloaded if it is not there.
"""

# %%
# Settings
# --------
# Run as a script, ``python examples/quickstart.py --help`` shows what can be set.

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import vaekit as vk

parser = argparse.ArgumentParser(description="Train a VAE on handwritten digits.")
parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
parser.add_argument("--epochs", type=int, help="times through the data (digits 300, MNIST 8)")
parser.add_argument("--latents", type=int, default=10, help="number of latent dimensions")
parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="where pictures go")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

# %%
# Data
# ----
# Each time an image is read, its pixels are drawn to be black or white, white with their grey level
# as the probability. Binary data under a Bernoulli likelihood make the loss a true bound on the
# likelihood. The grey images of the same test set are kept for looking at.

load = vk.datasets.mnist if args.data == "mnist" else vk.datasets.digits
train, test = load(binarize="dynamic")
grey = load()[1]
print(f"train: {train}\ntest:  {test}")

# %%
# Three distributions
# -------------------
# The encoder is q(z|x), the decoder p(x|z), and the prior p(z) a standard normal.

torch.manual_seed(args.seed)
pixels = train.shape.numel()
latent = vk.GaussianLatent(args.latents)
encoder = vk.Encoder(vk.networks.mlp(pixels, [400], latent.num_params), latent)
decoder = vk.Decoder(
    vk.networks.mlp(args.latents, [400], pixels), vk.likelihoods.Bernoulli(train.shape)
)
model = vk.VAE(encoder, decoder).to(args.device)

# %%
# And an objective
# ----------------
# The negative ELBO: how badly the data are explained, plus how far the posterior is from the prior.

history = vk.fit(
    model,
    vk.Reconstruction() + vk.KL(),
    train,
    epochs=(8 if args.data == "mnist" else 300) if args.epochs is None else args.epochs,
    validation=test,
    seed=args.seed,
)

# %%
# What it is worth
# ----------------

measured = vk.training.evaluate(model, vk.Reconstruction() + vk.KL(), test)
bits = measured["loss"] / math.log(2) / pixels
print(f"\ntest ELBO       {-measured['loss']:8.2f} nats   ({bits:.3f} bits/dim)")
print(f"reconstruction  {measured['reconstruction']:8.2f} nats")
print(f"KL              {measured['kl']:8.2f} nats")

# %%
# Reconstructions
# ---------------
# Look for the same digit below: blurred is right, another digit is not. At 8x8 pixels some digits
# are hard to tell even above; MNIST shows it better.

args.out.mkdir(parents=True, exist_ok=True)


def save(name: str, ax: plt.Axes) -> None:
    """Write the picture that holds these axes."""
    ax.figure.savefig(args.out / name, dpi=150)
    print(f"wrote {args.out / name}")


save("reconstructions.png", vk.plots.reconstructions(model, grey, n=12))

# %%
# Samples
# -------
# Draws from the prior, decoded. Many should be digits that somebody could have written, and those
# between two digits show where the latent space passes from one to the other.

generator = torch.Generator(args.device).manual_seed(args.seed)
save("samples.png", vk.plots.samples(model, 64, generator=generator))

# %%
# The latent space
# ----------------
# The model never saw the labels that give the colours: digits of one kind lie together because they
# look alike.

ax = vk.plots.latent_scatter(model, grey, method="tsne")
ax.set_title("Posterior means of the test digits")
save("latents.png", ax)

# %%
# Training
# --------
# Two curves that stay together; validation turning upwards would be overfitting.

ax = vk.plots.curves(history)
ax.set_title("Negative ELBO")
save("curves.png", ax)
