"""
Disentangle: one factor, one dimension
======================================

A VAE, a beta-VAE, a beta-TCVAE and a FactorVAE of sprites whose factors are known, and every score
of how well each latent dimension stands for one factor. The scores disagree, which is a result.
"""

# %%
# Settings
# --------
# By default few sprites, small networks and a short training, so that this page is made in seconds:
# enough to read the pictures and the table by, too little to rank methods. ``--full`` takes all
# 737,280 sprites, convolutions, and as many steps as you have time for.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import vaekit as vk

parser = argparse.ArgumentParser(description="Train disentangling VAEs of sprites and score them.")
parser.add_argument("--full", action="store_true", help="all sprites, and convolutions")
parser.add_argument("--steps", type=int, help="steps of each model (600; with --full 50,000)")
parser.add_argument("--latents", type=int, default=6, help="number of latent dimensions")
parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
parser.add_argument("--out", type=Path, default=Path("runs/disentangle"), help="where pictures go")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)

# %%
# Data with known factors
# -----------------------
# Sprites are drawn by code: shape, scale, orientation, and the place along x and y. The small set
# is one shape, an ellipse, of one orientation and six scales, in 16 x 16 places.

data = vk.datasets.sprites()
if not args.full:
    data = data.select(shape=1, orientation=0, x=range(0, 32, 2), y=range(0, 32, 2))
data = data.to(args.device)
print(data)

# %%
# Four objectives
# ---------------
# The same networks, the same start, the same batches.

likelihood = vk.likelihoods.Bernoulli(data.shape)
if args.full:
    nets = vk.recipes.convolutions((32, 32, 64, 64), (256,))
else:
    nets = vk.recipes.perceptrons((128,))
recipes = {
    "VAE": lambda: vk.recipes.vae(likelihood, args.latents, nets=nets),
    "beta-VAE": lambda: vk.recipes.beta_vae(likelihood, args.latents, beta=4, nets=nets),
    "beta-TCVAE": lambda: vk.recipes.beta_tcvae(likelihood, args.latents, beta=6, nets=nets),
    "FactorVAE": lambda: vk.recipes.factor_vae(likelihood, args.latents, gamma=10, nets=nets),
}
models: dict[str, vk.VAE] = {}
for name, recipe in recipes.items():
    torch.manual_seed(args.seed)
    model, objective = recipe()
    history = vk.fit(
        model.to(args.device),
        objective,
        data,
        steps=args.steps or (50_000 if args.full else 600),
        batch_size=64,
        learning_rate=1e-4 if args.full else 1e-3,
        seed=args.seed,
    )
    models[name] = model
    print(f"{name:12}{history}")

# %%
# Every score
# -----------
# From 0 to 1, higher is better. MIG, SAP and modularity look at pairs of a dimension and a factor;
# DCI at what a classifier finds important; the FactorVAE score at what stays the same when a factor
# is held. The classifiers are scikit-learn's.

print(f"\n{'':12}{'MIG':>8}{'SAP':>8}{'D':>8}{'C':>8}{'I':>8}{'modular':>9}{'FactorVAE':>11}")
tables = {}
for name, model in models.items():
    n = 10_000 if args.full else 1000
    codes, factors = vk.metrics.encode_factors(
        data, lambda x, model=model: model.encode(x).mean, n, seed=args.seed, device=args.device
    )
    tables[name] = mig = vk.metrics.mig(codes, factors)
    sap = vk.metrics.sap(codes, factors, seed=args.seed)
    dci = vk.metrics.dci(codes, factors, seed=args.seed)
    modularity = vk.metrics.modularity(codes, factors)
    voted = vk.metrics.factor_vae_score(
        data,
        lambda x, model=model: model.encode(x).mean,
        train=n // 2,
        test=n // 4,
        seed=args.seed,
        device=args.device,
    )
    print(
        f"{name:12}{mig.score:8.2f}{sap.score:8.2f}{dci.disentanglement:8.2f}"
        f"{dci.completeness:8.2f}{dci.informativeness:8.2f}{modularity.score:9.2f}"
        f"{voted.score.mean:11.2f}"
    )

# %%
# What each dimension does
# ------------------------
# One row a dimension, the one that carries most nats first. In a row of a disentangled model one
# thing changes: the place along one axis, or the scale.

figure, axes = plt.subplots(2, 2, figsize=(14, 9), layout="constrained")
some = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(args.seed))[:1000]]
for ax, (name, model) in zip(axes.flat, models.items(), strict=True):
    vk.plots.traversals(model, some, data=some, rows=5, columns=9, ax=ax)
    ax.set_title(name)
figure.savefig(args.out / "traversals.png", dpi=110)

# %%
# Which dimension knows which factor
# ----------------------------------
# The mutual information that MIG is made of: a disentangled model has one dark cell in each column,
# each in another row.

names = [n for n, size in zip(data.factor_names, data.factor_sizes, strict=True) if size > 1]
figure, axes = plt.subplots(1, 4, figsize=(15, 4), layout="constrained")
for ax, (name, mig) in zip(axes, tables.items(), strict=True):
    vk.plots.mutual_information(mig, names, ax=ax)
    ax.set_title(f"{name}: MIG {mig.score:.2f}")
figure.savefig(args.out / "information.png", dpi=110)
print(f"wrote {args.out}/traversals.png and information.png")
plt.show()
