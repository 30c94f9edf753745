"""Measures of models, of codes and of what is generated, with their standard errors.

They are plain functions, of a model and data or of tensors, and return plain named records.
Likelihoods are in nats.
"""

from vaekit.metrics import disentanglement, generation, latents, likelihood, representation
from vaekit.metrics.disentanglement import (
    beta_vae_score,
    dci,
    explicitness,
    factor_vae_score,
    irs,
    mig,
    modularity,
    sap,
)
from vaekit.metrics.generation import (
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from vaekit.metrics.latents import active_units, kl_by_dimension
from vaekit.metrics.likelihood import (
    annealed_importance_sampling,
    bidirectional_monte_carlo,
    elbo,
    negative_log_likelihood,
    rate_distortion,
)
from vaekit.metrics.means import Mean
from vaekit.metrics.representation import (
    linear_probe,
    nearest_neighbours,
    neighbourhood_preservation,
    silhouette,
)

__all__ = [
    "Mean",
    "active_units",
    "annealed_importance_sampling",
    "beta_vae_score",
    "bidirectional_monte_carlo",
    "dci",
    "density_coverage",
    "disentanglement",
    "elbo",
    "explicitness",
    "factor_vae_score",
    "frechet_distance",
    "generation",
    "irs",
    "kernel_distance",
    "kl_by_dimension",
    "latents",
    "likelihood",
    "linear_probe",
    "mig",
    "modularity",
    "nearest_neighbours",
    "negative_log_likelihood",
    "neighbourhood_preservation",
    "precision_recall",
    "rate_distortion",
    "representation",
    "sap",
    "silhouette",
]
