"""VAEs as scikit-learn estimators, for arrays and data frames.

Import it by name; it needs scikit-learn: ``from vaekit.sklearn import VAETransformer``.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaekit import _checks, likelihoods, losses, recipes
from vaekit.datasets.tables import Units, units
from vaekit.distributions import DiagonalGaussian
from vaekit.objectives import KL, Reconstruction
from vaekit.training import fit, fork_seed
from vaekit.training.randomness import random_states, set_random_states
from vaekit.vae import VAE, evaluating

try:
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        OutlierMixin,
        TransformerMixin,
    )
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    message = f"vaekit.sklearn needs scikit-learn: pip install scikit-learn ({error})."
    raise ImportError(message) from error

__all__ = ["VAEEstimator", "VAEOutlierDetector", "VAETransformer"]

_ROWS = 1024  # encoded at once
_FARTHEST = 1e6  # deviations from the mean: the square of more, and its products, overflow


# The constructor does what scikit-learn asks of one: it keeps what it is given.
@dataclass(eq=False, repr=False)
class VAEEstimator(BaseEstimator):  # type: ignore[misc]
    """What the estimators share: a model of the columns, to fit, to ask and to draw from.

    Its parameters are those of `VAETransformer`.
    """

    latent_dim: int = 2
    _: KW_ONLY
    hidden: Sequence[int] = (64,)
    likelihood: str = "gaussian"
    beta: float = 1.0
    build: Callable[[int], Any] | None = None
    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 1e-3
    samples: int = 32
    device: str | None = None
    random_state: Any = None
    verbose: bool = False

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit the model to data.

        Args:
            X: Numbers, of shape ``(rows, columns)``.
            y: Not used.

        Returns:
            The estimator.

        Raises:
            ValueError: If a parameter does not fit, or the data do not.
        """
        X = validate_data(self, X, dtype=(np.float64, np.float32))
        _checks.one_of("likelihood", self.likelihood, ("gaussian", "bernoulli"))
        beta = _checks.number("beta", self.beta, low=0)
        _checks.positive_int("latent_dim", self.latent_dim)
        _checks.positive_int("samples", self.samples)
        device = _checks.device("device", self.device or "cpu")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        mean, scale, varies = self._standard(X)
        rows = _tensor(X, mean, scale)
        with _seeded(device, fork_seed(seed, "initialisation")):
            model, objective = self._built(X.shape[1], beta)
            model.to(device, rows.dtype)
            history = fit(
                model,
                objective,
                rows,
                steps=self.steps,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                samples=_needed(objective, self.samples),
                seed=seed,
                progress=bool(self.verbose),
            )
        if history.stopped == "interrupted":
            raise KeyboardInterrupt  # which a search over many fits is to see
        self.model_, self.history_ = model, history
        self.mean_, self.scale_, self._varies = mean, scale, varies
        self._noise = _noise(self.samples, model.latent_dim, fork_seed(seed, "scores"))
        return self

    def score_samples(self, X: Any) -> npt.NDArray[Any]:
        r"""Estimate log p(x) of each row, in nats and in the units of the data.

        .. math:: \log \frac{1}{K} \sum_k \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)},
                  \qquad z_k = \mu(x) + \sigma(x)\, \epsilon_k

        The noise :math:`\epsilon_k` is the same for all rows and at every call, so that a row's
        score is its own, but for rounding. It is a lower bound on the log-density in expectation,
        tighter with more ``samples``: Burda et al., *Importance Weighted Autoencoders*, 2016,
        equation 8. A value that lies farther than a million deviations from its column's mean
        counts as one that far, so that arithmetic can hold what is made of it.

        Args:
            X: Of shape ``(rows, columns)``.

        Returns:
            An array ``(rows,)``.
        """
        X = self._read(X)
        found = [self._log_density(x) for x in self._batches(X)]
        scores: npt.NDArray[Any] = torch.cat(found).cpu().numpy().astype(X.dtype)
        scores -= np.log(self.scale_).sum().astype(X.dtype)
        return scores

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean of `score_samples`: the higher, the better."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> npt.NDArray[Any]:
        """Draw rows like those of the data: from the prior, and what the decoder says of them.

        Args:
            n_samples: How many.

        Returns:
            An array ``(n_samples, columns)``.
        """
        check_is_fitted(self)
        _checks.positive_int("n_samples", n_samples)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        device = next(self.model_.parameters()).device
        with _seeded(device, seed), torch.no_grad():
            z = self.model_.prior().sample((n_samples,))
            drawn = self.model_.decoder(z).sample().double().cpu().numpy()
        return self._turned_back(drawn)

    def _standard(self, X: npt.NDArray[Any]) -> Units:
        """Return what to take off each column, and to divide it by."""
        if self.likelihood != "gaussian":
            count = X.shape[1]
            return Units(np.zeros(count), np.ones(count), np.ones(count, bool))
        return units(X)

    def _turned_back(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return rows in the units of the data; columns that do not vary, at their value."""
        turned: npt.NDArray[Any] = rows * np.where(self._varies, self.scale_, 0) + self.mean_
        return turned

    def _built(self, columns: int, beta: float) -> recipes.Recipe:
        """Return the model, whose posterior is to be Gaussian, and the objective."""
        if self.build is None:
            likelihood: likelihoods.Likelihood = likelihoods.Gaussian(columns, learn_sigma=True)
            if self.likelihood == "bernoulli":
                likelihood = likelihoods.Bernoulli(columns)
            if not isinstance(self.hidden, Sequence) or isinstance(self.hidden, str):
                what = "a sequence of widths"
                raise TypeError(_checks.expected("hidden", what, repr(self.hidden)))
            nets = recipes.perceptrons(tuple(self.hidden))
            model, _ = recipes.vae(likelihood, self.latent_dim, nets=nets)
            return recipes.Recipe(model, Reconstruction() + beta * KL())
        if not callable(self.build):
            what = "a function from the number of columns to a VAE and an objective"
            raise TypeError(_checks.expected("build", what, repr(self.build)))
        made = self.build(columns)
        if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[0], VAE):
            what = "a function that returns a VAE and an objective"
            raise TypeError(_checks.expected("build", what, f"one that returns {made!r}"))
        with torch.no_grad(), evaluating(made[0]):
            parameter = next(made[0].parameters())
            of_columns = f"a function that returns a model of {columns} columns"
            try:
                posterior = made[0].encode(parameter.new_zeros(1, columns))
                if isinstance(posterior, DiagonalGaussian):
                    shape = made[0].decoder(posterior.mean).event_shape
            except (ValueError, TypeError, RuntimeError) as error:
                got = f"one that fails with them: {error}".rstrip(".")
                raise ValueError(_checks.expected("build", of_columns, got)) from error
            if not isinstance(posterior, DiagonalGaussian):
                what = "a function that returns a model with a Gaussian latent"
                raise TypeError(_checks.expected("build", what, repr(posterior)))
        _checks.require(shape == (columns,), "build", of_columns, f"one of shape {tuple(shape)}")
        return recipes.Recipe(*made)

    def _read(self, X: Any) -> npt.NDArray[Any]:
        check_is_fitted(self)
        read: npt.NDArray[Any] = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        return read

    def _batches(self, X: npt.NDArray[Any]) -> Iterator[Tensor]:
        parameter = next(self.model_.parameters())
        for rows in _tensor(X, self.mean_, self.scale_).split(_ROWS):
            yield rows.to(parameter)

    @torch.no_grad()
    def _log_density(self, x: Tensor) -> Tensor:
        x = x.clamp(-_FARTHEST, _FARTHEST)
        posterior, prior = self.model_.encode(x), self.model_.prior()
        mu, sigma = posterior.mean, posterior.stddev
        weights = []
        for noise in self._noise.to(mu).split(max(1, _ROWS * 32 // max(1, len(x)))):
            z = mu + sigma * noise[:, None]
            likelihood = self.model_.decoder(z)
            weights.append(losses.importance_log_weights(likelihood, posterior, prior, x, z))
        return losses.variational_bound(torch.cat(weights))


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, VAEEstimator):  # type: ignore[misc]
    r"""Dimensions reduced by a VAE, as a scikit-learn transformer.

    Columns are standardised for the Gaussian likelihood; what is decoded, drawn and scored is in
    the units of the data. A column that does not vary is decoded and drawn as it is. The
    model computes in the precision of the data.

    Args:
        latent_dim: The number of latent dimensions.
        hidden: The widths of the encoder's hidden layers; the decoder's are their mirror.
        likelihood: ``"gaussian"``, with one learned sigma for the standardised columns, or
            ``"bernoulli"``, for columns of zeros and ones.
        beta: The weight of the KL.
        build: A function from the number of columns to a model with a Gaussian latent and an
            objective, as `vaekit.recipes` returns them, in place of ``latent_dim``, ``hidden`` and
            ``beta``; ``likelihood`` then says no more than whether columns are standardised.
        steps: How many steps of Adam to take.
        batch_size: How many rows a step sees.
        learning_rate: Of Adam.
        samples: How many draws estimate a row's log-density.
        device: Where to compute; the processor if None.
        random_state: A number, a numpy ``RandomState``, or None for another result at each call.
        verbose: Whether to show a bar.

    Attributes:
        model\_: The `VAE`, of the standardised columns.
        history\_: Its `History <training.History>`.
        mean\_: What was taken off each column: its mean, or its value where it does not vary.
        scale\_: What each column was then divided by: 1 where it does not vary.

    Raises:
        TypeError: From ``fit``, if ``hidden`` is no sequence, or ``build`` makes something else.
        ValueError: From ``fit``, if a parameter or the data do not fit; from the others, if the
            columns are others than those fitted.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, _ = load_iris(return_X_y=True)
        >>> reduced = VAETransformer(2, steps=100, random_state=0).fit_transform(X)
        >>> reduced.shape
        (150, 2)
    """

    def transform(self, X: Any) -> npt.NDArray[Any]:
        """Return the posterior mean of each row, ``(rows, latent_dim)``."""
        X = self._read(X)
        with torch.no_grad():
            found = [self.model_.encode(x).mean for x in self._batches(X)]
        means: npt.NDArray[Any] = torch.cat(found).cpu().numpy().astype(X.dtype)
        return means

    def inverse_transform(self, X: Any) -> npt.NDArray[Any]:
        """Decode latent vectors ``(rows, latent_dim)`` to means ``(rows, columns)``."""
        check_is_fitted(self)
        z = np.asarray(X)
        if z.dtype.kind not in "biuf":
            raise TypeError(_checks.expected("X", "an array of real numbers", z.dtype))
        if z.ndim != 2 or z.shape[1] != self.model_.latent_dim:
            what = f"shape (rows, {self.model_.latent_dim})"
            raise ValueError(_checks.expected("X", what, z.shape))
        with torch.no_grad():
            latent = torch.tensor(z).to(next(self.model_.parameters()))
            decoded = self.model_.decode(latent).double().cpu().numpy()
        return self._turned_back(decoded)

    @property
    def _n_features_out(self) -> int:
        return self.model_.latent_dim

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


@dataclass(eq=False, repr=False)
class VAEOutlierDetector(OutlierMixin, VAEEstimator):  # type: ignore[misc]
    r"""Rows that the model of the others finds unlikely, as a scikit-learn outlier detector.

    Args:
        latent_dim: As for `VAETransformer`, like all that follow but the last.
        hidden: The widths of the encoder's hidden layers.
        likelihood: ``"gaussian"`` or ``"bernoulli"``.
        beta: The weight of the KL.
        build: A function from the number of columns to a model and an objective.
        steps: How many steps of Adam to take.
        batch_size: How many rows a step sees.
        learning_rate: Of Adam.
        samples: How many draws estimate a row's log-density.
        device: Where to compute.
        random_state: A number, a numpy ``RandomState``, or None.
        verbose: Whether to show a bar.
        contamination: The share of the training rows that are taken for outliers, above 0 and at
            most 0.5.

    Attributes:
        model\_: The `VAE`, of the standardised columns.
        history\_: Its `History <training.History>`.
        offset\_: The log-density, in nats, under which a row is an outlier.

    Raises:
        TypeError: As `VAETransformer`.
        ValueError: As `VAETransformer`; from ``fit``, if ``contamination`` is not in (0, 0.5].

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(200, 3))
        >>> detector = VAEOutlierDetector(1, steps=100, random_state=0).fit(rows)
        >>> detector.predict(np.array([[0.1, -0.2, 0.3], [9.0, -9.0, 9.0]]))
        array([ 1, -1])
    """

    contamination: float = 0.1

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit the model, and the threshold; see `VAEEstimator.fit`."""
        share = _checks.number("contamination", self.contamination, above=0)
        _checks.require(share <= 0.5, "contamination", "a number in (0, 0.5]", share)
        super().fit(X)
        self.offset_ = float(np.percentile(self.score_samples(X), 100 * share))
        return self

    def decision_function(self, X: Any) -> npt.NDArray[Any]:
        """Return how many nats each row's log-density lies above the threshold."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Return 1 for each row that belongs, and -1 for each outlier."""
        return np.where(self.decision_function(X) < 0, -1, 1)


def _tensor(X: npt.NDArray[Any], mean: npt.NDArray[Any], scale: npt.NDArray[Any]) -> Tensor:
    """Return the standardised rows, in the precision of the data."""
    return torch.from_numpy(((X - mean) / scale).astype(X.dtype))


def _needed(objective: Any, samples: int) -> int | None:
    """Return the draws that an objective takes in training, None where it takes one."""
    return samples if any(term.needs_draws for term in getattr(objective, "terms", ())) else None


def _noise(samples: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, dim, generator=generator, dtype=torch.float64)


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed all global generators, and leave them as they were."""
    states = random_states(device)
    try:
        torch.manual_seed(seed)
        yield
    finally:
        set_random_states(device, states)
