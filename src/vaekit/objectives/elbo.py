"""The evidence lower bound's terms, and its KL in parts."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution

from vaekit import _checks, losses
from vaekit.distributions import detached
from vaekit.losses.elbo import check_estimator, over_draws
from vaekit.objectives.base import Term, Weight, _at
from vaekit.vae import VAEOutput

__all__ = ["KL", "DecomposedKL", "Reconstruction", "TotalCorrelation"]


class Reconstruction(Term):
    r"""`vaekit.losses.reconstruction` as a term, the mean over draws where there are several.

    .. math:: -\log p(x \mid z)

    Unbiased, over the draws, for its expectation under the posterior.

    Args:
        name: What the term is called.

    Shape:
        ``x: (B, *event)``; returns ``(B,)``. In nats.

    Raises:
        ValueError: When called, if ``x`` has another shape than the likelihood's data, or values
            outside its support.

    Example:
        >>> 2 * Reconstruction()
        2 * Reconstruction()

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, equation 7, the second
        term.
    """

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the negative log-likelihood of each element, ``(B,)``."""
        return over_draws(losses.reconstruction(out.likelihood, x))


class KL(Term):
    r"""`vaekit.losses.kl_divergence` of posterior from prior, as a term.

    .. math:: \operatorname{KL}(q(z \mid x) \,\|\, p(z))

    Args:
        method: ``"analytic"``, ``"monte_carlo"``, or None for the analytic one where there is one.
            Either is unbiased; the second may fall below 0.
        name: What the term is called.

    Shape:
        Returns ``(B,)``. In nats.

    Raises:
        NotImplementedError: When called, if the analytic form is asked for and there is none.
        ValueError: If the method is unknown.

    Example:
        >>> Reconstruction() + 4 * KL()
        Reconstruction() + 4 * KL()

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, equation 7, the first
        term, and appendix B.
    """

    _usual: ClassVar[dict[str, object]] = {"method": None}

    def __init__(self, method: losses.KLMethod | None = None, name: str = "kl") -> None:
        super().__init__(name)
        if method is not None:
            _checks.one_of("method", method, ("analytic", "monte_carlo"))
        self.method = method

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the divergence of each element, ``(B,)``."""
        return losses.kl_divergence(out.posterior, out.prior, z=out.z, method=self.method)


class _Aggregate(Term):
    """What the terms share that need an estimate of the aggregated posterior q(z)."""

    statistic = True
    _usual: ClassVar[dict[str, object]] = {"estimator": "stratified", "dataset_size": None}

    def __init__(
        self,
        estimator: losses.Estimator = "stratified",
        dataset_size: int | None = None,
        dataset_posterior: Distribution | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        check_estimator(estimator, dataset_posterior)
        if dataset_size is not None:
            _checks.positive_int("dataset_size", dataset_size)
        self.estimator = estimator
        self.compares = estimator == "stratified"
        self.dataset_size = dataset_size
        self.run_size: int | None = None  # what stands in for it while data are gone through
        self.dataset_posterior = dataset_posterior and detached(dataset_posterior)

    def _aggregate(self) -> dict[str, Any]:
        return {
            "estimator": self.estimator,
            "dataset_size": self.run_size if self.dataset_size is None else self.dataset_size,
            "dataset_posterior": self.dataset_posterior,
        }


class TotalCorrelation(_Aggregate):
    r"""`vaekit.losses.total_correlation` as a term; a statistic of the batch.

    .. math:: \operatorname{KL}\Big( q(z) \,\Big\|\, \prod_j q(z_j) \Big)

    Args:
        estimator: ``"stratified"``, ``"weighted"`` or ``"exact"``.
        dataset_size: The number of elements of the data set; if None, that of the data which
            `vaekit.fit` or `vaekit.training.evaluate` goes through.
        dataset_posterior: The posterior of the whole data set, for ``"exact"`` alone; a snapshot,
            without gradients, so for measuring rather than for training.
        name: What the term is called.

    Shape:
        Returns a scalar. In nats.

    Raises:
        ValueError: If an option does not fit, or the estimator lacks what it needs.

    Example:
        >>> Reconstruction() + KL() + 5 * TotalCorrelation(dataset_size=60_000)
        Reconstruction() + KL() + 5 * TotalCorrelation(dataset_size=60000)

    References:
        R. T. Q. Chen et al., *Isolating Sources of Disentanglement in Variational Autoencoders*,
        2018, equation 2 and appendix C. What bias each estimator has, `losses.total_correlation`
        says.
    """

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the total correlation, a scalar."""
        return losses.total_correlation(out.posterior, out.z, **self._aggregate())


class DecomposedKL(_Aggregate):
    r"""The KL in its three parts, each with a weight: the beta-TCVAE's regulariser.

    .. math:: \alpha\, I_q(x; z) + \beta \operatorname{TC} + \gamma \sum_j
              \operatorname{KL}(q(z_j) \| p(z_j))

    Args:
        mutual_information: :math:`\alpha`, a number or a function of the step.
        total_correlation: :math:`\beta`, likewise.
        dimension_wise_kl: :math:`\gamma`, likewise.
        estimator: ``"stratified"``, ``"weighted"`` or ``"exact"``.
        dataset_size: The number of elements of the data set; if None, that of the data which
            `vaekit.fit` or `vaekit.training.evaluate` goes through.
        dataset_posterior: The posterior of the whole data set, for ``"exact"`` alone; a snapshot,
            without gradients, so for measuring rather than for training.

    Shape:
        Three scalars by name. In nats. With weights of 1 they add up to the KL, estimated by the
        draws, unbiased.

    Raises:
        ValueError: As for `TotalCorrelation`, and if a weight is negative.

    Example:
        >>> Reconstruction() + DecomposedKL(total_correlation=6)
        Reconstruction() + DecomposedKL(total_correlation=6)

    References:
        R. T. Q. Chen et al., *Isolating Sources of Disentanglement in Variational Autoencoders*,
        2018, equation 4.
    """

    _usual = dict.fromkeys(losses.KLParts._fields, 1) | _Aggregate._usual

    def __init__(
        self,
        mutual_information: Weight = 1.0,
        total_correlation: Weight = 1.0,
        dimension_wise_kl: Weight = 1.0,
        *,
        estimator: losses.Estimator = "stratified",
        dataset_size: int | None = None,
        dataset_posterior: Distribution | None = None,
    ) -> None:
        super().__init__(estimator, dataset_size, dataset_posterior, "kl")
        weights = (mutual_information, total_correlation, dimension_wise_kl)
        for name, weight in zip(self.names, weights, strict=True):
            if not callable(weight):
                _checks.number(name, weight, low=0)
            setattr(self, name, weight)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the three parts."""
        return losses.KLParts._fields

    def weights(self, step: int) -> dict[str, float]:
        """Return the weights of the three parts at a step."""
        return {name: _at(getattr(self, name), step, self) for name in self.names}

    def schedules(self) -> dict[str, Weight]:
        """Return the three weights, by their names."""
        return {name: getattr(self, name) for name in self.names}

    def values(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> dict[str, Tensor]:
        """Return the three parts, scalars in nats, without weights."""
        parts = losses.decompose_kl(out.posterior, out.prior, out.z, **self._aggregate())
        return parts._asdict()

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the sum of the three, which is the Monte Carlo estimate of the KL, a scalar."""
        return torch.stack(list(self.values(out, x).values())).sum()
