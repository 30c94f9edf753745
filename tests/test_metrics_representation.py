"""What codes are good for, on codes of which that is known."""

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
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
