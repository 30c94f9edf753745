"""The distributions that vaekit needs and `torch.distributions` lacks.

All are ordinary `torch.distributions.Distribution` objects, and their closed-form divergences are
registered with torch's own ``register_kl``, so `torch.distributions.kl_divergence` knows them too.
"""

from vaekit.distributions.bernoulli import IndependentBernoulli
from vaekit.distributions.events import log_prob_by_dimension
from vaekit.distributions.gaussians import DiagonalGaussian, StandardGaussian

__all__ = ["DiagonalGaussian", "IndependentBernoulli", "StandardGaussian", "log_prob_by_dimension"]
