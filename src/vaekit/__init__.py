r"""Variational autoencoders as three distributions and an objective.

The encoder is :math:`q(z \mid x)`, the decoder :math:`p(x \mid z)`, the prior :math:`p(z)`; what
is minimised is a sum of terms over what one forward pass inferred. Each is a part that can be
swapped without touching the others.
"""

from vaekit import (
    datasets,
    distributions,
    export,
    hierarchy,
    latents,
    likelihoods,
    losses,
    metrics,
    networks,
    objectives,
    plots,
    pretrained,
    priors,
    recipes,
    schedules,
    training,
    vae,
)
from vaekit._version import __version__
from vaekit.latents import GaussianLatent
from vaekit.losses import decompose_kl, kl_divergence, reconstruction, total_correlation
from vaekit.objectives import KL, DecomposedKL, Reconstruction, TotalCorrelation
from vaekit.plots import report
from vaekit.training import fit
from vaekit.vae import VAE, Decoder, Encoder

__all__ = [
    "KL",
    "VAE",
    "Decoder",
    "DecomposedKL",
    "Encoder",
    "GaussianLatent",
    "Reconstruction",
    "TotalCorrelation",
    "__version__",
    "datasets",
    "decompose_kl",
    "distributions",
    "export",
    "fit",
    "hierarchy",
    "kl_divergence",
    "latents",
    "likelihoods",
    "losses",
    "metrics",
    "networks",
    "objectives",
    "plots",
    "pretrained",
    "priors",
    "recipes",
    "reconstruction",
    "report",
    "schedules",
    "total_correlation",
    "training",
    "vae",
]
