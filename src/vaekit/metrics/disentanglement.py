r"""How far the dimensions of a code are the factors that the data were made from.

These scores are on ``codes`` and ``factors``, one row for each element: labelled data, and nothing
more. Those of FactorVAE and BetaVAE need data made to order: `vaekit.metrics.interventions`.

The forms are those of the study by F. Locatello and others, *Challenging Common Assumptions in the
Unsupervised Learning of Disentangled Representations*, 2019, whose numbers most papers compare
with; they are defined on the posterior's mean, 10,000 elements to train on and 5,000 to test on.
Classifiers are scikit-learn's (``pip install "vaekit[plots]"``), and the scores that they make move
with its version: state it. Logistic regressions are multinomial, as that library has it now; it was
one against the rest when the study was made. A factor of one value tells nothing, and is refused.

Not every score is 0 for codes that know nothing: those of `modularity` and `irs` may be high, and
`explicitness` has 1/2 there. What a score is by chance, the codes in another order tell:
``score(codes[torch.randperm(len(codes))], factors)``.

Standard errors are those over the elements: how far the score of another sample of as many would
lie from this one, the model, its trained classifiers, the bins, and which codes come first being
given. They say nothing of another training of the model, which as a rule moves these scores much
further: for that, train it under several seeds, and take the spread of the scores. Where a score
has none, its record says why.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vaekit import _checks
from vaekit.metrics.inputs import Array, Values, as_points, as_whole_numbers
from vaekit.metrics.means import described, mean_of, share_below
from vaekit.metrics.representation import scikit_learn, split

__all__ = [
    "DCI",
    "IRS",
    "MIG",
    "SAP",
    "Explicitness",
    "Modularity",
    "dci",
    "explicitness",
    "irs",
    "mig",
    "modularity",
    "sap",
]

_CONSTANT = 1e-12  # a variance, or an information in nats, below this is rounding


class MIG(NamedTuple):
    """The mutual information gap.

    Attributes:
        score: The mean over the factors, in [0, 1].
        by_factor: The gap of each factor, ``(factors,)``.
        mutual_information: Of each code with each factor, ``(dim, factors)``, in nats.
        entropy: Of each factor, ``(factors,)``, in nats.
        standard_error: Of the score over the elements, by the delta method: to first order, and so
            too small where no code tells anything.
    """

    score: float
    by_factor: Tensor
    mutual_information: Tensor
    entropy: Tensor
    standard_error: float = math.nan

    def __repr__(self) -> str:
        return described(self)


class SAP(NamedTuple):
    """The separated attribute predictability.

    Attributes:
        score: The mean over the factors, in [0, 1].
        by_factor: The gap of each factor, ``(factors,)``.
        predictability: How well each code alone tells each factor, ``(dim, factors)``: test
            accuracies, or squared correlations.
        classifier: Which classifier of scikit-learn's it was; None for squared correlations.
        standard_error: Of the score over the test elements, each of which the two best codes are
            held to alike; for squared correlations over all, by the delta method.
    """

    score: float
    by_factor: Tensor
    predictability: Tensor
    classifier: str | None
    standard_error: float = math.nan

    def __repr__(self) -> str:
        return described(self)


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness.

    The first two have no standard error: they are of what the fitted trees split by, which is no
    mean over elements, and copies of an element in a bootstrap would be split by as well. Their
    spread over separate samples, `encode_factors` under several seeds, estimates it.

    Attributes:
        disentanglement: Whether a code matters to one factor only, in [0, 1].
        completeness: Whether one code only matters to a factor, in [0, 1].
        informativeness: How well the codes tell the factors: the mean over the factors of the
            classifier's score on the test part.
        importance: Of each code for each factor, ``(dim, factors)``.
        by_factor: The classifier's score on the test part for each factor, ``(factors,)``.
        classifier: Which classifier it was.
        informativeness_error: The standard error of the informativeness over the test elements;
            NaN where a regressor stands for the classifier.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Tensor
    by_factor: Tensor
    classifier: str
    informativeness_error: float = math.nan

    def __repr__(self) -> str:
        return described(self)


class Modularity(NamedTuple):
    """The modularity.

    Attributes:
        score: The mean over the codes, in [0, 1].
        by_code: Of each code, ``(dim,)``; 0 for one that tells of no factor.
        mutual_information: Of each code with each factor, ``(dim, factors)``, in nats.
        standard_error: Of the score over the elements, by the delta method: to first order, and so
            not to be relied on where some code tells hardly more of any factor than noise does.
    """

    score: float
    by_code: Tensor
    mutual_information: Tensor
    standard_error: float = math.nan

    def __repr__(self) -> str:
        return described(self)


class Explicitness(NamedTuple):
    """The explicitness.

    Attributes:
        score: The mean over the factors of ``by_factor``; 1/2 is chance.
        by_factor: The mean area under the ROC curve of each factor's values, ``(factors,)``.
        classifier: Which classifier of scikit-learn's it was.
        standard_error: Of the score over the test elements, as E. DeLong and others, *Comparing the
            Areas under Two or More Correlated Receiver Operating Characteristic Curves*, 1988,
            estimate it.
    """

    score: float
    by_factor: Tensor
    classifier: str
    standard_error: float = math.nan

    def __repr__(self) -> str:
        return described(self)


class IRS(NamedTuple):
    """The interventional robustness score.

    It has no standard error: greatest deviations are extremes of the sample, for which neither the
    delta method nor jackknife or bootstrap is valid, and they grow with its size. The spread over
    separate samples, `encode_factors` under several seeds, estimates it.

    Attributes:
        score: The mean over the codes, weighted by ``deviation``; at most 1.
        by_code: The robustness of each code, ``(dim,)``; 0 for a constant one.
        robustness: Of each code to changes of all factors but one, ``(dim, factors)``.
        deviation: How far each code gets from its mean at most, ``(dim,)``.
    """

    score: float
    by_code: Tensor
    robustness: Tensor
    deviation: Tensor

    def __repr__(self) -> str:
        return described(self)


def mig(
    codes: Float[Values, "n dim"], factors: Shaped[Values, "n factors"], *, bins: int = 20
) -> MIG:
    r"""Measure whether one code tells more of a factor than any other: the mutual information gap.

    .. math:: \frac{1}{F} \sum_f \frac{1}{H(v_f)}
              \Bigl(I(z_{j(f)}; v_f) - \max_{j \neq j(f)} I(z_j; v_f)\Bigr), \qquad
              j(f) = \operatorname{arg\,max}_j I(z_j; v_f)

    Each code is cut into bins of equal width from its least to its greatest value, and entropies
    and information are those of the counts. So counted, information is too high, by about
    (bins - 1)(values - 1) / 2N nats for a code that tells nothing; much of that cancels in the gap.
    A constant code tells nothing.

    Args:
        codes: The codes, posterior means by custom.
        factors: A whole number for each element and factor.
        bins: How many bins each code is cut into.

    Shape:
        ``codes: (N, dim)``, ``factors: (N, factors)``.

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If there are NaN or infinite values, fewer than two codes, or a factor of one
            value.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(5))
        >>> round(mig(factors.float(), factors).score, 6)
        1.0
        >>> factors = torch.cartesian_prod(torch.arange(2), torch.arange(2))
        >>> rotated = factors.float() @ torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> round(mig(rotated, factors).score, 6)
        0.0

    References:
        R. T. Q. Chen, X. Li, R. Grosse and D. Duvenaud, *Isolating Sources of Disentanglement in
        Variational Autoencoders*, 2018, section 4.
    """
    points, values = _checked(codes, factors, least_codes=2)
    binned = _binned(points, bins)
    information = _mutual_information(binned, values)
    mutual_info_score = scikit_learn("metrics").mutual_info_score
    entropy = torch.tensor([mutual_info_score(v, v) for v in values.T], dtype=torch.double)
    by_factor = _gap(information) / entropy
    scale = 1 / (len(entropy) * entropy)
    terms = _weighted(binned, values, _first_less_second(information) * scale)
    terms -= _weighted(values, values, (by_factor * scale).diag())
    return MIG(float(by_factor.mean()), by_factor, information, entropy, _error(terms))


def sap(
    codes: Float[Values, "n dim"],
    factors: Shaped[Values, "n factors"],
    *,
    continuous: bool = False,
    held_out: float = 1 / 3,
    seed: int = 0,
) -> SAP:
    r"""Measure whether one code predicts a factor better than any other.

    .. math:: \frac{1}{F} \sum_f \Bigl(S_{j(f) f} - \max_{j \neq j(f)} S_{j f}\Bigr), \qquad
              j(f) = \operatorname{arg\,max}_j S_{j f}

    with :math:`S_{j f}` the accuracy, on a test part, of a linear support vector machine that sees
    code j alone (scikit-learn's ``LinearSVC``, ``C=0.01``, balanced classes); or, for continuous
    factors, the squared correlation over all elements, 0 for a constant code. The machine depends
    on the scale of the codes, and a factor of many values is beyond it, as a line divides a single
    code but once for each value.

    Args:
        codes: The codes, posterior means by custom.
        factors: A whole number for each element and factor.
        continuous: Whether the factors' numbers are quantities.
        held_out: The share of the elements to test on.
        seed: Of their choice.

    Shape:
        ``codes: (N, dim)``, ``factors: (N, factors)``.

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If there are NaN or infinite values, fewer than two codes, too few elements, or
            a factor of one value.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(5))
        >>> round(sap(factors.float(), factors, continuous=True).score, 6)
        1.0

    References:
        A. Kumar, P. Sattigeri and A. Balakrishnan, *Variational Inference of Disentangled Latent
        Concepts from Unlabeled Observations*, 2018, section 3.
    """
    points, values = _checked(codes, factors, least_codes=2)
    if continuous:
        name, table, right = None, _squared_correlation(points, values), None
    else:
        train, test = _split(values, held_out, seed)
        machine = scikit_learn("svm").LinearSVC(
            C=0.01, class_weight="balanced", max_iter=10_000, random_state=seed
        )
        points = np.where(points[train].var(0) < _CONSTANT, 0.0, points)  # all constants alike
        right = np.array(
            [
                [
                    machine.fit(z[train, None], v[train]).predict(z[test, None]) == v[test]
                    for v in values.T
                ]
                for z in points.T
            ]
        )
        name, table = repr(machine), right.mean(2)
    predictability = torch.from_numpy(table)
    by_factor = _gap(predictability)
    weights = (_first_less_second(predictability) / len(by_factor)).numpy()
    if right is None:
        terms = _correlation_terms(points, values, 2 * weights)
    else:
        terms = np.einsum("jf,jfn->n", weights, right)
    return SAP(float(by_factor.mean()), by_factor, predictability, name, _error(terms))


def dci(
    codes: Float[Values, "n dim"],
    factors: Shaped[Values, "n factors"],
    *,
    classifier: Any = None,
    held_out: float = 1 / 3,
    seed: int = 0,
) -> DCI:
    r"""Measure disentanglement, completeness and informativeness.

    A classifier for each factor says how much each code matters to it, :math:`R_{jf} \geq 0`. With
    :math:`p_{jf}` the share of :math:`R_{jf}` in its row, and :math:`c_{jf}` that in its column,

    .. math:: D = \sum_j \rho_j \Bigl(1 + \sum_f p_{jf} \log_F p_{jf}\Bigr), \qquad
              C = \sum_f \rho_f \Bigl(1 + \sum_j c_{jf} \log_J c_{jf}\Bigr),

    :math:`\rho` being the share of the row or of the column in the whole; 0 where nothing matters.
    By default the classifier is scikit-learn's ``GradientBoostingClassifier``, as it stands, which
    takes minutes for 10,000 elements and factors of many values. Other classifiers give other
    numbers: state which.

    Args:
        codes: The codes, posterior means by custom.
        factors: A whole number for each element and factor.
        classifier: A classifier or regressor in scikit-learn's manner, with
            ``feature_importances_`` or ``coef_`` (whose absolute values are meant then, their mean
            over the classes if there are several) once it is fitted. It is copied for each factor.
        held_out: The share of the elements to test on.
        seed: Of their choice, and of the default classifier.

    Shape:
        ``codes: (N, dim)``, ``factors: (N, factors)``.

    Raises:
        ImportError: If scikit-learn is missing.
        TypeError: If the classifier does not say how much each code matters.
        ValueError: If there are NaN or infinite values, fewer than two codes or factors, too few
            elements, or a factor of one value.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(2), torch.arange(3)).repeat(20, 1)
        >>> found = dci(factors.float(), factors)
        >>> round(found.disentanglement, 6), round(found.completeness, 6), found.informativeness
        (1.0, 1.0, 1.0)

    References:
        C. Eastwood and C. K. I. Williams, *A Framework for the Quantitative Evaluation of
        Disentangled Representations*, 2018, section 2.
    """
    points, values = _checked(codes, factors, least_codes=2, least_factors=2)
    train, test = _split(values, held_out, seed)
    if classifier is None:
        classifier = scikit_learn("ensemble").GradientBoostingClassifier(random_state=seed)
    base = scikit_learn("base")
    importances, scores, right = [], [], []
    for value in values.T:
        fitted = base.clone(classifier).fit(points[train], value[train])
        importances.append(_importance(fitted, points.shape[1]))
        scores.append(float(fitted.score(points[test], value[test])))
        if base.is_classifier(fitted):
            right.append(fitted.predict(points[test]) == value[test])
    importance = torch.from_numpy(np.stack(importances, 1))
    by_factor = torch.tensor(scores, dtype=torch.double)
    return DCI(
        _concentration(importance),
        _concentration(importance.T),
        float(by_factor.mean()),
        importance,
        by_factor,
        repr(classifier),
        _error(np.mean(right, 0)) if right else math.nan,
    )


def modularity(
    codes: Float[Values, "n dim"], factors: Shaped[Values, "n factors"], *, bins: int = 20
) -> Modularity:
    r"""Measure whether a code tells of one factor only.

    .. math:: \frac{1}{J} \sum_j \Bigl(1 - \frac{\sum_{f \neq f(j)} I(z_j; v_f)^2}
              {(F - 1)\, I(z_j; v_{f(j)})^2}\Bigr), \qquad
              f(j) = \operatorname{arg\,max}_f I(z_j; v_f)

    with information counted as for `mig`. A code that tells of no factor counts as 0; but counted
    information is never quite 0, and grows with the number of a factor's values, so that codes of
    noise seem to tell of the factor with the most, and score high: see how the same codes do in
    another order.

    Args:
        codes: As for `mig`.
        factors: As for `mig`.
        bins: As for `mig`.

    Shape:
        ``codes: (N, dim)``, ``factors: (N, factors)``.

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If there are NaN or infinite values, fewer than two factors, or a factor of one
            value.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(5))
        >>> round(modularity(factors.float(), factors).score, 6)
        1.0

    References:
        K. Ridgeway and M. C. Mozer, *Learning Deep Disentangled Embeddings With the F-Statistic
        Loss*, 2018, section 3.
    """
    points, values = _checked(codes, factors, least_factors=2)
    binned = _binned(points, bins)
    information = _mutual_information(binned, values)
    squares = information.square()
    most, which = squares.max(1)
    others = (squares.sum(1) - most) / (squares.shape[1] - 1)
    by_code = torch.where(most > 0, 1 - others / most, 0.0)
    # How the score answers to each information, its greatest apart
    slopes = -2 * information / (squares.shape[1] - 1)
    slopes.scatter_(1, which[:, None], (2 * others / most.sqrt())[:, None])
    slopes = torch.where(most > 0, (slopes.T / most), 0.0).T / len(most)
    error = _error(_weighted(binned, values, slopes))
    return Modularity(float(by_code.mean()), by_code, information, error)


def explicitness(
    codes: Float[Values, "n dim"],
    factors: Shaped[Values, "n factors"],
    *,
    held_out: float = 1 / 3,
    seed: int = 0,
) -> Explicitness:
    r"""Measure how well a simple classifier of all the codes tells the factors.

    For each factor, multinomial logistic regression (scikit-learn's ``LogisticRegression``, its L2
    penalty ``C=1``) on codes that are standardised by the training part; for each value of the
    factor, the area under the ROC curve of its probability on the test part, that value against
    all others; and the mean over values and factors. Values that all the test part has, or that it
    or the training part lacks, have no such curve and are left out.

    Args:
        codes: The codes, posterior means by custom.
        factors: A whole number for each element and factor.
        held_out: The share of the elements to test on.
        seed: Of their choice.

    Shape:
        ``codes: (N, dim)``, ``factors: (N, factors)``.

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If there are NaN or infinite values, too few elements, or a factor of one value.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(2), torch.arange(3)).repeat(20, 1)
        >>> explicitness(factors.float(), factors).score
        1.0

    References:
        K. Ridgeway and M. C. Mozer, *Learning Deep Disentangled Embeddings With the F-Statistic
        Loss*, 2018, section 3.
    """
    points, values = _checked(codes, factors)
    train, test = _split(values, held_out, seed)
    regression = scikit_learn("linear_model").LogisticRegression(max_iter=10_000)
    scaler = scikit_learn("preprocessing").StandardScaler().fit(points[train])
    x, x_test = scaler.transform(points[train]), scaler.transform(points[test])
    areas, terms = [], []
    for index, value in enumerate(values.T):
        chance = regression.fit(x, value[train]).predict_proba(x_test)
        is_class = value[test, None] == regression.classes_
        drawn = is_class.any(0) & ~is_class.all(0)
        if not drawn.any():
            what = "a value that part of the elements to test on has"
            raise ValueError(_checks.expected("factors", what, f"none in column {index}"))
        score = scikit_learn("metrics").roc_auc_score
        areas.append(float(score(is_class[:, drawn], chance[:, drawn])))
        classes = np.flatnonzero(drawn)
        terms.append(np.mean([_area_terms(chance[:, k], is_class[:, k]) for k in classes], 0))
    by_factor, error = torch.tensor(areas, dtype=torch.double), _error(np.mean(terms, 0))
    return Explicitness(float(by_factor.mean()), by_factor, repr(regression), error)


def irs(
    codes: Float[Values, "n dim"],
    factors: Shaped[Values, "n factors"],
    *,
    quantile: float = 0.99,
    bins: int = 20,
) -> IRS:
    r"""Measure whether a code stays where it is when all factors but one change.

    .. math:: \frac{\sum_j d_j \max_f R_{jf}}{\sum_j d_j}, \qquad
              R_{jf} = 1 - \frac{1}{d_j V_f} \sum_{v} \operatorname{quantile}_{v_f = v}
              \bigl|z_j - \mathbb{E}[z_j \mid v_f = v]\bigr|, \qquad
              d_j = \max |z_j - \mathbb{E} z_j|

    Codes of larger spread count for more. Meant for elements drawn evenly from all combinations of
    independent factors. 0 if all codes are constant. Codes of noise score as the tails of their
    distribution are long: N values of a Gaussian about one minus 2.58 over the greatest of them, so
    that scores of different N do not compare.

    Args:
        codes: The codes, posterior means by custom.
        factors: A whole number for each element and factor.
        quantile: Which quantile stands for the greatest deviation; 1 is the paper's.
        bins: How many bins of equal width a factor's numbers are cut into, so that one of more
            values than this is made coarser.

    Shape:
        ``codes: (N, dim)``, ``factors: (N, factors)``.

    Raises:
        ValueError: If there are NaN or infinite values, or a factor of one value.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(5))
        >>> irs(factors.float(), factors).score
        1.0

    References:
        R. Suter, D. Miladinovic, B. Schölkopf and S. Bauer, *Robustly Disentangled Causal
        Mechanisms*, 2019.
    """
    points, values = _checked(codes, factors)
    if _checks.number("quantile", quantile, low=0) > 1:
        raise ValueError(_checks.expected("quantile", "a number in [0, 1]", quantile))
    active = points.max(0) > points.min(0)
    deviation = np.where(active, np.abs(points - points.mean(0)).max(0), 0.0)
    robustness = np.zeros((points.shape[1], values.shape[1]))
    for index, value in enumerate(_binned(values, bins).T):
        greatest = []
        for one in np.unique(value):
            same = points[value == one]
            greatest.append(np.quantile(np.abs(same - same.mean(0)), quantile, axis=0))
        mean = np.mean(greatest, 0)[active]
        robustness[active, index] = 1 - mean / deviation[active]
    by_code = robustness.max(1)
    score = float(np.average(by_code, weights=deviation)) if active.any() else 0.0
    return IRS(score, *map(torch.from_numpy, (by_code, robustness, deviation)))


def _checked(
    codes: Values, factors: Values, *, least_codes: int = 1, least_factors: int = 1
) -> tuple[Array, Array]:
    points, values = as_points("codes", codes), as_whole_numbers("factors", factors)
    if values.ndim != 2 or len(values) != len(points):
        what = f"shape ({len(points)}, factors), a row for each code"
        raise ValueError(_checks.expected("factors", what, values.shape))
    for argument, table, least in (
        ("codes", points, least_codes),
        ("factors", values, least_factors),
    ):
        if table.shape[1] < least:
            what = f"at least {least} columns"
            raise ValueError(_checks.expected(argument, what, table.shape[1]))
    _vary(values)
    return points, values


def _vary(values: Array, among: str = "") -> None:
    constant = np.flatnonzero(values.min(0) == values.max(0)).tolist()
    if constant:
        what = f"at least two values in every column{among}"
        raise ValueError(
            _checks.expected(
                "factors", what, f"one in column {constant}", "Leave such factors out."
            )
        )


def _split(values: Array, held_out: float, seed: int) -> tuple[Array, Array]:
    train, test = split(len(values), held_out, seed)
    _vary(values[train], f" among the {len(train)} elements to train on")
    return train, test


def _binned(values: Array, bins: int) -> Array:
    """Cut each column into bins of equal width from its least to its greatest value."""
    _checks.positive_int("bins", bins)
    edges = np.linspace(values.min(0), values.max(0), bins + 1)[1:-1]
    return np.stack([np.digitize(*column) for column in zip(values.T, edges.T, strict=True)], 1)


def _mutual_information(binned: Array, values: Array) -> Tensor:
    mutual_info_score = scikit_learn("metrics").mutual_info_score
    pairs = [[mutual_info_score(v, z) for v in values.T] for z in binned.T]
    information = torch.tensor(pairs, dtype=torch.double)
    return torch.where(information < _CONSTANT, 0.0, information)


def _squared_correlation(points: Array, values: Array) -> Array:
    z, v = points - points.mean(0), values - values.mean(0)
    variance = z.var(0, ddof=1)
    covariance = z.T @ v / (len(z) - 1)
    squares: Array = covariance**2 / np.outer(np.where(variance > 0, variance, 1), v.var(0, ddof=1))
    squares[variance <= _CONSTANT] = 0
    return squares


def _error(terms: Array) -> float:
    """Return the standard error of a statistic whose first-order terms these are, ``(N,)``."""
    return mean_of(torch.from_numpy(terms)).standard_error


def _first_less_second(table: Tensor) -> Tensor:
    """Return weights that make the gap of each column: 1 at its greatest, -1 at the second."""
    top = table.topk(2, 0).indices
    signs = torch.tensor([[1.0], [-1.0]], dtype=table.dtype).expand(top.shape)
    return torch.zeros_like(table).scatter(0, top, signs)


def _weighted(binned: Array, values: Array, weights: Tensor) -> Array:
    """Add up, for each element, its terms of the information of columns, each by its weight."""
    terms = np.zeros(len(values))
    for j, f in weights.nonzero().tolist():
        a, b = (
            np.unique(column, return_inverse=True)[1] for column in (binned[:, j], values[:, f])
        )
        together = np.zeros((a.max() + 1, b.max() + 1))
        np.add.at(together, (a, b), 1)
        by_chance = np.outer(together.sum(1), together.sum(0)) / len(values)
        terms += float(weights[j, f]) * np.log(together[a, b] / by_chance[a, b])
    return terms


def _correlation_terms(points: Array, values: Array, weights: Array) -> Array:
    """Add up the terms of correlations times the correlations, half of those of their squares."""
    (u, v), terms = (_standardised(table) for table in (points, values)), np.zeros(len(values))
    for j, f in zip(*weights.nonzero(), strict=True):
        product = u[:, j] * v[:, f]
        correlation = product.mean()
        squares = (u[:, j] ** 2 + v[:, f] ** 2) / 2
        terms += weights[j, f] * correlation * (product - correlation * squares)
    return terms


def _standardised(table: Array) -> Array:
    """Scale columns to variance 1, and those that are constant to 0."""
    variance = table.var(0)
    scaled: Array = (table - table.mean(0)) * (variance > _CONSTANT)
    return scaled / np.where(variance > _CONSTANT, variance, 1) ** 0.5


def _area_terms(chance: Array, is_class: Array) -> Array:
    """Return what each element adds, to first order, to the area under a ROC curve."""
    inside, outside = (torch.from_numpy(chance[part]) for part in (is_class, ~is_class))
    terms, share = np.empty(len(chance)), is_class.mean()
    terms[is_class] = share_below(inside, outside)
    terms[~is_class] = 1 - share_below(outside, inside)
    scaled: Array = (terms - terms[is_class].mean()) / np.where(is_class, share, 1 - share)
    return scaled


def _importance(fitted: Any, dim: int) -> Array:
    for name in ("feature_importances_", "coef_"):
        if hasattr(fitted, name):
            importance: Array = np.abs(getattr(fitted, name)).reshape(-1, dim).mean(0)
            return importance
    what = "one with feature_importances_ or coef_ once it is fitted"
    raise TypeError(_checks.expected("classifier", what, repr(fitted)))


def _concentration(importance: Tensor) -> float:
    """Return one minus the rows' entropies, in base of their length, weighted by their sums."""
    shares = importance + 1e-11
    shares = shares / shares.sum(1, keepdim=True)
    rows = 1 - torch.special.entr(shares).sum(1) / np.log(shares.shape[1])
    weights = importance.sum(1)
    whole = weights.sum()
    return float((rows * weights).sum() / whole) if whole > 0 else 0.0


def _gap(table: Tensor) -> Tensor:
    """Return the greatest of each column less the second greatest."""
    top = table.topk(2, 0).values
    gap: Tensor = top[0] - top[1]
    return gap
