"""Relaxed variables by their logits, of which rounding takes nothing away."""

from torch import Tensor
from torch.distributions import Distribution

from vaekit.distributions.discrete import RelaxedBernoulli, RelaxedCategorical
from vaekit.distributions.joint import Joint
from vaekit.distributions.mixtures import Mixture

__all__ = ["by_logits", "unrounded"]

_RELAXED = RelaxedBernoulli | RelaxedCategorical


def by_logits(first: Distribution, *others: Distribution) -> list[Distribution]:
    """Return distributions of the logits in place of relaxed variables, where all have the same.

    What is a mean of differences of their log-densities, as divergences and information are, is
    the same for both. Others are returned as they came.

    Args:
        first: The distribution that is drawn from.
        others: Those whose densities are compared with its own.

    Example:
        >>> q = vk.distributions.RelaxedBernoulli(torch.tensor([8.0]))
        >>> q.sample((1000,)).max(), by_logits(q)[0].sample((1000,)).max() > 17
        (tensor(1.), tensor(True))
    """
    relaxed = _relaxed(first) if isinstance(first, _RELAXED | Joint) else []
    if not any(relaxed) or any(_relaxed(other) != relaxed for other in others):
        return [first, *others]
    return [_moved(each) for each in (first, *others)]


def unrounded(
    z: Tensor, posterior: Distribution, *others: Distribution
) -> tuple[Tensor, list[Distribution]]:
    """Return the logits of a posterior's latest draw, and the distributions of these.

    A relaxed draw that lies near 1 has lost in rounding how near, and so has a density that is
    wrong, and not by chance. Its logit has not. Of any other ``z`` all is returned as it came.

    Args:
        z: What the densities are to be taken at.
        posterior: The distribution it was drawn from, by ``rsample``.
        others: Those whose densities are compared with its own.

    Example:
        >>> q = vk.distributions.RelaxedBernoulli(torch.zeros(3))
        >>> z = q.rsample()
        >>> logits, (posterior,) = unrounded(z, q)
        >>> torch.equal(logits.sigmoid(), z), unrounded(z.clone(), q)[1][0] is q
        (True, True)
    """
    moved = by_logits(posterior, *others)
    if moved[0] is not posterior:
        logits = _latest(posterior, z)
        if logits is not None:
            return logits, moved
    return z, [posterior, *others]


def _relaxed(distribution: Distribution) -> list[int]:
    """Tell of each dimension how many classes the relaxed variable has; 0 if there is none."""
    size = distribution.event_shape.numel()
    if isinstance(distribution, RelaxedBernoulli) and not distribution.hard:
        return [1] * size
    if isinstance(distribution, RelaxedCategorical) and not distribution.hard:
        return [distribution.logits.shape[-1]] * size
    if isinstance(distribution, Mixture):
        return _relaxed(distribution.component_distribution)
    if isinstance(distribution, Joint):
        return distribution._in_place([_relaxed(part) for part in distribution.parts])
    return [0] * size


def _moved(distribution: Distribution) -> Distribution:
    if isinstance(distribution, _RELAXED) and not distribution.hard:
        return distribution._of_logits()
    if isinstance(distribution, Mixture):
        components = _moved(distribution.component_distribution)
        return Mixture(distribution.mixture_distribution.logits, components)
    if isinstance(distribution, Joint):
        return Joint([_moved(part) for part in distribution.parts], distribution.columns)
    return distribution


def _latest(distribution: Distribution, z: Tensor) -> Tensor | None:
    """Return the logits of the latest draw, and what has none as it is; None of another z."""
    if not any(_relaxed(distribution)):
        return z
    drawn = getattr(distribution, "_drawn", None)
    if drawn is None or z is not drawn.value:
        return None
    if not isinstance(distribution, Joint):
        logits: Tensor = drawn.made_of[0]
        return logits
    pairs = zip(distribution.parts, drawn.made_of, strict=True)
    pieces = [_latest(part, piece) for part, piece in pairs]
    found = [piece for piece in pieces if piece is not None]
    return distribution._joined(found) if len(found) == len(pieces) else None
