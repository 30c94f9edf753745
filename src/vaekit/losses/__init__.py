r"""Loss functions: pure functions of tensors and distributions.

All are in **nats**, to be minimised, and summed over the dimensions of an event. Those of a single
element return one value for each element of the batch; statistics of a batch are scalars, and say
so. The mean over the batch is taken once, by the objective.
"""

from vaekit.losses.elbo import (
    Estimator,
    KLMethod,
    KLParts,
    decompose_kl,
    kl_divergence,
    kl_method,
    reconstruction,
    total_correlation,
)
from vaekit.losses.importance import (
    Gradient,
    importance_log_weights,
    importance_weighted,
    variational_bound,
)
from vaekit.losses.matching import (
    RBF,
    InverseMultiquadric,
    Kernel,
    discrimination,
    mmd,
    permute_dimensions,
)
from vaekit.losses.penalties import commitment, dip, gradient_penalty, latent_l2
from vaekit.losses.rates import (
    balanced_kl,
    capacity,
    free_bits,
    kl_by_dimension,
    kl_by_group,
)

__all__ = [
    "RBF",
    "Estimator",
    "Gradient",
    "InverseMultiquadric",
    "KLMethod",
    "KLParts",
    "Kernel",
    "balanced_kl",
    "capacity",
    "commitment",
    "decompose_kl",
    "dip",
    "discrimination",
    "free_bits",
    "gradient_penalty",
    "importance_log_weights",
    "importance_weighted",
    "kl_by_dimension",
    "kl_by_group",
    "kl_divergence",
    "kl_method",
    "latent_l2",
    "mmd",
    "permute_dimensions",
    "reconstruction",
    "total_correlation",
    "variational_bound",
]
