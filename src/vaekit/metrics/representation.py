"""What codes are good for: probes, the room between classes, and who stays whose neighbour.

The classifiers are scikit-learn's: ``pip install "vaekit[plots]"``.
"""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vaekit import _checks
from vaekit.metrics.inputs import Array, Values, as_points, as_tensor, as_whole_numbers
from vaekit.metrics.means import Mean, described, mean_of

__all__ = [
    "Neighbourhood",
    "Probe",
    "Silhouette",
    "linear_probe",
    "nearest_neighbours",
    "neighbourhood_preservation",
    "silhouette",
]


class Probe(NamedTuple):
    """How well a simple classifier tells labels from codes.

    Attributes:
        accuracy: The share of the test elements that it got right, with its binomial standard
            error over them. Another draw of the training part is not accounted for.
        chance: The share that answering always with the training part's commonest label gets
            right.
        trained_on: How many elements it was trained on.
        classifier: Which classifier of scikit-learn's it was.
    """

    accuracy: Mean
    chance: float
    trained_on: int
    classifier: str

    def __repr__(self) -> str:
        return described(self)


class Silhouette(NamedTuple):
    """How far apart the classes lie.

    Attributes:
        score: The mean over the elements, in [-1, 1]. Its standard error takes them for
            independent, which they are not quite, as each one's value depends on all.
        by_element: The value of each element that was used, ``(m,)``.
        elements: Which elements were used, ``(m,)``.
    """

    score: Mean
    by_element: Tensor
    elements: Tensor

    def __repr__(self) -> str:
        return described(self)


class Neighbourhood(NamedTuple):
    """How far neighbourhoods of the data are neighbourhoods of the codes.

    Attributes:
        trustworthiness: 1 if near codes belong to near data; less the more strangers stand among
            the neighbours of a code.
        continuity: 1 if near data have near codes; less the more neighbours of a datum are torn
            away.
        neighbours: How many make a neighbourhood.
        elements: Which elements were used, ``(m,)``.
        trustworthiness_error: Its standard error over the elements. It takes them for independent,
            which they are not quite, as each one's term depends on all.
        continuity_error: The same of the continuity.
    """

    trustworthiness: float
    continuity: float
    neighbours: int
    elements: Tensor
    trustworthiness_error: float
    continuity_error: float

    def __repr__(self) -> str:
        return described(self)


def linear_probe(
    codes: Float[Values, "n dim"],
    labels: Shaped[Values, " n"],
    *,
    test: tuple[Values, Values] | None = None,
    held_out: float = 0.25,
    labelled: int | None = None,
    seed: int = 0,
) -> Probe:
    """Measure how well a linear classifier tells the labels from the codes.

    Multinomial logistic regression (scikit-learn's ``LogisticRegression``, its L2 penalty ``C=1``)
    on codes that are standardised by the training part. An unbiased estimate of the accuracy of
    the classifier that this training part gives.

    Args:
        codes: The codes, posterior means say.
        labels: A whole number for each.
        test: Codes and labels to test on; a random part of ``codes`` is held out if None.
        held_out: The share that is held out.
        labelled: How many elements, drawn at random from the training part, to train on; all of
            them if None.
        seed: Of the random choices.

    Shape:
        ``codes: (N, dim)``, ``labels: (N,)``; ``test`` likewise.

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If there are NaN or infinite values, more than one label for an element, fewer
            than two labels to train on, fewer than two elements to test on, or sizes do not fit.

    Example:
        >>> labels = torch.arange(200) % 2
        >>> probe = linear_probe(torch.randn(200, 3) + 10 * labels[:, None], labels)
        >>> print(probe.accuracy, probe.chance)
        1 +- 0 0.46

    References:
        G. Alain and Y. Bengio, *Understanding Intermediate Layers Using Linear Classifier Probes*,
        2016.
    """
    linear_model = scikit_learn("linear_model")
    pipeline, preprocessing = scikit_learn("pipeline"), scikit_learn("preprocessing")
    classifier = linear_model.LogisticRegression(max_iter=10_000)
    standardised = pipeline.make_pipeline(preprocessing.StandardScaler(), classifier)
    parts = _parts(codes, labels, test, held_out, labelled, seed)
    return _probe(standardised, repr(classifier), *parts)


def nearest_neighbours(
    codes: Float[Values, "n dim"],
    labels: Shaped[Values, " n"],
    *,
    k: int = 5,
    test: tuple[Values, Values] | None = None,
    held_out: float = 0.25,
    labelled: int | None = None,
    seed: int = 0,
) -> Probe:
    """Measure how well the nearest codes tell the label.

    The majority of the k nearest by Euclidean distance (scikit-learn's ``KNeighborsClassifier``).
    The codes are taken as they are: a dimension of larger spread counts for more. An unbiased
    estimate of the accuracy that this training part gives.

    Args:
        codes: As for `linear_probe`.
        labels: As for `linear_probe`.
        k: How many neighbours vote.
        test: As for `linear_probe`.
        held_out: As for `linear_probe`.
        labelled: As for `linear_probe`.
        seed: As for `linear_probe`.

    Shape:
        As for `linear_probe`.

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: As for `linear_probe`, or if there are fewer than ``k`` elements to train on.

    Example:
        >>> labels = torch.arange(200) % 2
        >>> nearest_neighbours(torch.randn(200, 3) + 10 * labels[:, None], labels, k=3).classifier
        'KNeighborsClassifier(n_neighbors=3)'

    References:
        T. Cover and P. Hart, *Nearest Neighbor Pattern Classification*, 1967.
    """
    neighbors = scikit_learn("neighbors")
    classifier = neighbors.KNeighborsClassifier(_checks.positive_int("k", k))
    parts = _parts(codes, labels, test, held_out, labelled, seed)
    if k > len(parts[0]):
        what = f"at most the {len(parts[0])} elements to train on"
        raise ValueError(_checks.expected("k", what, k))
    return _probe(classifier, repr(classifier), *parts)


def silhouette(
    codes: Float[Values, "n dim"],
    labels: Shaped[Values, " n"],
    *,
    at_most: int = 5000,
    seed: int = 0,
) -> Silhouette:
    r"""Measure how far apart the classes lie in the space of codes.

    .. math:: s_i = \frac{b_i - a_i}{\max(a_i, b_i)}

    with :math:`a_i` the mean Euclidean distance of a code to the others of its class and
    :math:`b_i` that to the nearest other class; 0 for the only element of a class, and where all
    distances are 0. By scikit-learn's ``silhouette_samples``.

    Args:
        codes: The codes.
        labels: A whole number for each.
        at_most: How many elements, drawn at random, are used; time grows with their square.
        seed: Of that choice.

    Shape:
        ``codes: (N, dim)``, ``labels: (N,)``.

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If there are NaN or infinite values, more than one label for an element, fewer
            than two labels among the elements used, or as many labels as elements.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> silhouette(torch.tensor([[0.0], [1.0], [4.0], [5.0]]), labels).score.mean
        0.746031746031746

    References:
        P. J. Rousseeuw, *Silhouettes: a Graphical Aid to the Interpretation and Validation of
        Cluster Analysis*, 1987, section 2.
    """
    metrics = scikit_learn("metrics")
    points = as_points("codes", codes)
    classes = _as_labels("labels", labels, len(points))
    chosen = shuffled(len(points), seed)[: _checks.positive_int("at_most", at_most)]
    points, classes = points[chosen], classes[chosen]
    found = len(np.unique(classes))
    if not 2 <= found < len(classes):
        what = f"at least 2 values among the {len(classes)} elements used, and fewer than those"
        raise ValueError(_checks.expected("labels", what, f"{found} values"))
    by_element = torch.from_numpy(metrics.silhouette_samples(points, classes)).double()
    return Silhouette(mean_of(by_element), by_element, torch.from_numpy(chosen))


def neighbourhood_preservation(
    data: Shaped[Values, "n *event"],
    codes: Float[Values, "n dim"],
    *,
    neighbours: int = 10,
    at_most: int = 2000,
    seed: int = 0,
) -> Neighbourhood:
    r"""Measure how far near data have near codes, and near codes near data.

    .. math:: T = 1 - \frac{2}{n k (2 n - 3 k - 1)} \sum_i \sum_{j \in U_i} (r_{ij} - k)

    with :math:`U_i` the codes that are among the k nearest of code i but whose data are not among
    the k nearest of datum i, and :math:`r_{ij}` the rank of datum j by its distance from datum i.
    The continuity is the same with data and codes exchanged. Distances are Euclidean. A random
    code has about 1/2.

    Where several tie for the last of the k places, each has its share of them, and the rank of a
    datum is one more than how many are nearer. So constant codes, which tear nothing apart, have a
    continuity of 1, and where no distances of data tie a trustworthiness of

    .. math:: 1 - \frac{(n - k)(n - k - 1)}{(n - 1)(2 n - 3 k - 1)} \approx \frac{1}{2}.

    Args:
        data: The data.
        codes: Their codes.
        neighbours: k, how many make a neighbourhood.
        at_most: n, how many elements, drawn at random, are used; time and memory grow with their
            square. Values of different n are of different neighbourhoods: compare equal ones.
        seed: Of that choice.

    Shape:
        ``data: (N, *event)``, ``codes: (N, dim)``.

    Raises:
        ValueError: If there are NaN or infinite values, or ``neighbours`` is not below half the
            number of elements used.

    Example:
        >>> x = torch.randn(50, 1, 4, 4)
        >>> found = neighbourhood_preservation(x, x.flatten(1))
        >>> found.trustworthiness, found.continuity
        (1.0, 1.0)

    References:
        J. Venna and S. Kaski, *Neighborhood Preservation in Nonlinear Projection Methods: An
        Experimental Study*, 2001.
    """
    points = as_points("codes", codes)
    given = as_tensor("data", data)
    originals = as_points("data", given.flatten(1) if given.ndim > 1 else given[:, None])
    _same_length("data", len(originals), len(points))
    chosen = shuffled(len(points), seed)[: _checks.positive_int("at_most", at_most)]
    if 2 * _checks.positive_int("neighbours", neighbours) >= len(chosen):
        what = f"fewer than half the {len(chosen)} elements used"
        raise ValueError(_checks.expected("neighbours", what, neighbours))
    of_data, of_codes = _nearer(originals[chosen]), _nearer(points[chosen])
    trust = mean_of(_kept(of_codes, of_data, neighbours))
    continuity = mean_of(_kept(of_data, of_codes, neighbours))
    return Neighbourhood(
        trust.mean,
        continuity.mean,
        neighbours,
        torch.from_numpy(chosen),
        trust.standard_error,
        continuity.standard_error,
    )


def scikit_learn(module: str) -> ModuleType:
    """Import a module of scikit-learn's, or name the extra that brings it."""
    needs = "This metric", "scikit-learn", '"vaekit[plots]"'
    return _checks.module(f"sklearn.{module}", *needs)


def shuffled(n: int, seed: int) -> Array:
    """Return the numbers below n in random order."""
    order: Array = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
    return order


def split(n: int, held_out: float, seed: int) -> tuple[Array, Array]:
    """Draw which of n elements to train on, and which, at least two, to test on."""
    share = _checks.number("held_out", held_out, above=0)
    if share >= 1:
        raise ValueError(_checks.expected("held_out", "a number between 0 and 1", held_out))
    count = round(share * n)
    if count < 2 or n - count < 2:
        what = "a share that leaves two elements to train on and two to test on"
        raise ValueError(_checks.expected("held_out", what, f"{held_out} of {n}"))
    order = shuffled(n, seed)
    return order[count:], order[:count]


def _parts(
    codes: Values,
    labels: Values,
    test: tuple[Values, Values] | None,
    held_out: float,
    labelled: int | None,
    seed: int,
) -> tuple[Array, Array, Array, Array]:
    points = as_points("codes", codes)
    classes = _as_labels("labels", labels, len(points))
    if test is None:
        train, rest = split(len(points), held_out, seed)
        points_test, classes_test = points[rest], classes[rest]
    else:
        train = shuffled(len(points), seed)
        points_test = as_points("test codes", test[0])
        classes_test = _as_labels("test labels", test[1], len(points_test))
        if len(points_test) < 2:
            raise ValueError(_checks.expected("test", "at least two elements", len(points_test)))
        if points_test.shape[1] != points.shape[1]:
            what = f"{points.shape[1]} dimensions, as the codes have"
            raise ValueError(_checks.expected("test codes", what, points_test.shape[1]))
    if labelled is not None and _checks.positive_int("labelled", labelled) > len(train):
        what = f"at most the {len(train)} elements to train on"
        raise ValueError(_checks.expected("labelled", what, labelled))
    train = train[:labelled]
    if len(np.unique(classes[train])) < 2:
        what = f"at least two values among the {len(train)} elements to train on"
        raise ValueError(_checks.expected("labels", what, "one"))
    return points[train], classes[train], points_test, classes_test


def _probe(
    classifier: Any, name: str, points: Array, classes: Array, points_test: Array, test: Array
) -> Probe:
    right = classifier.fit(points, classes).predict(points_test) == test
    values, counts = np.unique(classes, return_counts=True)
    chance = float((test == values[counts.argmax()]).mean())
    return Probe(mean_of(torch.from_numpy(right)), chance, len(points), name)


def _as_labels(argument: str, labels: Values, n: int) -> Array:
    """Return one whole number for each of n elements."""
    labels = as_tensor(argument, labels)
    if labels.ndim != 1:
        what = f"one for each of the {n} codes, shape ({n},)"
        hint = "Of several factors take one: labels[:, k]." if labels.ndim == 2 else ""
        raise ValueError(_checks.expected(argument, what, tuple(labels.shape), hint))
    _same_length(argument, len(labels), n)
    return as_whole_numbers(argument, labels)


def _nearer(points: Array) -> tuple[Tensor, Tensor]:
    """Count, for each pair, how many are nearer to the first, and how many as near as the second.

    The second is one of those that are as near. The diagonal has no meaning.
    """
    if (points != points.round()).any():  # whole numbers have exact distances as they are
        points = points - points.mean(0)
    unlike, which = np.unique(points, axis=0, return_inverse=True)  # so that equals are as near
    squares = (unlike**2).sum(1)
    distances = (squares[:, None] + squares - 2 * unlike @ unlike.T).clip(0)
    np.fill_diagonal(distances, 0)
    every = torch.from_numpy(distances[np.ix_(which.ravel(), which.ravel())])
    every.fill_diagonal_(-1)  # before all others
    ranked = every.sort(1).values
    nearer, not_farther = (
        torch.searchsorted(ranked, every, right=right) for right in (False, True)
    )
    return nearer - 1, not_farther - nearer


def _kept(near: tuple[Tensor, Tensor], far: tuple[Tensor, Tensor], k: int) -> Tensor:
    """Return what each element adds to the mean that says whether near ones stay near."""
    (nearer, equals), (ahead, _), n = near, far, len(near[0])
    shares = ((k - nearer).double() / equals).clamp(0, 1).fill_diagonal_(0)  # of the k places
    strange = (shares * (ahead + 1 - k).clamp(min=0)).sum(1)
    return 1 - 2 / (k * (2 * n - 3 * k - 1)) * strange


def _same_length(argument: str, length: int, n: int) -> None:
    if length != n:
        raise ValueError(_checks.expected(argument, f"one for each of the {n} codes", length))
