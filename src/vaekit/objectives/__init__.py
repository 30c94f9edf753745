"""Objectives: terms, and sums of terms, over what one forward pass inferred.

``Reconstruction() + 4 * KL()`` is an objective. A term is a module; one that has parameters of its
own holds them apart from the model's.
"""

from vaekit.objectives.base import Loss, Objective, Term
from vaekit.objectives.elbo import KL, DecomposedKL, Reconstruction, TotalCorrelation
from vaekit.objectives.importance import ImportanceWeighted
from vaekit.objectives.matching import MMD, AdversarialPrior, AdversarialTotalCorrelation
from vaekit.objectives.penalties import DIP, Commitment, GradientPenalty, LatentL2
from vaekit.objectives.rates import BalancedKL, Capacity, FreeBits

__all__ = [
    "DIP",
    "KL",
    "MMD",
    "AdversarialPrior",
    "AdversarialTotalCorrelation",
    "BalancedKL",
    "Capacity",
    "Commitment",
    "DecomposedKL",
    "FreeBits",
    "GradientPenalty",
    "ImportanceWeighted",
    "LatentL2",
    "Loss",
    "Objective",
    "Reconstruction",
    "Term",
    "TotalCorrelation",
]
