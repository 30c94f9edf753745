"""
Data of your own: a table and a sequence
========================================

Two encoders that no library could have foreseen, and a likelihood for values that are missing. Each
subclasses one of vaekit's and overrides ``forward``; the objective, the training loop and the
pictures stay what they are.
"""

# %%
# Settings
# --------

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn
from torch.distributions import Independent, Normal

import vaekit as vk

parser = argparse.ArgumentParser(description="Train VAEs of a table and of sequences.")
parser.add_argument("--epochs", type=int, default=150, help="times through each data set")
parser.add_argument("--out", type=Path, default=Path("runs/custom_encoder"))
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)

# %%
# A table
# -------
# 178 wines by 13 chemical measurements, in units that differ a thousandfold. A fifth of the values
# is made missing (NaN), as tables have it, and nothing below sees them but the last line, which
# tells how well they were filled in: the columns are scaled by what was measured of them, the
# encoder puts zeros in the holes and tells the network where they are, and the likelihood is that
# of the measured values alone. Under it the loss bounds their density, as long as values are
# missing at random.


class TableEncoder(vk.Encoder):
    """Takes missing values."""

    def __init__(self, width: int, latent: vk.GaussianLatent) -> None:
        """Make a network of the values, and of whether each is missing."""
        super().__init__(vk.networks.mlp(2 * width, [64], latent.num_params), latent)

    def forward(self, x: Tensor) -> vk.distributions.DiagonalGaussian:
        """Infer the posterior of each row."""
        missing = x.isnan()
        filled = x.masked_fill(missing, 0.0)
        return self.latent(self.net(torch.cat([filled, missing.to(x.dtype)], dim=-1)))


class Measured(Independent):
    """A distribution of each column, where those without a value count for nothing."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the values that there are."""
        by_column = self.base_dist.log_prob(value.nan_to_num())
        return by_column.masked_fill(value.isnan(), 0.0).sum(-1)


class TableLikelihood(vk.likelihoods.Gaussian):
    """A Gaussian of the measured values, of one sigma for all columns."""

    def forward(self, params: Tensor) -> Measured:
        """Return the distribution of each row."""
        whole = super().forward(params)
        return Measured(Normal(whole.mean, whole.stddev), 1)


bunch = load_wine()
table, growers = torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target)
missing = torch.rand(table.shape) < 0.2
measured = table.masked_fill(missing, float("nan"))
center = measured.nanmean(0)
spread = (measured - center).square().nanmean(0).sqrt()
scaled = (measured - center) / spread

width = table.shape[1]
latent, likelihood = vk.GaussianLatent(2), TableLikelihood(width, learn_sigma=True)
decoder = vk.Decoder(vk.networks.mlp(2, [64], width), likelihood)
model = vk.VAE(TableEncoder(width, latent), decoder)

# %%
# `datasets.from_tensors` takes no NaN, for most models would spread it; batches are taken as they
# come. The second of a batch is the label, for the colours below.

rows = [(scaled[part], growers[part]) for part in torch.randperm(len(table)).split(32)]
objective = vk.Reconstruction() + vk.KL()
history = vk.fit(model, objective, rows, epochs=args.epochs, seed=0)
print(f"table: {history}")
print(f"sigma {likelihood.sigma:.2f} of a column's spread")

figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
vk.plots.latent_scatter(model, rows, ax=axes[0])
axes[0].set_title("Wines by their latents, coloured by grower")
vk.plots.curves(history, ax=axes[1])
axes[1].set_title("Negative ELBO")
figure.savefig(args.out / "table.png", dpi=120)

# %%
# What was taken out of the table is known here, so the holes can be filled in and compared with it.

truth, made = (table - center) / spread, model.reconstruct(scaled).detach()
errors = [(each - truth)[missing].square().mean().sqrt() for each in (made, torch.zeros(width))]
print("missing values, error in a column's spread: {:.2f}; of its mean {:.2f}".format(*errors))

# %%
# A sequence
# ----------
# Waves of 50 steps whose frequency, phase and height differ. A recurrent network reads them in
# order, and its last state is what the posterior is inferred from.


class SequenceEncoder(vk.Encoder):
    """Reads a sequence with a GRU."""

    def __init__(self, channels: int, width: int, latent: vk.GaussianLatent) -> None:
        """Make the GRU and the layer that reads its last state."""
        super().__init__(nn.Linear(width, latent.num_params), latent)
        self.reader = nn.GRU(channels, width, batch_first=True)

    def forward(self, x: Tensor) -> vk.distributions.DiagonalGaussian:
        """Infer the posterior of each sequence, ``(B, time, channels)``."""
        _, last = self.reader(x)
        return self.latent(self.net(last[0]))


time = torch.linspace(0, 1, 50)
frequency, phase, height = torch.rand(3, 2000, 1)
waves = (0.5 + height) * torch.sin(6.28 * ((1 + 2 * frequency) * time + phase))
noisy = (waves + 0.1 * torch.randn_like(waves))[..., None]  # (2000, 50, 1)
train, test = vk.datasets.from_tensors(noisy, labels=(3 * frequency[:, 0]).long()).split(0.9, 0.1)

latent = vk.GaussianLatent(6)
likelihood = vk.likelihoods.Gaussian((50, 1), sigma=0.2, learn_sigma=True)
model = vk.VAE(
    SequenceEncoder(1, 64, latent), vk.Decoder(vk.networks.mlp(6, [128, 128], 50), likelihood)
)
history = vk.fit(
    model,
    vk.Reconstruction() + vk.schedules.Linear(0.1, 1, steps=500) * vk.KL(),
    train,
    epochs=max(1, args.epochs // 3),
    validation=test,
    optimizer=lambda parameters: torch.optim.Adam(parameters, 3e-3),
    clip_grad_norm=5.0,
    seed=0,
)
print(f"sequence: {history}")
print(f"sigma {likelihood.sigma:.2f}; the noise put in: 0.10")

# %%
# Left, what went in (dots) and what came out (lines): the lines should follow the waves and not the
# noise. Right, draws from the prior: most are smooth waves that were never in the data. Sigma, the
# standard deviation of what is left over, falls towards the noise the longer it is trained.

figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
x, _ = test[:4]
for index, (given, made) in enumerate(zip(x, model.reconstruct(x).detach(), strict=True)):
    axes[0].plot(time, given[:, 0], ".", markersize=3, color=f"C{index}")
    axes[0].plot(time, made[:, 0], color=f"C{index}")
axes[0].set_title("Test sequences (dots) and their reconstructions (lines)")
axes[0].set_xlabel("time")
axes[0].set_ylabel("value")
axes[1].set_xlabel("time")
for wave in model.sample(6, generator=torch.Generator().manual_seed(0)):
    axes[1].plot(time, wave[:, 0])
axes[1].set_title("Decoded from draws of the prior")
figure.savefig(args.out / "sequence.png", dpi=120)
print(f"wrote {args.out / 'table.png'} and {args.out / 'sequence.png'}")
