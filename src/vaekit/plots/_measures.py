"""What a page about a model says in numbers, and which elements it measures them on."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from vaekit import _checks, datasets, metrics
from vaekit.metrics.representation import scikit_learn
from vaekit.networks import with_context
from vaekit.plots._shared import Elements, codes, elements, loadable, one_label_each
from vaekit.training.measures import device_of, measuring
from vaekit.vae import VAE, dtype_of

__all__ = ["Chosen", "Encoded", "Group", "Row", "encoded", "measures", "plus_minus"]

_NEIGHBOURHOOD = 2**22  # values of the data that are held to compare their neighbourhoods
_SMALL = 4096  # values: of larger elements, their own say little
_DISTANCES = 2.5e8  # differences of single values that distances of data and samples may take
_DECODED = 1e8  # values that are decoded to estimate the likelihood, or encoded for votes
_VOTE = 64  # elements, or pairs of them, in a vote, as the field has it
_VOTES = (60, 1500)  # how many there are at least and at most, two thirds of them to train on
_EACH = 10  # elements for each value that they have, for covariances
_GREY = "by the cross-entropy of grey levels, which is no likelihood"
_WORTH = 5  # equally weighted draws, below which an estimate rests on single ones
_DRAWS = 500  # of codes, for what is estimated over all posteriors together


class Row(NamedTuple):
    """A measure."""

    name: str
    value: str
    meaning: str


class Group(NamedTuple):
    """Measures of one kind: each by the name that it is left out by, and how it is taken."""

    title: str
    take: list[tuple[str, Callable[[], list[Row]]]]


class Encoded(NamedTuple):
    """Posterior means, and what belongs to them."""

    z: Tensor
    labels: npt.NDArray[Any] | None
    context: Tensor | None

    def factors(self) -> Tensor:
        """Return the whole numbers ``(n, factors)`` that each element was made from."""
        if self.labels is None or self.labels.ndim != 2:
            got = "none" if self.labels is None else f"labels of shape {self.labels.shape}"
            what = "several labels of each element, the factors it was made from"
            raise ValueError(_checks.expected("data", what, got))
        return torch.from_numpy(self.labels)

    def classes(self) -> Tensor:
        """Return the number of each element's label."""
        return torch.from_numpy(np.unique(one_label_each(self.labels), return_inverse=True)[1])


class Chosen:
    """The elements that a page is about.

    Args:
        data: A batch or a data set.
        at_most: How many are chosen: at random, where the data can be read in any order.
        seed: Of that choice.
    """

    def __init__(self, data: Any, at_most: int, seed: int) -> None:
        data = loadable(data)
        datasets.loader(data, 1)  # says here what is wrong with it
        take = _reader(data)
        self.source: Any = data  # what they are chosen from
        if take is None:
            self._take: Callable[[Tensor], Any] = lambda rows: _Head(
                data, int(rows[0]), int(rows[-1]) + 1
            )
            self.count = sum(len(batch.x) for batch in datasets.batches(_Head(data, 0, at_most)))
            self._order = torch.arange(self.count)
            self.data: Any = _Head(data, 0, self.count)
            self.said = f"the first {self.count:,} elements"
            return
        self._take = take
        whole = int(datasets.size(data) or 0) if not isinstance(data, list) else len(data[0].x)
        self._order = torch.randperm(whole, generator=torch.Generator().manual_seed(seed))
        self._order = self._order[:at_most]
        self.count = len(self._order)
        kept = self.count == whole and not isinstance(data, list)
        self.data = data if kept else take(self._order.sort().values)
        self.said = f"all {whole:,} elements"
        if self.count < whole:
            self.said = f"{self.count:,} of {whole:,} elements, drawn at random"

    def some(self, start: int = 0, stop: int | None = None) -> Any:
        """Return some of them, in random order where the data can be read in any."""
        rows = self._order[start:stop]
        if not len(rows):
            what = f"more than {start} elements"
            raise ValueError(_checks.expected("data", what, len(self._order)))
        return self._take(rows)


class _Head:
    """The elements from one place to another of what yields batches, as often as it is asked."""

    def __init__(self, data: Any, start: int, stop: int) -> None:
        self._data, self._start, self._stop = data, start, stop

    def __iter__(self) -> Iterator[datasets.Batch]:
        at = 0
        for batch in datasets.batches(self._data):
            here = slice(max(0, self._start - at), max(0, self._stop - at))
            if here.start < min(here.stop, len(batch.x)):
                y = None if batch.y is None else batch.y[here]
                yield datasets.Batch(batch.x[here], batch.target[here], y)
            at += len(batch.x)
            if at >= self._stop:
                return


class _Rows(Subset[Any]):
    """Elements of a data set, which keep the names of its classes."""

    def __init__(self, dataset: Dataset[Any], rows: Tensor) -> None:
        super().__init__(dataset, rows.tolist())
        self.classes = getattr(dataset, "classes", ())


def _reader(data: Any) -> Callable[[Tensor], Any] | None:
    """Return a function that takes elements by their places, where the data can be read so."""
    if isinstance(data, Tensor):
        return lambda rows: data[rows.to(data.device)]
    if isinstance(data, np.ndarray):
        return lambda rows: data[rows.numpy()]
    if isinstance(data, datasets.ArrayDataset):
        return data.subset
    if isinstance(data, list) and len(data) == 1 and isinstance(data[0], datasets.Batch):
        x, target, y = data[0]
        return lambda rows: [
            datasets.Batch(x[part], target[part], _labels(y, part)) for part in rows.split(512)
        ]
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return lambda rows: _Rows(data, rows)
    return None


def _labels(y: Any, rows: Tensor) -> Any:
    return y if y is None else y[rows] if isinstance(y, Tensor) else np.asarray(y)[rows.numpy()]


def plus_minus(said: object) -> str:
    """Write a mean and its standard error, or what holds some, as the pictures do."""
    return str(said).replace(" +- nan", "").replace(" +- ", " ± ")


def encoded(model: VAE, data: Any, seed: int) -> Encoded:
    """Encode all elements, a batch at a time."""
    parts: list[Elements] = []
    means = []
    with measuring(model, seed) as device, torch.no_grad():
        for part in elements(model, data, device):
            means.append(codes(model, part).float().cpu())
            parts.append(part._replace(x=part.x[:0], target=part.target[:0]))
    known = [part.labels for part in parts if part.labels is not None]
    contexts = [part.context for part in parts if part.context is not None]
    return Encoded(
        torch.cat(means),
        np.concatenate(known) if len(known) == len(parts) else None,
        torch.cat(contexts) if len(contexts) == len(parts) else None,
    )


def measures(
    model: VAE, chosen: Chosen, read: Callable[[], Encoded], samples: int, seed: int
) -> list[Group]:
    """Return all measures that there may be; one that does not apply raises when it is taken.

    Args:
        model: The model.
        chosen: What to measure it on.
        read: Encodes that, once.
        samples: How many draws each element has in the estimate of the likelihood.
        seed: Of all draws.
    """
    data = chosen.data

    @functools.cache
    def grey() -> bool:
        """Whether a Bernoulli takes values between 0 and 1."""
        if not getattr(getattr(model.decoder, "likelihood", None), "grey_levels", False):
            return False
        return any(bool(((x := batch.target) * (1 - x)).any()) for batch in datasets.batches(data))

    def bound() -> list[Row]:
        found = metrics.elbo(model, data, seed=seed)
        relaxed = any(getattr(part, "hard", True) is False for part in model.modules())
        meaning = "at most the log-likelihood; higher is better"
        if relaxed:
            meaning = "of relaxed draws, and so no bound; higher is better"
        elif grey():
            meaning = f"{_GREY}, which it bounds none of; higher is better"
        return [
            _row("ELBO", found.elbo, meaning, "nats"),
            _row("reconstruction", found.reconstruction, "how badly z explains the data", "nats"),
            _row("KL", found.kl, "the rate: how far posteriors lie from the prior", "nats"),
        ]

    def likelihood() -> list[Row]:
        n = max(2, int(_DECODED / (samples * math.prod(_shape(data)))))
        part = data if n >= chosen.count else chosen.some(0, n)
        found = metrics.negative_log_likelihood(model, part, samples, seed=seed)
        worth = found.effective_samples.median()
        of = f"{_GREY}; " * grey() + f"of {n:,} elements, " * (n < chosen.count)
        meaning = f"{of}by {samples} draws each, which for most are worth {worth:.0f}"
        if worth < _WORTH:
            meaning += ": so few that it lies too high"
        meaning += "; lower is better"
        rows = [_row("negative log-likelihood", found.nats, meaning, "nats")]
        if found.bits_per_dimension is not None:
            rows.append(_row("bits per dimension", found.bits_per_dimension, "the same"))
        return rows

    def units() -> list[Row]:
        found = metrics.active_units(model, data)
        meaning = "dimensions whose posterior means vary with the data"
        return [Row("active units", f"{found.number} of {model.latent_dim}", meaning)]

    def gap() -> list[Row]:
        found = metrics.decompose_rate(model, data, draws=_DRAWS, seed=seed)
        meaning = (
            "how far all posteriors together are from the prior: what samples suffer from; "
            "it falls as elements are added"
        )
        rows = [_row("aggregated-posterior gap", found.aggregated_gap, meaning, "nats")]
        parts = (
            ("total correlation", found.total_correlation, "dimensions that tell of each other"),
            ("dimension-wise KL", found.dimension_wise_kl, "dimensions that are not the prior's"),
        )
        return rows + [
            _row(f"of which {name}", part, meaning, "nats")
            for name, part, meaning in parts
            if part is not None
        ]

    def probes() -> list[Row]:
        of = read()
        rows = []
        for name, probe, how in (
            ("k-NN accuracy", metrics.nearest_neighbours, "by 5 neighbours' codes"),
            ("linear probe", metrics.linear_probe, "by logistic regression on the codes"),
        ):
            found = probe(of.z, of.classes(), seed=seed)
            meaning = (
                f"of labels, {how} ({found.classifier}), on a quarter held out; "
                f"by chance {found.chance:.2f}"
            )
            rows.append(_row(name, found.accuracy, meaning))
        return rows

    def silhouette() -> list[Row]:
        of = read()
        found = metrics.silhouette(of.z, of.classes(), seed=seed)
        meaning = "how far apart the labels lie: 1 is far, 0 is mixed, below is misplaced"
        return [_row("silhouette", found.score, meaning)]

    def neighbourhoods() -> list[Row]:
        size = math.prod(_shape(data))
        n = min(1000, chosen.count, max(1, _NEIGHBOURHOOD // size))
        with measuring(model, seed) as device, torch.no_grad():
            parts = [
                (part.x.cpu(), codes(model, part).float().cpu())
                for part in elements(model, chosen.some(), device, n)
            ]
        x, z = (torch.cat(each) for each in zip(*parts, strict=True))
        found = metrics.neighbourhood_preservation(x, z, seed=seed)
        among = f"of {found.neighbours} neighbours among {n:,} elements"
        trust = metrics.Mean(found.trustworthiness, found.trustworthiness_error)
        continuity = metrics.Mean(found.continuity, found.continuity_error)
        return [
            _row("trustworthiness", trust, f"near codes: near data, {among}"),
            _row("continuity", continuity, "near data: near codes, of the same"),
        ]

    @functools.cache
    def beside() -> tuple[Tensor, Tensor, str]:
        size = math.prod(_shape(data))
        if size > _SMALL:
            what = f"elements of at most {_SMALL:,} values, which can be compared by these"
            hint = (
                "By features: vaekit.metrics.precision_recall, density_coverage, kernel_distance "
                "and frechet_distance(data, samples, features=...)"
            )
            raise ValueError(_checks.expected("data", what, f"{size:,}", hint))
        n = min(1000, chosen.count, math.isqrt(int(_DISTANCES / size)))
        real, drawn, what = _beside(model, chosen, n, seed)
        how = f"{n:,} {what}, z from the prior, beside as many data, by their own values"
        return real, drawn, how

    def generated() -> list[Row]:
        real, drawn, how = beside()
        found = metrics.precision_recall(real, drawn)
        robust = metrics.density_coverage(real, drawn)
        return [
            _row("precision", found.precision, f"samples that lie among the data; {how}"),
            _row("recall", found.recall, "data that lie among the samples; of the same"),
            _row("density", robust.density, "precision that outliers cannot raise; 1 is ideal"),
            _row("coverage", robust.coverage, "data that have a sample near; of the same"),
        ]

    def kernel() -> list[Row]:
        real, drawn, how = beside()
        found = metrics.kernel_distance(real, drawn, seed=seed)
        meaning = f"squared MMD: 0 if samples are as the data are, below by chance; {how}"
        return [_row("kernel distance", found, meaning)]

    def frechet() -> list[Row]:
        real, drawn, how = beside()
        size = real[0].numel()
        if len(real) < _EACH * size:
            what = f"at least {_EACH * size:,} elements, {_EACH} for each of their {size:,} values"
            hint = (
                "By features: vaekit.metrics.frechet_distance(data, samples, "
                "features=vaekit.metrics.inception_features())"
            )
            raise ValueError(_checks.expected("data", what, f"{len(real):,}", hint))
        found = metrics.frechet_distance(real, drawn, seed=seed)
        meaning = f"of means and covariances: it falls as elements are added; {how}"
        distance = metrics.Mean(found.distance, found.standard_error)
        return [_row("Fréchet distance", distance, meaning)]

    groups = [
        Group("Likelihood", [("The ELBO", bound), ("The likelihood", likelihood)]),
        Group(
            "Codes",
            [
                ("Active units", units),
                ("Aggregated-posterior gap", gap),
                ("k-NN accuracy and linear probe", probes),
                ("Silhouette", silhouette),
                ("Trustworthiness and continuity", neighbourhoods),
            ],
        ),
        Group(
            "Samples",
            [
                ("Precision, recall, density and coverage", generated),
                ("Kernel distance", kernel),
                ("Fréchet distance", frechet),
            ],
        ),
        Group("Disentanglement", _disentanglement(model, chosen, read, seed)),
    ]
    return groups


def _disentanglement(
    model: VAE, chosen: Chosen, read: Callable[[], Encoded], seed: int
) -> list[tuple[str, Callable[[], list[Row]]]]:
    @functools.cache
    def open_() -> tuple[Tensor, Tensor, list[str]]:
        return factors_of(chosen.data, read())

    def mixed() -> Tensor:
        """Return the codes in an order that has nothing to do with the factors."""
        z, _, _ = open_()
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
        return z[order.to(z.device)]

    def mig() -> list[Row]:
        z, v, _ = open_()
        gap = metrics.mig(z, v)
        modular = metrics.modularity(z, v)
        by_chance = metrics.modularity(mixed(), v).score
        only = f"whether a code tells of one factor only; by chance {by_chance:.2f}"
        return [
            _score("MIG", gap, "whether one code tells more of a factor than others"),
            _score("modularity", modular, only),
        ]

    def sap() -> list[Row]:
        z, v, _ = open_()
        found = metrics.sap(z, v, seed=seed)
        meaning = f"whether one code predicts a factor better, by {found.classifier}"
        return [_score("SAP", found, meaning)]

    def dci() -> list[Row]:
        z, v, _ = open_()
        forest = scikit_learn("ensemble").RandomForestClassifier(random_state=seed)
        found = metrics.dci(z, v, classifier=forest, seed=seed)
        told = metrics.Mean(found.informativeness, found.informativeness_error)
        how = (
            f"by what {found.classifier} splits by, which has no standard error; by boosting, "
            "which takes longer: vaekit.metrics.dci(codes, factors)"
        )
        only = f"whether a code matters to one factor only, {how}"
        same = "whether one code only matters to a factor; of the same"
        return [
            Row("DCI disentanglement", f"{found.disentanglement:.4g}", only),
            Row("DCI completeness", f"{found.completeness:.4g}", same),
            _row("DCI informativeness", told, "how often it tells the factors; of the same"),
        ]

    def irs() -> list[Row]:
        z, v, _ = open_()
        meaning = (
            "whether codes stay as they are when all factors but one change; by chance "
            f"{metrics.irs(mixed(), v).score:.2f}; it is of extremes, which have no standard error"
        )
        return [Row("IRS", f"{metrics.irs(z, v).score:.4g}", meaning)]

    def explicitness() -> list[Row]:
        z, v, _ = open_()
        found = metrics.explicitness(z, v, seed=seed)
        meaning = f"how well {found.classifier} tells the factors: area under ROC, 0.5 is chance"
        return [_score("explicitness", found, meaning)]

    def by_factor() -> list[Row]:
        z, v, names = open_()
        rows = []
        for name, value in zip(names, v.T, strict=True):
            found = metrics.linear_probe(z, value, seed=seed)
            count = len(value.unique())
            how = f"by {found.classifier}; by chance {found.chance:.2f}"
            meaning = f"linear probe: which of {count} values, {how}"
            rows.append(_row(f"accuracy of {name}", found.accuracy, meaning))
        return rows

    def voted(score: Callable[..., Any], train: int, test: int, **more: int) -> Any:
        counts = {"train": train, "test": test, "batch": _VOTE}
        with measuring(model, seed):
            represent = functools.partial(_means, model)
            return score(chosen.source, represent, **counts, **more, seed=seed)

    def factor_vae() -> list[Row]:
        open_()
        train, test = _votes(model, chosen, sets=1)
        found = voted(metrics.factor_vae_score, train, test, variance_of=_VOTE * test)
        meaning = (
            f"whether the code that varies least tells which factor is fixed, by majority vote: "
            f"{test} votes of {_VOTE} elements, by {train} others"
        )
        return [_row("FactorVAE score", found.score, meaning)]

    def beta_vae() -> list[Row]:
        open_()
        train, test = _votes(model, chosen, sets=2)
        found = voted(metrics.beta_vae_score, train, test)
        meaning = (
            f"whether {found.classifier} tells from differences of codes which factor is common: "
            f"{test} votes of {_VOTE} pairs, by {train} others"
        )
        return [_row("BetaVAE score", found.score, meaning)]

    return [
        ("MIG and modularity", mig),
        ("SAP", sap),
        ("DCI", dci),
        ("IRS", irs),
        ("Explicitness", explicitness),
        ("FactorVAE score", factor_vae),
        ("BetaVAE score", beta_vae),
        ("Linear probe of each factor", by_factor),
    ]


def _votes(model: VAE, chosen: Chosen, sets: int) -> tuple[int, int]:
    """Return how many votes to train on and to test on, if such data can be made to order."""
    data = chosen.source
    if not isinstance(data, metrics.GroundTruth):
        what = "data with factor_sizes and images(indices), which are made to order"
        raise ValueError(_checks.expected("data", what, type(data).__name__))
    if model.takes_context:
        what = "one that takes no context, which data made to order do not bring"
        raise ValueError(_checks.expected("model", what, "one that takes it"))
    each = _VOTE * sets * math.prod(_shape(data))
    least, most = _VOTES
    votes = min(most, int(_DECODED / each))
    if votes < least:
        largest = int(_DECODED / (least * _VOTE * sets))
        name = ("factor_vae_score", "beta_vae_score")[sets - 1]
        hint = f"Of others: vaekit.metrics.{name}(data, lambda x: model.encode(x).mean)"
        what = f"elements of at most {largest:,} values, which this takes seconds for"
        raise ValueError(_checks.expected("data", what, f"{each // _VOTE // sets:,}", hint))
    return votes - votes // 3, votes // 3


def _means(model: VAE, x: Tensor) -> Tensor:
    """Encode what was made to order."""
    mean: Tensor = model.encode(x.to(device_of(model), dtype_of(model))).mean
    return mean


def factors_of(data: Any, of: Encoded) -> tuple[Tensor, Tensor, list[str]]:
    """Return codes, the factors of more than one value, and their names."""
    values = of.factors()
    names = list(getattr(data, "factor_names", map(str, range(values.shape[1]))))
    vary = [i for i, column in enumerate(values.T) if len(column.unique()) > 1]
    if not vary:
        what = "a factor of more than one value"
        raise ValueError(_checks.expected("data", what, "none"))
    return of.z, values[:, vary], [names[i] for i in vary]


def _beside(model: VAE, chosen: Chosen, n: int, seed: int) -> tuple[Tensor, Tensor, str]:
    """Return n data, as many that the model generates, and which of p(x|z) these are.

    A mean is no datum where data are discrete (grey, where they are black and white), nor where it
    is of a table's row, whose noise belongs to it. Of an image it is the picture to look at.
    """
    real, means, draws, drawn = [], [], [], False
    discrete = getattr(getattr(model.decoder, "likelihood", None), "discrete", False)
    with measuring(model, seed) as device, torch.no_grad():
        for part in elements(model, chosen.some(), device, n):
            prior = with_context(model.prior, part.context)
            z = prior.sample(() if prior.batch_shape else (len(part.x),))
            given = with_context(model.decoder, part.context, z)
            support: Any = given.support
            discrete = discrete and bool(support.check(part.target).all())
            drawn = discrete or part.target.ndim == 2
            real.append(part.target.cpu())
            means.append(given.mean.cpu())
            draws.append(given.sample().cpu() if drawn else means[-1])
    if drawn:
        return torch.cat(real), torch.cat(draws), "draws of p(x|z)"
    return torch.cat(real), torch.cat(means), "means of p(x|z), which vary less than data"


def _shape(data: Any) -> torch.Size:
    """Return the shape of what is to be reconstructed."""
    return next(iter(datasets.batches(data, 1))).target.shape[1:]


def _row(name: str, value: metrics.Mean, meaning: str, unit: str = "") -> Row:
    return Row(name, plus_minus(value) + f" {unit}" * bool(unit), meaning)


def _score(name: str, found: Any, meaning: str) -> Row:
    return _row(name, metrics.Mean(found.score, found.standard_error), meaning)
