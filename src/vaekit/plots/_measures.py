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
from vaekit.metrics.likelihood import part_of
from vaekit.plots._shared import Elements, codes, elements, loadable, one_label_each
from vaekit.training.measures import measuring
from vaekit.vae import VAE

__all__ = ["Chosen", "Encoded", "Group", "Row", "encoded", "measures", "plus_minus"]

_NEIGHBOURHOOD = 2**22  # values of the data that are held to compare their neighbourhoods
_SMALL = 4096  # values: of larger elements, their own say little
_DISTANCES = 2.5e8  # differences of single values that distances of data and samples may take
_DECODED = 1e8  # values that are decoded to estimate the likelihood
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

    def bound() -> list[Row]:
        found = metrics.elbo(model, data, seed=seed)
        return [
            _row("ELBO", found.elbo, "at most the log-likelihood; higher is better", "nats"),
            _row("reconstruction", found.reconstruction, "how badly z explains the data", "nats"),
            _row("KL", found.kl, "the rate: how far posteriors lie from the prior", "nats"),
        ]

    def likelihood() -> list[Row]:
        n = max(2, int(_DECODED / (samples * math.prod(_shape(data)))))
        part = data if n >= chosen.count else chosen.some(0, n)
        found = metrics.negative_log_likelihood(model, part, samples, seed=seed)
        worth = found.effective_samples.median()
        of = f"of {n:,} elements, " * (n < chosen.count)
        meaning = f"{of}by {samples} draws each, worth {worth:.0f} in the middle; lower is better"
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
            meaning = f"of labels, {how}, on a quarter held out; by chance {found.chance:.2f}"
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
        return [
            Row(
                "trustworthiness", f"{found.trustworthiness:.4f}", f"near codes: near data, {among}"
            ),
            Row("continuity", f"{found.continuity:.4f}", "near data: near codes, of the same"),
        ]

    def generated() -> list[Row]:
        size = math.prod(_shape(data))
        if size > _SMALL:
            what = f"elements of at most {_SMALL:,} values, which can be compared by these"
            hint = "vaekit.metrics.precision_recall compares others by features."
            raise ValueError(_checks.expected("data", what, f"{size:,}", hint))
        n = min(1000, chosen.count, math.isqrt(int(_DISTANCES / size)))
        real, drawn, what = _beside(model, chosen, n, seed)
        found = metrics.precision_recall(real, drawn)
        robust = metrics.density_coverage(real, drawn)
        how = f"{n:,} {what}, z from the prior, beside as many data, by their own values"
        return [
            _row("precision", found.precision, f"samples that lie among the data; {how}"),
            _row("recall", found.recall, "data that lie among the samples; of the same"),
            _row("density", robust.density, "precision that outliers cannot raise; 1 is ideal"),
            _row("coverage", robust.coverage, "data that have a sample near; of the same"),
        ]

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
        Group("Samples", [("Precision, recall, density and coverage", generated)]),
        Group("Disentanglement", _disentanglement(chosen, read, seed)),
    ]
    return groups


def _disentanglement(
    chosen: Chosen, read: Callable[[], Encoded], seed: int
) -> list[tuple[str, Callable[[], list[Row]]]]:
    @functools.cache
    def open_() -> tuple[Tensor, Tensor, list[str]]:
        return factors_of(chosen.data, read())

    def mig() -> list[Row]:
        z, v, _ = open_()
        gap = metrics.mig(z, v)
        modular = metrics.modularity(z, v)
        return [
            Row("MIG", f"{gap.score:.4f}", "whether one code tells more of a factor than others"),
            Row("modularity", f"{modular.score:.4f}", "whether a code tells of one factor only"),
        ]

    def sap() -> list[Row]:
        z, v, _ = open_()
        found = metrics.sap(z, v, seed=seed)
        return [Row("SAP", f"{found.score:.4f}", "whether one code predicts a factor better")]

    def irs() -> list[Row]:
        z, v, _ = open_()
        meaning = "whether codes stay as they are when all factors but one change"
        return [Row("IRS", f"{metrics.irs(z, v).score:.4f}", meaning)]

    def explicitness() -> list[Row]:
        z, v, _ = open_()
        found = metrics.explicitness(z, v, seed=seed)
        meaning = "how well logistic regression tells the factors: area under ROC, 0.5 is chance"
        return [Row("explicitness", f"{found.score:.4f}", meaning)]

    def by_factor() -> list[Row]:
        z, v, names = open_()
        rows = []
        for name, value in zip(names, v.T, strict=True):
            found = metrics.linear_probe(z, value, seed=seed)
            count = len(value.unique())
            meaning = f"linear probe: which of {count} values; by chance {found.chance:.2f}"
            rows.append(_row(f"accuracy of {name}", found.accuracy, meaning))
        return rows

    return [
        ("MIG and modularity", mig),
        ("SAP", sap),
        ("IRS", irs),
        ("Explicitness", explicitness),
        ("Linear probe of each factor", by_factor),
    ]


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

    A mean is no datum where data are discrete: grey, say, where they are black and white.
    """
    real, means, draws = [], [], []
    discrete = getattr(getattr(model.decoder, "likelihood", None), "discrete", False)
    with measuring(model, seed) as device, torch.no_grad():
        for part in elements(model, chosen.some(), device, n):
            prior = part_of(model.prior, part.context)
            z = prior.sample(() if prior.batch_shape else (len(part.x),))
            given = part_of(model.decoder, part.context, z)
            support: Any = given.support
            discrete = discrete and bool(support.check(part.target).all())
            real.append(part.target.cpu())
            means.append(given.mean.cpu())
            draws.append(given.sample().cpu() if discrete else means[-1])
    if discrete:
        return torch.cat(real), torch.cat(draws), "draws of p(x|z)"
    return torch.cat(real), torch.cat(means), "means of p(x|z)"


def _shape(data: Any) -> torch.Size:
    """Return the shape of what is to be reconstructed."""
    return next(iter(datasets.batches(data, 1))).target.shape[1:]


def _row(name: str, value: metrics.Mean, meaning: str, unit: str = "") -> Row:
    return Row(name, plus_minus(value) + f" {unit}" * bool(unit), meaning)
