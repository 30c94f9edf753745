"""
Lightning: the same training in a LightningModule
=================================================

A VAE and its objective are ordinary modules, so whoever has a ``Trainer`` of Lightning's set up
(for many devices, for loggers, for callbacks) trains them there. The weights come out as those of
``vk.fit`` do: the last lines of this script train the model again with it, and compare.
"""

# %%
# Settings
# --------
# Needs ``pip install lightning``.

import argparse
import copy
import logging
from pathlib import Path

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.optim import Adam, Optimizer

import vaekit as vk

RECIPES = {"vae": vk.recipes.vae, "factor_vae": vk.recipes.factor_vae}
parser = argparse.ArgumentParser(description="Train a VAE with a Trainer of Lightning's.")
parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
parser.add_argument("--recipe", choices=RECIPES, default="vae")
parser.add_argument("--epochs", type=int, help="times through the data (digits 100, MNIST 4)")
parser.add_argument("--latents", type=int, default=10, help="number of latent dimensions")
parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
parser.add_argument("--out", type=Path, default=Path("runs/lightning"), help="where pictures go")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

# %%
# The module
# ----------
# A batch goes through the model, and the objective makes one number of it. It is told the step, for
# the weights that follow a schedule.


class VAEModule(lightning.LightningModule):
    """Trains a model on an objective."""

    def __init__(self, model: vk.VAE, objective: vk.objectives.Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return what is minimised, and log the named terms, without their weights."""
        loss = self.objective(self.model(batch[0]), batch[0], step=self.global_step)
        self.log_dict(loss.terms)
        return loss.total

    def configure_optimizers(self) -> Optimizer | list[Optimizer]:
        """Train the parameters of the model, and those that the objective may have."""
        return Adam(self.parameters(), lr=1e-3, fused=True)


# %%
# Validation
# ----------
# The same terms of data that are not trained on, and of both their means over an epoch, as in the
# history of ``vk.fit``.


class ValidatedModule(VAEModule):
    """Trains a model on an objective, and measures it on other data."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return what is minimised."""
        return self.measure(self.model(batch[0]), batch[0], "train")

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Log the terms."""
        with torch.random.fork_rng():  # which leaves the noise of training as it was
            self.measure(self.model(batch[0]), batch[0], "validation")

    def measure(self, out: vk.vae.VAEOutput, x: Tensor, stage: str) -> Tensor:
        """Return the loss of a batch, and log it with every named term: means over an epoch."""
        step = self.global_step // len(self.trainer.optimizers)  # each optimiser's steps count
        loss = self.objective(out, x, step=step)
        named = {f"{stage}_{name}": value for name, value in loss.terms.items()}
        named[f"{stage}_loss"] = loss.total
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=len(x))
        return loss.total


# %%
# Terms that train something of their own
# ---------------------------------------
# The term of a FactorVAE owns a discriminator, with a loss and an optimiser of its own. Lightning
# leaves such steps to the module.


class AdversarialModule(ValidatedModule):
    """Trains a model, and what the terms of its objective own."""

    def __init__(self, model: vk.VAE, objective: vk.objectives.Objective) -> None:
        super().__init__(model, objective)
        self.automatic_optimization = False
        self.inner = [term for term in objective.terms if term.inner_optimizer() is not None]

    def training_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Take a step of the model, then one of each discriminator on what was inferred."""
        x, (optimizer, *inner) = batch[0], self.optimizers()
        out = self.model(x)
        optimizer.zero_grad()
        self.manual_backward(self.measure(out, x, "train"))
        optimizer.step()
        for term, own in zip(self.inner, inner, strict=True):
            own.zero_grad()
            self.manual_backward(term.inner_loss(out, x))
            own.step()

    def configure_optimizers(self) -> list[Optimizer]:
        """Make an optimiser of the model alone, and that of each term which asks for one."""
        own = [term.inner_optimizer() for term in self.inner]
        return [Adam(self.model.parameters(), lr=1e-3, fused=True), *own]


# %%
# Train
# -----
# The loader is vaekit's, which gathers a batch of an array at once; any ``DataLoader`` does. Its
# generator, and the seed of the noise, are those that ``vk.fit`` makes of a seed.

load = vk.datasets.mnist if args.data == "mnist" else vk.datasets.digits
train, test = load(binarize="static")
epochs = (4 if args.data == "mnist" else 100) if args.epochs is None else args.epochs
torch.manual_seed(args.seed)
model, objective = RECIPES[args.recipe](vk.likelihoods.Bernoulli(train.shape), args.latents)
again = copy.deepcopy(model), copy.deepcopy(objective)

adversarial = any(term.inner_optimizer() is not None for term in objective.terms)
module = (AdversarialModule if adversarial else ValidatedModule)(model, objective)
trainer = lightning.Trainer(
    accelerator=args.device,
    devices=1,
    max_epochs=epochs,
    log_every_n_steps=10,
    logger=CSVLogger(args.out, name="", version=""),
    enable_checkpointing=False,
    enable_model_summary=False,
    enable_progress_bar=False,
)
order = torch.Generator().manual_seed(vk.training.fork_seed(args.seed, "data"))
torch.manual_seed(vk.training.fork_seed(args.seed, "noise"))
trainer.fit(
    module,
    vk.datasets.loader(train, batch_size=128, shuffle=True, generator=order),
    vk.datasets.loader(test, batch_size=128),
)
print(f"epoch {epochs} of {epochs}, in nats:")
for name, value in sorted(trainer.callback_metrics.items()):
    print(f"  {name:40}{value:8.2f}")

# %%
# Generate
# --------
# What Lightning trained is the model itself, which draws, encodes and is saved as any other. It is
# still in training mode.

model.to(args.device).eval()
generator = torch.Generator(args.device).manual_seed(args.seed)
ax = vk.plots.samples(model, 64, generator=generator)
ax.figure.savefig(args.out / "samples.png", dpi=150)
model.save_pretrained(args.out / "model")
print(f"wrote {args.out / 'samples.png'} and {args.out / 'model'}")

# %%
# The same as fit
# ---------------
# From the same first weights, with the same batches and the same noise, ``vk.fit`` takes the same
# steps.

same, objective = again
history = vk.fit(same.to(args.device), objective, train, epochs=epochs, seed=args.seed)
pairs = zip(model.parameters(), same.parameters(), strict=True)
apart = max((one - other).detach().abs().max().item() for one, other in pairs)
print(f"after {history.step[-1]} steps of each, the weights differ by {apart:.1g} at most")
