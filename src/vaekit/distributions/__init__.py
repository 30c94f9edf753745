"""The distributions that vaekit needs and `torch.distributions` lacks.

All are ordinary `torch.distributions.Distribution` objects, and their closed-form divergences are
registered with torch's own ``register_kl``, so `torch.distributions.kl_divergence` knows them too.
"""

from vaekit.distributions.bernoulli import IndependentBernoulli
from vaekit.distributions.chains import Chain
from vaekit.distributions.delta import PointMass
from vaekit.distributions.detach import detached
from vaekit.distributions.discrete import RelaxedBernoulli, RelaxedCategorical
from vaekit.distributions.events import log_prob_by_dimension
from vaekit.distributions.flows import FlowDistribution, import_zuko
from vaekit.distributions.gaussians import DiagonalGaussian, StandardGaussian
from vaekit.distributions.joint import Joint
from vaekit.distributions.mixtures import Mixture
from vaekit.distributions.spherical import PowerSpherical, UniformSphere

__all__ = [
    "Chain",
    "DiagonalGaussian",
    "FlowDistribution",
    "IndependentBernoulli",
    "Joint",
    "Mixture",
    "PointMass",
    "PowerSpherical",
    "RelaxedBernoulli",
    "RelaxedCategorical",
    "StandardGaussian",
    "UniformSphere",
    "detached",
    "import_zuko",
    "log_prob_by_dimension",
]
