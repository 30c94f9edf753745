"""What codes are good for, on codes of which that is known."""

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gaussians import z_score
from torch import Tensor

from vaekit.metrics import representation as metrics

pytest.importorskip("sklearn")

Refuses = Callable[..., Exception]
PROBES = {"linear": metrics.linear_probe, "neighbours": metrics.nearest_neighbours}


def classes(n: int = 300, apart: float = 20.0) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 3
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    return torch.randn(n, 2) + apart * corners[labels], labels


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_classes_far_apart_are_told_and_noise_is_not(probe: Callable[..., metrics.Probe]) -> None:
    assert probe(*classes()).accuracy == (1.0, 0.0)
    n = 4000
    noise, labels = torch.randn(n, 2), torch.randint(2, (n,))
    found = probe(noise, labels)
    assert found.trained_on == 3000
    assert abs(found.accuracy.mean - 0.5) < 4 * found.accuracy.standard_error
    p = found.accuracy.mean
    assert found.accuracy.standard_error == pytest.approx(math.sqrt(p * (1 - p) / 999))


def test_the_probe_is_linear_and_the_neighbours_are_not() -> None:
    """The exclusive or, which no line divides."""
    codes = torch.randn(1000, 2).sign() + 0.1 * torch.randn(1000, 2)
    labels = (codes.prod(1) > 0).long()
    linear, near = metrics.linear_probe(codes, labels), metrics.nearest_neighbours(codes, labels)
    assert near.accuracy.mean == 1
    assert linear.accuracy.mean < 0.8
    assert "LogisticRegression" in linear.classifier


def test_chance_is_what_the_commonest_label_gets() -> None:
    codes, labels = torch.randn(6, 1), torch.tensor([0, 0, 0, 1, 1, 0])
    test = torch.randn(4, 1), torch.tensor([0, 1, 1, 1])
    assert metrics.linear_probe(codes, labels, test=test).chance == 0.25


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_choices_follow_the_seed_and_the_number_of_labels(
    probe: Callable[..., metrics.Probe],
) -> None:
    codes, labels = classes(apart=1.0)
    assert probe(codes, labels, seed=1) == probe(codes, labels, seed=1)
    assert len({probe(codes, labels, seed=s).accuracy.mean for s in range(8)}) > 1
    assert probe(codes, labels, labelled=30).trained_on == 30


def test_standardised_codes_make_the_linear_probe_blind_to_scale() -> None:
    codes, labels = classes(apart=1.0)
    scaled = codes * torch.tensor([1e-3, 1e3]) + 5
    one, other = metrics.linear_probe(codes, labels), metrics.linear_probe(scaled, labels)
    assert one.accuracy == other.accuracy


def test_the_silhouette_is_that_of_its_definition() -> None:
    codes, labels = torch.randn(30, 3).double(), torch.arange(30) % 4
    distances = torch.cdist(codes, codes)
    expected = []
    for i, label in enumerate(labels):
        own = (labels == label) & (torch.arange(30) != i)
        a = distances[i, own].mean()
        b = min(distances[i, labels == other].mean() for other in range(4) if other != label)
        expected.append((b - a) / max(a, b))
    found = metrics.silhouette(codes, labels)
    torch.testing.assert_close(found.by_element, torch.stack(expected)[found.elements])
    assert found.score.mean == pytest.approx(torch.stack(expected).mean().item())
    assert len(metrics.silhouette(codes, labels, at_most=20).elements) == 20


def test_neighbourhoods_that_stay_and_neighbourhoods_that_do_not() -> None:
    x = torch.randn(300, 5)
    turned = x @ torch.linalg.qr(torch.randn(5, 5)).Q * 3 + 1
    same = metrics.neighbourhood_preservation(x, turned)
    assert (same.trustworthiness, same.continuity) == (1, 1)
    lost = metrics.neighbourhood_preservation(x, torch.randn(300, 5), neighbours=5)
    assert abs(lost.trustworthiness - 0.5) < 0.05
    assert abs(lost.continuity - 0.5) < 0.05


def plain_trust(data: list[list[float]], codes: list[list[float]], k: int) -> float:
    """One less what strangers among the k nearest codes cost, as its authors count it."""
    n, cost = len(data), 0

    def order(points: list[list[float]], i: int) -> list[int]:
        return sorted(set(range(n)) - {i}, key=lambda j: math.dist(points[i], points[j]))

    for i in range(n):
        near, ranked = order(codes, i)[:k], order(data, i)
        for j in near:
            if j not in ranked[:k]:
                cost += ranked.index(j) + 1 - k
    return 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * cost


@pytest.mark.parametrize("k", [1, 6])
def test_trust_and_continuity_equal_a_plain_version(k: int) -> None:
    x = torch.randn(40, 5).double()
    z = x[:, :2] + 0.3 * torch.randn(40, 2)
    found = metrics.neighbourhood_preservation(x, z, neighbours=k)
    trust, continuity = (
        plain_trust(one.tolist(), other.tolist(), k) for one, other in ((x, z), (z, x))
    )
    assert found.trustworthiness == pytest.approx(trust, abs=1e-12)
    assert found.continuity == pytest.approx(continuity, abs=1e-12)
    assert 0.6 < trust < 0.99
    assert trust != continuity
    moved = metrics.neighbourhood_preservation(x + 1e4, z / 1e4, neighbours=k)
    assert moved[:2] == pytest.approx((trust, continuity), abs=1e-12)


def test_the_error_of_trust_is_that_of_the_mean_over_elements() -> None:
    x, z = torch.randn(2, 200, 2).double()
    found = metrics.neighbourhood_preservation(x, z, neighbours=5)
    terms = []
    for i in range(200):
        ranks = (x - x[i]).norm(dim=1).argsort().argsort()
        near = (z - z[i]).norm(dim=1).argsort()[1:6]
        terms.append(1 - 2 / (5 * (400 - 16)) * (ranks[near] - 5).clamp(min=0).sum().item())
    values = torch.tensor(terms)
    assert found.trustworthiness == pytest.approx(values.mean().item())
    assert found.trustworthiness_error == pytest.approx(values.std().item() / 200**0.5, rel=1e-4)
    same = metrics.neighbourhood_preservation(x, x)
    assert (same.trustworthiness_error, same.continuity_error) == (0, 0)


def test_constant_codes_keep_what_is_near_and_are_trusted_as_noise_is() -> None:
    n, k = 60, 7
    x, constant = torch.randn(n, 3), torch.full((n, 2), 0.1)
    found = metrics.neighbourhood_preservation(x, constant, neighbours=k)
    chance = 1 - (n - k) * (n - k - 1) / ((n - 1) * (2 * n - 3 * k - 1))
    assert found.trustworthiness == pytest.approx(chance, abs=1e-12)
    assert found.continuity == 1
    # As in the mean over all orders of what ties, which are drawn here.
    orders = [
        metrics.neighbourhood_preservation(x, torch.rand(n, 1), neighbours=k).trustworthiness
        for _ in range(200)
    ]
    assert abs(z_score(torch.tensor(orders).double(), chance)) < 4
    other = metrics.neighbourhood_preservation(constant, x, neighbours=k)
    assert other[:2] == pytest.approx((1, chance), abs=1e-12)
    both = metrics.neighbourhood_preservation(constant, constant, neighbours=k)
    assert both[:2] == (1, 1)


def test_equals_stand_by_each_other_whatever_the_order() -> None:
    """Pictures of two values, whose distances tie, and of which some are there twice."""
    x = (torch.rand(50, 12) < 0.3).double().repeat(2, 1)
    z = x[:, :6]
    same = metrics.neighbourhood_preservation(x, x, neighbours=5)
    assert same[:2] == (1, 1)
    found = [metrics.neighbourhood_preservation(x, z, neighbours=5, seed=s) for s in range(4)]
    for other in found[1:]:
        assert other[:2] == pytest.approx(found[0][:2], abs=1e-12)
    assert 0.5 < found[0].trustworthiness < 1
    shifted = metrics.neighbourhood_preservation(x.repeat(1, 2), 2 * z - 7, neighbours=5)
    assert shifted[:2] == pytest.approx(found[0][:2], abs=1e-12)


def test_the_probe_divides_as_in_a_plain_version() -> None:
    """The least cross-entropy of a standardised code, plus half the squares of the weights."""
    codes, labels = classes(400, apart=1.5)
    codes = codes * torch.tensor([5.0, 0.3]) + 2
    found = metrics.linear_probe(codes, labels)
    train, test = (torch.from_numpy(part) for part in metrics.split(400, 0.25, 0))
    x = codes.double()
    x = (x - x[train].mean(0)) / x[train].var(0, correction=0).sqrt()
    weight = torch.zeros(2, 3, dtype=torch.double, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.double, requires_grad=True)
    options = {"max_iter": 500, "tolerance_grad": 1e-10, "line_search_fn": "strong_wolfe"}
    optimiser = torch.optim.LBFGS([weight, bias], **options)

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = x[train] @ weight + bias
        own = logits.gather(1, labels[train, None]).squeeze(1)
        value = (logits.logsumexp(1) - own).sum() + weight.square().sum() / 2
        value.backward()
        return value

    optimiser.step(loss)
    assert weight.grad is not None
    assert weight.grad.abs().max() < 1e-4
    right = ((x[test] @ weight + bias).argmax(1) == labels[test]).double().mean().item()
    assert 0.5 < right < 0.95
    assert found.accuracy.mean == pytest.approx(right, abs=1e-12)
    assert found.accuracy.standard_error == pytest.approx((right * (1 - right) / 99) ** 0.5)
    commonest = labels[train].bincount().argmax()
    assert found.chance == pytest.approx((labels[test] == commonest).double().mean().item())


@pytest.mark.parametrize("k", [1, 4])
def test_the_neighbours_vote_as_in_a_plain_version(k: int) -> None:
    codes, labels = classes(120, apart=1.5)
    found = metrics.nearest_neighbours(codes, labels, k=k)
    train, test = (part.tolist() for part in metrics.split(120, 0.25, 0))
    points, right = codes.tolist(), 0
    for i in test:
        near = sorted(train, key=lambda j: math.dist(points[i], points[j]))[:k]
        votes = [labels[j].item() for j in near]
        right += min(votes, key=lambda label: (-votes.count(label), label)) == labels[i]
    assert 0.5 < right / 30 < 1
    assert found.accuracy.mean == pytest.approx(right / 30)
    p = right / 30
    assert found.accuracy.standard_error == pytest.approx((p * (1 - p) / 29) ** 0.5)


def test_codes_of_one_dimension_and_constant_ones_have_a_value() -> None:
    labels = torch.arange(60) % 3
    one, constant = torch.randn(60, 1), torch.full((60, 3), 0.1)
    for probe in PROBES.values():
        assert 0 <= probe(one, labels).accuracy.mean <= 1
        found = probe(constant, labels)  # which cannot do better than one label for all
        _, test = metrics.split(60, 0.25, 0)
        assert found.accuracy.mean in [(labels[test] == k).double().mean().item() for k in range(3)]
    assert metrics.silhouette(constant, labels).score == (0, 0)
    assert -1 <= metrics.silhouette(one, labels).score.mean <= 1
    kept = metrics.neighbourhood_preservation(torch.randn(60, 4), one)
    assert 0 < kept.trustworthiness < 1


def test_nan_is_named_wherever_it_is(refuses: Refuses) -> None:
    codes, labels = classes(60)
    nan = codes.clone()
    nan[3, 1] = math.nan
    for measure in (*PROBES.values(), metrics.silhouette):
        refuses(ValueError, lambda m=measure: m(nan, labels), "codes: expected no NaN, got 1 NaN")
        refuses(ValueError, lambda m=measure: m(codes, labels / 0), "labels: expected no NaN")
        refuses(ValueError, lambda m=measure: m(codes[:0], labels[:0]), "codes: expected shape")
    for probe in PROBES.values():
        for test, words in (
            ((nan, labels), "test codes: expected no NaN"),
            ((codes, labels / 0), "test labels: expected no NaN"),
        ):
            refuses(ValueError, lambda p=probe, t=test: p(codes, labels, test=t), words)
    kept = metrics.neighbourhood_preservation
    refuses(ValueError, lambda: kept(nan, codes), "data: expected no NaN")
    refuses(ValueError, lambda: kept(codes, nan), "codes: expected no NaN")


def test_what_would_overflow_is_named_and_what_would_not_is_measured(refuses: Refuses) -> None:
    codes, labels = classes(120, apart=1.5)
    large, immense = codes.double() * 1e17, codes.double() * 1e18
    for measure in (*PROBES.values(), metrics.silhouette):
        assert measure(large, labels)[0] == pytest.approx(measure(codes.double(), labels)[0])
        words = "codes: expected values of at most 1e+18 in size, got one of"
        refuses(ValueError, lambda m=measure: m(immense, labels), words)
        refuses(ValueError, lambda m=measure: m(-immense, labels), words)


def test_arrays_are_taken_as_tensors_are(refuses: Refuses) -> None:
    codes, labels = classes(120, apart=1.5)
    arrays = codes.numpy(), labels.numpy()
    for measure in (*PROBES.values(), metrics.silhouette):
        assert measure(*arrays)[0] == measure(codes, labels)[0]
        words = "codes: expected a tensor or an array of numbers, got list"
        refuses(TypeError, lambda m=measure: m(codes.tolist(), labels), words)
        words = "labels: expected a tensor or an array of numbers, got ndarray of <U21"
        refuses(TypeError, lambda m=measure: m(codes, labels.numpy().astype(str)), words)
    kept = metrics.neighbourhood_preservation
    assert kept(codes.numpy(), codes[:, :1].numpy())[:2] == kept(codes, codes[:, :1])[:2]
    backwards = codes.numpy().astype(">f4")[::-1]
    assert metrics.silhouette(backwards, labels.flip(0)).score.mean == pytest.approx(
        metrics.silhouette(codes, labels).score.mean, abs=0.01
    )


def test_records_are_shown_in_a_line() -> None:
    codes, labels = classes(120)
    shown = repr(metrics.silhouette(codes, labels))
    assert "by_element=tensor of shape (120,)" in shown
    assert " +- " in shown
    assert "\n" not in shown
    assert repr(metrics.linear_probe(codes, labels)).startswith("Probe(accuracy=1 +- 0, chance=")


@pytest.mark.parametrize("shape", [(60, 1), (60, 2), (), (60, 2, 2)])
def test_an_element_has_one_label(shape: tuple[int, ...], refuses: Refuses) -> None:
    codes, labels = classes(60)
    many = torch.zeros(shape, dtype=torch.long)
    what = "labels: expected one for each of the 60 codes, shape (60,), got"
    hint = "Of several factors take one: labels[:, k]." if len(shape) == 2 else ""
    for measure in (*PROBES.values(), metrics.silhouette):
        refuses(ValueError, lambda m=measure: m(codes, many), what, str(shape), hint)
    for probe in PROBES.values():
        call = lambda p=probe: p(codes, labels, test=(codes, many))  # noqa: E731
        refuses(ValueError, call, f"test {what}", str(shape), hint)


def test_folding_costs_trust_and_tearing_costs_continuity() -> None:
    line = torch.linspace(-1, 1, 200)[:, None]
    folded = metrics.neighbourhood_preservation(line, line.abs() + 1e-6 * line)
    assert folded.trustworthiness < 0.7
    assert folded.continuity > 0.95
    torn = metrics.neighbourhood_preservation(line.abs() + 1e-6 * line, line)
    assert torn.trustworthiness == folded.continuity
    assert torn.continuity == folded.trustworthiness


def test_bad_arguments_are_named(refuses: Refuses) -> None:
    codes, labels = classes()
    for call, *words in (
        (lambda: metrics.linear_probe(codes / 0, labels), "codes: expected finite"),
        (lambda: metrics.linear_probe(codes[:, 0], labels), "codes: expected shape (N, dim)"),
        (
            lambda: metrics.linear_probe(codes, labels[:5]),
            "labels: expected one for each of the 300",
        ),
        (lambda: metrics.linear_probe(codes, labels + 0.5), "labels: expected whole numbers"),
        (lambda: metrics.linear_probe(codes, labels * 0), "labels: expected at least two values"),
        (lambda: metrics.linear_probe(codes, labels, held_out=1.0), "held_out: expected", "1.0"),
        (lambda: metrics.linear_probe(codes, labels, labelled=999), "labelled: expected at most"),
        (lambda: metrics.nearest_neighbours(codes, labels, k=0), "k: expected"),
        (lambda: metrics.nearest_neighbours(codes, labels, k=400), "k: expected at most the 225"),
        (lambda: metrics.silhouette(codes, labels * 0), "labels: expected at least 2"),
        (
            lambda: metrics.neighbourhood_preservation(codes[:9], codes[:9]),
            "neighbours: expected fewer than half",
        ),
        (
            lambda: metrics.neighbourhood_preservation(codes[:9], codes),
            "data: expected one for each of the 300 codes",
        ),
        (
            lambda: metrics.linear_probe(codes, labels, test=(codes[:, :1], labels)),
            "test codes: expected 2 dimensions",
        ),
    ):
        refuses(ValueError, call, *words)


def test_without_scikit_learn_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, refuses: Refuses
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    codes, labels = classes()
    for call in (metrics.linear_probe, metrics.silhouette):
        refuses(ImportError, lambda call=call: call(codes, labels), 'pip install "vaekit[plots]"')


def test_the_split_parts_the_elements() -> None:
    train, test = metrics.split(10, 0.3, seed=0)
    assert len(test) == 3
    assert sorted(np.concatenate([train, test]).tolist()) == list(range(10))
