"""Scores of disentanglement, on codes whose score is known: perfect, rotated, constant, noise."""

import math
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from codes import ROTATION, columns, grid, variance
from gaussians import seeds
from hypothesis import given
from torch import Tensor

from vaekit.metrics import disentanglement as metrics
from vaekit.metrics.representation import split

sklearn = pytest.importorskip("sklearn")
from sklearn import ensemble, linear_model, neighbors, svm  # noqa: E402

Refuses = Callable[..., Exception]
ON_CODES: dict[str, Callable[..., Any]] = {
    "mig": metrics.mig,
    "sap": metrics.sap,
    "sap of quantities": lambda *args, **kwargs: metrics.sap(*args, continuous=True, **kwargs),
    "dci": metrics.dci,
    "modularity": metrics.modularity,
    "explicitness": metrics.explicitness,
    "irs": metrics.irs,
}
SPLITTING = ("sap", "dci", "explicitness")


def independent(n: int, *sizes: int, dim: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Codes and factors that know nothing of each other."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.rand(n, dim, generator=generator, dtype=torch.double)
    factors = [torch.randint(size, (n,), generator=generator) for size in sizes]
    return codes, torch.stack(factors, 1)


def binary_entropy(p: float) -> float:
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


# Mutual information gap


def test_mig_of_perfect_codes_is_one() -> None:
    factors = grid(2, 3, 5)
    found = metrics.mig(factors.double(), factors)
    entropy = torch.tensor([2.0, 3.0, 5.0]).double().log()
    torch.testing.assert_close(found.entropy, entropy)
    torch.testing.assert_close(found.mutual_information, entropy.diag())
    torch.testing.assert_close(found.by_factor, torch.ones(3).double())
    assert found.score == pytest.approx(1, abs=1e-12)


def test_mig_of_rotated_codes_is_none() -> None:
    factors = grid(2, 2)
    found = metrics.mig(factors.float() @ ROTATION, factors)
    half = 0.5 * math.log(2)  # of a + b, which is 0, 1, 1 or 2, one learns a half of the time
    torch.testing.assert_close(found.mutual_information, torch.full((2, 2), half).double())
    assert found.score == pytest.approx(0, abs=1e-12)


def test_mig_of_half_mixed_codes_is_a_half() -> None:
    factors = grid(2, 2)
    codes = torch.stack([factors[:, 0], factors.sum(1)], 1).float()
    found = metrics.mig(codes, factors)
    torch.testing.assert_close(found.by_factor, torch.tensor([0.5, 0.5]).double())


def test_mig_of_a_code_that_stands_twice_is_none() -> None:
    factors = grid(4, times=5)
    assert metrics.mig(factors.float().repeat(1, 2), factors).score == 0


def test_mig_counts_in_bins_of_equal_width() -> None:
    factors = grid(40, times=2)
    codes = torch.cat([factors.float(), torch.zeros(len(factors), 1)], 1)
    for bins in (20, 40):
        found = metrics.mig(codes, factors, bins=bins)
        assert found.mutual_information[0].item() == pytest.approx(math.log(bins))
        assert found.score == pytest.approx(math.log(bins) / math.log(40))


def test_information_that_is_counted_is_too_high_by_what_is_said() -> None:
    n, sizes, dim = 20_000, (3, 5), 4
    codes, factors = independent(n, *sizes, dim=dim)
    found = metrics.mig(codes, factors)
    freedom = torch.tensor([19.0 * (size - 1) for size in sizes]).double()
    # 2 N times each is chi-squared of that many degrees of freedom (the G-test).
    z = (2 * n * found.mutual_information - freedom) / (2 * freedom).sqrt()
    assert z.abs().max() < 4
    assert abs(z.sum().item()) / math.sqrt(z.numel()) < 4
    assert found.score < 2 * 19 / n  # the gap has hardly any of it


@given(seeds)
def test_mig_does_not_mind_order_and_lies_in_the_unit_interval(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(60, 3, generator=generator)
    factors = grid(3, 4, times=5)
    found = metrics.mig(codes, factors)
    rows = torch.randperm(60, generator=generator)
    turned = metrics.mig(4 * codes[rows].flip(1), factors[rows].flip(1))
    assert 0 <= found.score <= 1
    assert turned.score == pytest.approx(found.score, abs=1e-12)
    table = turned.mutual_information.flip(0, 1)
    torch.testing.assert_close(table, found.mutual_information, rtol=0, atol=1e-12)


# Separated attribute predictability


def test_sap_of_quantities_is_the_gap_of_squared_correlations() -> None:
    factors = grid(3, 3)
    perfect = metrics.sap(factors.float(), factors, continuous=True)
    torch.testing.assert_close(perfect.predictability, torch.eye(2).double())
    assert perfect.score == pytest.approx(1)
    assert perfect.classifier is None
    rotated = metrics.sap(factors.float() @ ROTATION, factors, continuous=True)
    torch.testing.assert_close(rotated.predictability, torch.full((2, 2), 0.5).double())
    assert rotated.score == pytest.approx(0, abs=1e-12)
    codes = torch.stack([factors[:, 0], factors.sum(1)], 1).float()
    assert metrics.sap(codes, factors, continuous=True).score == pytest.approx(0.5)


def test_sap_of_perfect_codes_lacks_chance_only() -> None:
    factors = grid(2, 2, times=300)
    found = metrics.sap(2 * factors.double() - 1, factors)
    assert found.predictability.diag().tolist() == [1, 1]
    other = found.predictability[[0, 1], [1, 0]]
    assert ((other - 0.5).abs() < 4 * 0.5 / 400**0.5).all()  # 400 to test on, a coin each
    torch.testing.assert_close(found.by_factor, 1 - other.flip(0))
    assert found.score == pytest.approx(found.by_factor.mean().item())
    assert found.classifier == (
        "LinearSVC(C=0.01, class_weight='balanced', max_iter=10000, random_state=0)"
    )


def test_sap_of_noise_is_at_chance() -> None:
    codes, factors = independent(1200, 2, 2)
    found = metrics.sap(codes, factors)
    # Factors are coins that no code sees: 400 tosses for each pair, and a gap of two of them.
    assert ((found.predictability - 0.5).abs() < 4 * 0.5 / 400**0.5).all()
    assert found.score < 4 * 0.5 * (2 / 400) ** 0.5


def test_sap_of_quantities_of_noise_is_a_chance_correlation() -> None:
    codes, factors = independent(3000, 5, 7, dim=4)
    found = metrics.sap(codes, factors, continuous=True)
    # N times a squared correlation is chi-squared of one degree: 20 is beyond 1 in 100,000.
    assert found.predictability.max() < 20 / 3000
    assert 0 <= found.score < 20 / 3000


def test_sap_of_rotated_codes_is_that_of_codes_which_tell_as_much() -> None:
    factors = grid(2, 2, times=300)
    codes = (2 * factors.double() - 1) @ ROTATION.double()  # a quarter of the data at each corner
    found = metrics.sap(codes, factors)
    # Each code is 0 for half the data, and there a coin; it tells the other half.
    assert ((found.predictability - 0.75).abs() < 4 * (0.75 * 0.25 / 400) ** 0.5).all()
    assert found.score < 4 * (2 * 0.75 * 0.25 / 400) ** 0.5


def test_sap_weighs_rare_values_as_much_as_common_ones() -> None:
    rows = [(1.0, 1)] * 100 + [(1.0, 0)] * 270 + [(-1.0, 0)] * 630
    code, factor = (torch.tensor(column) for column in zip(*rows, strict=True))
    found = metrics.sap(torch.stack([code, torch.zeros(1000)], 1), factor[:, None])
    # 1 is likelier than not where the code is 1, once both values are made as common.
    _, test = split(1000, 1 / 3, 0)
    right = ((code > 0) == factor)[test].double().mean()
    assert found.predictability[0].item() == right.item()


def test_sap_is_reproducible_to_the_digit_and_follows_the_seed() -> None:
    codes, factors = independent(200, 3, 4, dim=3)
    first, again = (metrics.sap(codes, factors, seed=4) for _ in range(2))
    assert torch.equal(first.predictability, again.predictability)
    other = metrics.sap(codes, factors, seed=5)
    assert not torch.equal(first.predictability, other.predictability)


# Disentanglement, completeness, informativeness


def test_dci_of_perfect_codes_is_one() -> None:
    factors = grid(2, 3, times=30)
    found = metrics.dci(factors.double(), factors)
    torch.testing.assert_close(found.importance, torch.eye(2).double())
    assert found.disentanglement == pytest.approx(1, abs=1e-8)
    assert found.completeness == pytest.approx(1, abs=1e-8)
    assert found.by_factor.tolist() == [1, 1]
    assert found.classifier == "GradientBoostingClassifier(random_state=0)"


def test_dci_of_known_importances() -> None:
    factors = grid(4, 5, times=3)
    mixing = torch.tensor([[3.0, -1.0], [0.0, 2.0]]).double()
    codes = factors.double() @ mixing.inverse()  # so that factors = codes @ mixing
    found = metrics.dci(codes, factors, classifier=linear_model.LinearRegression())
    torch.testing.assert_close(found.importance, mixing.abs())
    disentanglement = 4 / 6 * (1 - binary_entropy(1 / 4)) + 2 / 6
    completeness = 3 / 6 + 3 / 6 * (1 - binary_entropy(1 / 3))
    assert found.disentanglement == pytest.approx(disentanglement, abs=1e-8)
    assert found.completeness == pytest.approx(completeness, abs=1e-8)
    assert found.informativeness == pytest.approx(1)
    assert found.classifier == "LinearRegression()"


def test_entropies_are_in_base_of_factors_and_of_codes() -> None:
    factors = grid(4, 5, times=3)
    # Three codes, each a copy of the sum: the regression gives a third to each.
    codes = factors.sum(1, keepdim=True).double().repeat(1, 3)
    found = metrics.dci(codes, factors, classifier=linear_model.LinearRegression())
    assert found.completeness == pytest.approx(0, abs=1e-8)
    shares = found.importance[0] / found.importance[0].sum()
    assert found.disentanglement == pytest.approx(1 - binary_entropy(shares[0].item()), abs=1e-8)


def test_dci_of_rotated_codes_is_informative_only() -> None:
    factors = grid(4, 4, times=3)
    codes = factors.double() @ ROTATION.double()
    found = metrics.dci(codes, factors, classifier=linear_model.LinearRegression())
    scores = (found.disentanglement, found.completeness, found.informativeness)
    assert scores == pytest.approx((0, 0, 1), abs=1e-8)


def test_dci_of_noise_is_at_chance() -> None:
    codes, factors = independent(1200, 2, 2)
    found = metrics.dci(codes, factors)
    # The factor is a coin that no classifier sees: 400 tosses for each.
    assert ((found.by_factor - 0.5).abs() < 4 * 0.5 / 400**0.5).all()
    assert found.informativeness == pytest.approx(found.by_factor.mean().item())
    assert torch.equal(metrics.dci(codes, factors).importance, found.importance)
    # What boosting makes of noise, it makes of both codes alike.
    assert found.disentanglement < 0.05
    assert found.completeness < 0.05


def test_dci_of_rotated_codes_is_entangled_by_boosting_too() -> None:
    factors = grid(4, 4, times=20)
    found = metrics.dci(factors.double() @ ROTATION.double(), factors)
    assert found.informativeness > 0.95
    assert found.disentanglement < 0.1
    assert found.completeness < 0.1


def test_dci_of_a_classifier_with_coefficients_of_each_class() -> None:
    factors = grid(3, 3, times=8)
    codes = torch.cat([factors.double(), torch.zeros(len(factors), 1)], 1)
    found = metrics.dci(codes, factors, classifier=linear_model.LogisticRegression())
    assert found.importance.shape == (3, 2)
    assert found.importance[2].tolist() == [0, 0]
    assert (found.importance[:2].argmax(0) == torch.arange(2)).all()


def test_dci_needs_a_classifier_that_says_what_matters(refuses: Refuses) -> None:
    factors = grid(3, 3, times=8)
    nearest = neighbors.KNeighborsClassifier()
    call = lambda: metrics.dci(factors.float(), factors, classifier=nearest)  # noqa: E731
    refuses(TypeError, call, "classifier", "feature_importances_", "KNeighborsClassifier()")


# Modularity and explicitness


def test_modularity_of_known_codes() -> None:
    factors = grid(2, 2)
    assert metrics.modularity(factors.float(), factors).score == pytest.approx(1)
    rotated = metrics.modularity(factors.float() @ ROTATION, factors)
    assert rotated.score == pytest.approx(0, abs=1e-12)
    codes = torch.stack([factors[:, 0], factors.sum(1)], 1).float()
    found = metrics.modularity(codes, factors)
    torch.testing.assert_close(found.by_code, torch.tensor([1.0, 0.0]).double())
    three = grid(2, 2, 2)
    sum_of_two = three[:, :2].sum(1, keepdim=True).float()  # one other of two
    assert metrics.modularity(sum_of_two, three).score == pytest.approx(0.5)


def test_modularity_of_a_code_that_is_exactly_independent_is_none() -> None:
    hidden = grid(7, 3, 4)
    found = metrics.modularity(hidden[:, :1].float(), hidden[:, 1:])
    assert found.by_code.tolist() == [0]
    assert found.mutual_information.tolist() == [[0, 0]]


def test_modularity_of_noise_is_what_the_numbers_of_values_make_of_it() -> None:
    """Counted information of independent columns is a chi-squared variable over twice N."""
    generator = torch.Generator().manual_seed(1)
    n, dim, sizes = 6000, 400, (3, 9)
    codes = torch.rand(n, dim, generator=generator)
    factors = torch.stack([torch.randint(k, (n,), generator=generator) for k in sizes], 1)
    found = metrics.modularity(codes, factors)
    few, many = (19 * (k - 1) for k in sizes)  # degrees of freedom, of 20 bins
    expected = 1 - few * (few + 2) / ((many - 2) * (many - 4))
    error = found.by_code.std().item() / math.sqrt(dim)
    assert abs(found.score - expected) < 4 * error
    assert found.score > 0.9  # as if it were all but perfect


def test_explicitness_of_perfect_codes_is_one_and_of_constant_ones_a_half() -> None:
    factors = grid(2, 3, times=20)
    perfect = metrics.explicitness(factors.double(), factors)
    assert perfect.by_factor.tolist() == [1, 1]
    assert perfect.classifier == "LogisticRegression(max_iter=10000)"
    rotated = metrics.explicitness(factors.double() @ ROTATION.double(), factors)
    assert rotated.score == 1  # an inverse mixing is linear
    constant = metrics.explicitness(torch.full((120, 2), 3.0), factors)
    assert constant.by_factor.tolist() == [0.5, 0.5]


def test_explicitness_of_noise_is_a_half() -> None:
    codes, factors = independent(3000, 2, dim=1)
    found = metrics.explicitness(codes, factors)
    _, test = split(3000, 1 / 3, 0)
    ones = int(factors[test].sum())
    # The area is the Mann-Whitney statistic, whose variance is known.
    error = math.sqrt((1000 + 1) / (12 * ones * (1000 - ones)))
    assert abs(found.score - 0.5) < 4 * error


def test_explicitness_leaves_out_values_that_one_part_lacks() -> None:
    factors = grid(2, times=30)
    factors[0] = 2  # once
    for seed in range(20):
        train, test = split(60, 1 / 3, seed)
        found = metrics.explicitness(factors.double().abs(), factors, seed=seed)
        assert (0 in train) != (0 in test)
        assert 0.5 < found.score <= 1
    assert {0 in split(60, 1 / 3, seed)[1] for seed in range(20)} == {True, False}


# Interventional robustness


def test_irs_of_perfect_codes_is_one_and_of_rotated_ones_a_half() -> None:
    factors = grid(4, 5)
    found = metrics.irs(factors.float(), factors)
    assert found.score == 1
    torch.testing.assert_close(found.deviation, torch.tensor([1.5, 2.0]).double())
    signs = grid(2, 2)
    rotated = metrics.irs((2 * signs - 1).float() @ ROTATION, signs)  # +-1 about the mean, of +-2
    torch.testing.assert_close(rotated.robustness, torch.full((2, 2), 0.5).double())
    assert rotated.score == pytest.approx(0.5)


def test_irs_makes_factors_of_many_values_coarser() -> None:
    factors = grid(40)
    assert metrics.irs(factors.float(), factors).score == pytest.approx(1 - 0.5 / 19.5)
    assert metrics.irs(factors.float(), factors, bins=40).score == 1


def test_irs_of_what_the_factors_do_not_touch_is_none_and_spread_weighs() -> None:
    hidden = grid(4, 4)
    codes = hidden * torch.tensor([10.0, 1.0])
    found = metrics.irs(codes, hidden[:, :1], quantile=1)
    torch.testing.assert_close(found.robustness, torch.tensor([[1.0], [0.0]]).double())
    assert found.score == pytest.approx(15 / 16.5)


def test_irs_of_noise_is_that_of_its_tails() -> None:
    even, factors = independent(20_000, 2, 3, dim=4)
    assert metrics.irs(even, factors).score == pytest.approx(0.01, abs=0.005)
    gaussian = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    tails = 1 - 2.5758 / gaussian.abs().max(0).values  # 1 in 100 of a Gaussian lies beyond
    found = metrics.irs(gaussian, factors).by_code
    torch.testing.assert_close(found, tails.double(), rtol=0, atol=0.03)
    assert found.min() > 0.3


def test_irs_takes_the_quantile_of_deviations() -> None:
    hidden = grid(101, 2)  # deviations of 0, and twice each of 1 to 50, in either half
    found = metrics.irs(hidden[:, :1].float(), hidden[:, 1:], quantile=0.5)
    assert found.score == pytest.approx(1 - 25 / 50)


# Plain versions, which every score on codes and factors equals to rounding

PART = 1 / 3  # what is held out by default


def partly(n: int = 240, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Codes that tell a part: one each of noise, of two factors, of many values, and a constant."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (2, 3, 4)
    factors = torch.stack([torch.randint(k, (n,), generator=generator) for k in sizes], 1)
    drawn = torch.randn(n, 5, generator=generator, dtype=torch.double)
    codes = torch.stack(
        [
            factors[:, 0] + 0.3 * drawn[:, 0],
            factors[:, 1] - 0.7 * factors[:, 0] + 0.5 * drawn[:, 1],
            drawn[:, 2],
            torch.full((n,), 0.1).double(),
            factors[:, 2].sqrt() + 0.4 * drawn[:, 4],
        ],
        1,
    )
    return codes, factors


def bin_of(value: float, among: list[float], bins: int = 20) -> int:
    low, high = min(among), max(among)
    return sum(value >= low + i * (high - low) / bins for i in range(1, bins)) if high > low else 0


def information(one: list[int], other: list[int]) -> float:
    """In nats, by counting how often values meet and how often they would by chance."""
    n, total = len(one), 0.0
    for (a, b), together in Counter(zip(one, other, strict=True)).items():
        total += together / n * math.log(together * n / (one.count(a) * other.count(b)))
    return total


def table_of_information(codes: Tensor, factors: Tensor) -> list[list[float]]:
    binned = [[bin_of(value, code) for value in code] for code in columns(codes)]
    return [[information(code, factor) for factor in columns(factors)] for code in binned]


def mean_gap(table: list[list[float]], scales: list[float]) -> float:
    """The best less the second best of each column, over its scale."""
    gaps = []
    for column, scale in zip(zip(*table, strict=True), scales, strict=True):
        second, best = sorted(column)[-2:]
        gaps.append((best - second) / scale)
    return sum(gaps) / len(gaps)


def plain_mig(codes: Tensor, factors: Tensor) -> float:
    entropies = [information(factor, factor) for factor in columns(factors)]
    return mean_gap(table_of_information(codes, factors), entropies)


def plain_modularity(codes: Tensor, factors: Tensor) -> float:
    scores = []
    for row in table_of_information(codes, factors):
        own = row.index(max(row))
        others = sum(value**2 for f, value in enumerate(row) if f != own)
        scores.append(1 - others / (row[own] ** 2 * (len(row) - 1)) if row[own] > 1e-12 else 0)
    return sum(scores) / len(scores)


def correlation_squared(one: list[float], other: list[float]) -> float:
    a, b = sum(one) / len(one), sum(other) / len(other)
    together = sum((x - a) * (y - b) for x, y in zip(one, other, strict=True))
    own, its = sum((x - a) ** 2 for x in one), sum((y - b) ** 2 for y in other)
    return together**2 / (own * its) if own / (len(one) - 1) > 1e-12 else 0.0


def plain_sap_of_quantities(codes: Tensor, factors: Tensor) -> float:
    table = [[correlation_squared(z, v) for v in columns(factors)] for z in columns(codes)]
    return mean_gap(table, [1.0] * factors.shape[1])


def rights(classifier: Any, codes: list[list[float]], factor: list[int]) -> list[bool]:
    """Train a classifier on one part, and say for each of the other whether it is right."""
    train, test = (part.tolist() for part in split(len(codes), PART, 0))
    classifier.fit([codes[i] for i in train], [factor[i] for i in train])
    said = classifier.predict([codes[i] for i in test])
    return [guess == factor[i] for guess, i in zip(said.tolist(), test, strict=True)]


def share(values: list[bool]) -> float:
    return sum(values) / len(values)


def error_of_mean(values: list[float]) -> float:
    return (variance(values) / len(values)) ** 0.5


def plain_rights_of_sap(codes: Tensor, factors: Tensor) -> list[list[list[bool]]]:
    table = []
    for code in columns(codes):
        # A machine that sees a constant c may prefer any value to another; one of 0 is the rule.
        seen = [[0.0 if min(code) == max(code) else value] for value in code]
        machine = svm.LinearSVC(C=0.01, class_weight="balanced", random_state=0, max_iter=10_000)
        table.append([rights(machine, seen, factor) for factor in columns(factors)])
    return table


def plain_sap(codes: Tensor, factors: Tensor) -> float:
    table = [[share(cell) for cell in row] for row in plain_rights_of_sap(codes, factors)]
    return mean_gap(table, [1.0] * factors.shape[1])


def plain_dci(codes: Tensor, factors: Tensor) -> tuple[float, float, float]:
    by_factor, right = [], []
    for factor in columns(factors):
        trees = ensemble.GradientBoostingClassifier(random_state=0)
        right.append(share(rights(trees, codes.tolist(), factor)))
        by_factor.append(trees.feature_importances_.tolist())

    def concentrated(groups: list[list[float]]) -> float:
        score, whole = 0.0, sum(map(sum, groups))
        for group in groups:
            shares = [(value + 1e-11) / (sum(group) + 1e-11 * len(group)) for value in group]
            entropy = -sum(share * math.log(share, len(group)) for share in shares)
            score += sum(group) / whole * (1 - entropy)
        return score

    by_code = [list(row) for row in zip(*by_factor, strict=True)]
    return concentrated(by_code), concentrated(by_factor), sum(right) / len(right)


def plain_explicitness(codes: Tensor, factors: Tensor) -> float:
    train, test = (part.tolist() for part in split(len(codes), PART, 0))
    standardised = []
    for code in columns(codes):
        mean = sum(code[i] for i in train) / len(train)
        spread = (sum((code[i] - mean) ** 2 for i in train) / len(train)) ** 0.5
        standardised.append([(value - mean) / (spread if spread > 1e-9 else 1) for value in code])
    rows = [list(row) for row in zip(*standardised, strict=True)]
    scores = []
    for factor in columns(factors):
        regression = linear_model.LogisticRegression(max_iter=10_000)
        regression.fit([rows[i] for i in train], [factor[i] for i in train])
        chances = regression.predict_proba([rows[i] for i in test])
        areas = []
        for k, value in enumerate(regression.classes_):
            of = [chance[k] for chance, i in zip(chances, test, strict=True) if factor[i] == value]
            rest = [c[k] for c, i in zip(chances, test, strict=True) if factor[i] != value]
            won = sum((a > b) + (a == b) / 2 for a in of for b in rest)
            areas.append(won / (len(of) * len(rest)))
        scores.append(sum(areas) / len(areas))
    return sum(scores) / len(scores)


def plain_irs(codes: Tensor, factors: Tensor) -> float:
    weighted = weights = 0.0
    for code in columns(codes):
        if min(code) == max(code):
            continue
        mean = sum(code) / len(code)
        deviation = max(abs(z - mean) for z in code)
        robust = []
        for factor in columns(factors):
            coarse, tails = [bin_of(value, factor) for value in factor], []
            for value in set(coarse):
                same = [z for z, v in zip(code, coarse, strict=True) if v == value]
                around = sorted(abs(z - sum(same) / len(same)) for z in same)
                place = 0.99 * (len(around) - 1)
                low, high = around[int(place)], around[math.ceil(place)]
                tails.append(low + (place - int(place)) * (high - low))
            robust.append(1 - sum(tails) / len(tails) / deviation)
        weighted += deviation * max(robust)
        weights += deviation
    return weighted / weights


PLAIN: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mig": plain_mig,
    "sap": plain_sap,
    "sap of quantities": plain_sap_of_quantities,
    "dci": plain_dci,
    "modularity": plain_modularity,
    "explicitness": plain_explicitness,
    "irs": plain_irs,
}


@pytest.mark.parametrize("name", ON_CODES)
def test_a_score_equals_the_plain_version_of_it(name: str) -> None:
    codes, factors = partly()
    found, plain = ON_CODES[name](codes, factors), PLAIN[name](codes, factors)
    first = tuple(found[:3]) if name == "dci" else found[0]
    assert first == pytest.approx(plain, rel=1e-12, abs=1e-12)
    assert 0.02 < found[0] < 0.98  # the codes tell a part


def test_factors_of_more_values_than_bins_are_coarse_in_both() -> None:
    codes, factors = independent(300, 24, 3)
    codes = codes + factors / 20
    assert len(factors[:, 0].unique()) == 24
    assert metrics.irs(codes, factors).score == pytest.approx(plain_irs(codes, factors), rel=1e-12)
    found = metrics.mig(codes, factors)
    assert found.score == pytest.approx(plain_mig(codes, factors), rel=1e-12)


# Standard errors


def half_told(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Codes of which the first and the second best of every factor are clear, in every sample."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.stack([torch.randint(k, (n,), generator=generator) for k in (2, 3, 4)], 1)
    first, second, third = factors.double().T
    means = [first + second / 2, second - 0.7 * first + third / 3, third - first / 2]
    spread = torch.tensor([1.0, 1.0, 2.0]).double()
    drawn = torch.rand(n, 3, generator=generator, dtype=torch.double)
    return torch.stack(means, 1) + spread * drawn, factors


@pytest.mark.parametrize("name", ["mig", "sap of quantities", "modularity"])
def test_standard_errors_are_the_spread_over_other_samples(name: str) -> None:
    repetitions = 100
    found = [ON_CODES[name](*half_told(500, seed)) for seed in range(repetitions)]
    said = torch.tensor([each.standard_error**2 for each in found]).mean().item()
    spread = variance([each.score for each in found])
    # A variance of R normal values has itself times the root of 2 / (R - 1) for its error.
    assert abs(spread / said - 1) < 4 * (2 / (repetitions - 1)) ** 0.5


def test_the_error_of_sap_holds_both_codes_to_the_same_elements() -> None:
    codes, factors = partly()
    table = plain_rights_of_sap(codes, factors)
    gaps = [0.0] * len(table[0][0])
    for f in range(3):
        by_share = sorted((row[f] for row in table), key=share)
        for i, (best, second) in enumerate(zip(by_share[-1], by_share[-2], strict=True)):
            gaps[i] += (best - second) / 3
    found = metrics.sap(codes, factors)
    assert found.score == pytest.approx(sum(gaps) / len(gaps))
    assert found.standard_error == pytest.approx(error_of_mean(gaps), rel=1e-12)


def test_the_error_of_informativeness_is_that_of_a_mean_over_elements() -> None:
    codes, factors = partly()
    regression = linear_model.LogisticRegression()
    found = metrics.dci(codes, factors, classifier=regression)
    right = [rights(regression, codes.tolist(), factor) for factor in columns(factors)]
    means = [sum(each) / 3 for each in zip(*right, strict=True)]
    assert found.informativeness == pytest.approx(sum(means) / len(means))
    assert found.informativeness_error == pytest.approx(error_of_mean(means), rel=1e-12)
    line = metrics.dci(codes, factors, classifier=linear_model.LinearRegression())
    assert math.isnan(line.informativeness_error)


def test_the_error_of_an_area_is_that_of_its_parts() -> None:
    codes, factors = partly()
    factors = factors[:, :1]  # of two values
    found = metrics.explicitness(codes, factors)
    train, test = split(len(codes), PART, 0)
    mean, spread = codes[train].mean(0), codes[train].std(0, correction=0)
    x = ((codes - mean) / spread.where(spread > 1e-9, 1)).numpy()
    regression = linear_model.LogisticRegression(max_iter=10_000)
    regression.fit(x[train], factors[train, 0])
    chance = regression.predict_proba(x[test])[:, 1].tolist()
    truth = factors[test, 0].tolist()
    ones = [c for c, v in zip(chance, truth, strict=True) if v == 1]
    zeros = [c for c, v in zip(chance, truth, strict=True) if v == 0]
    won = [[(a > b) + (a == b) / 2 for b in zeros] for a in ones]
    of_ones = [sum(row) / len(zeros) for row in won]
    of_zeros = [sum(column) / len(ones) for column in zip(*won, strict=True)]
    assert found.score == pytest.approx(sum(of_ones) / len(ones))
    delong = variance(of_ones) / len(ones) + variance(of_zeros) / len(zeros)
    assert found.standard_error**2 == pytest.approx(delong, rel=3 / min(len(ones), len(zeros)))


def test_the_error_of_explicitness_is_that_of_leaving_each_element_out() -> None:
    """Over factors of several values: the jackknife of the same classifiers' answers."""
    codes, factors = partly(1500)
    found = metrics.explicitness(codes, factors)
    train, test = split(len(codes), PART, 0)
    mean, spread = codes[train].mean(0), codes[train].std(0, correction=0)
    x = ((codes - mean) / spread.where(spread > 1e-9, 1)).numpy()
    regression = linear_model.LogisticRegression(max_iter=10_000)
    n, curves, left_out = len(test), 0, torch.zeros(len(test), dtype=torch.double)
    for factor in factors.T:
        chances = torch.from_numpy(regression.fit(x[train], factor[train]).predict_proba(x[test]))
        values = factor.unique()
        for chance, value in zip(chances.T, values, strict=True):
            inside = factor[test] == value
            a, b = chance[inside], chance[~inside]
            won = (a[:, None] > b).double() + (a[:, None] == b).double() / 2
            area = torch.empty(n, dtype=torch.double)
            area[inside] = (won.sum() - won.sum(1)) / ((len(a) - 1) * len(b))
            area[~inside] = (won.sum() - won.sum(0)) / (len(a) * (len(b) - 1))
            left_out += area / len(values) / len(factors.T)
            curves += 1
    assert curves == 9
    squares = (left_out - left_out.mean()).square().sum().item()
    smallest = min(Counter(factors[test, 2].tolist()).values())
    assert smallest > 90
    assert found.standard_error**2 == pytest.approx((n - 1) / n * squares, rel=3 / smallest)


def test_perfect_codes_have_no_error() -> None:
    factors = grid(3, 4, times=20)
    for name in ("mig", "sap of quantities", "modularity", "explicitness"):
        error = ON_CODES[name](factors.double(), factors).standard_error
        assert error == pytest.approx(0, abs=1e-12), name
    assert metrics.dci(factors.double(), factors).informativeness_error == 0


# What all scores on codes share


@pytest.mark.parametrize("name", ON_CODES)
def test_constant_codes_have_a_score(name: str) -> None:
    factors = grid(3, 4, times=10)
    codes = torch.tensor([0.1, -3.0, 0.0]).expand(120, 3)
    found = ON_CODES[name](codes, factors)
    known = {"dci": (0, 0), "explicitness": (0.5,)}.get(name, (0,))
    assert tuple(found[: len(known)]) == known
    if name == "dci":
        train, test = split(120, 1 / 3, 0)
        share = [(v[test] == v[train].mode().values).double().mean() for v in factors.T]
        torch.testing.assert_close(found.by_factor, torch.stack(share))


@pytest.mark.parametrize("name", ON_CODES)
def test_arrays_have_the_scores_of_tensors(name: str) -> None:
    codes, factors = partly(120)
    arrays: Any = codes.numpy(), factors.numpy()
    found = ON_CODES[name](*arrays)
    assert found[0] == ON_CODES[name](codes, factors)[0]
    assert "\n" not in repr(found)


@pytest.mark.parametrize("name", ON_CODES)
def test_one_constant_code_among_others_makes_no_nan(name: str) -> None:
    codes, factors = independent(120, 3, 4)
    codes = torch.cat([codes, torch.full((120, 1), 0.1).double()], 1)
    for part in ON_CODES[name](codes, factors):
        if isinstance(part, float | Tensor):
            assert torch.as_tensor(part).isfinite().all()


@pytest.mark.parametrize("name", ON_CODES)
def test_the_same_call_gives_the_same_digits_wherever_codes_are(
    name: str, device: torch.device
) -> None:
    codes, factors = independent(120, 3, 4, dim=3)
    codes = codes.float()
    before = torch.get_rng_state()
    first = ON_CODES[name](codes, factors)
    again = ON_CODES[name](codes.to(device).requires_grad_(), factors.to(device).float())
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


@pytest.mark.parametrize("name", ON_CODES)
def test_what_cannot_be_scored_is_refused_in_one_sentence(name: str, refuses: Refuses) -> None:
    score = ON_CODES[name]
    codes, factors = independent(60, 3, 4)

    def with_(place: tuple[int, int], value: float) -> Tensor:
        changed = codes.clone()
        changed[place] = value
        return changed

    refuses(ValueError, lambda: score(with_((3, 1), math.nan), factors), "codes", "1 NaN")
    refuses(ValueError, lambda: score(with_((3, 1), math.inf), factors), "codes", "1 infinite")
    refuses(ValueError, lambda: score(codes[0], factors), "codes", "(N, dim)", "(2,)")
    refuses(ValueError, lambda: score(codes[:0], factors[:0]), "codes", "(0, 2)")
    refuses(ValueError, lambda: score(codes, factors[:-1]), "factors", "(60, factors)", "(59, 2)")
    refuses(ValueError, lambda: score(codes, factors[:, 0]), "factors", "(60,)")
    refuses(ValueError, lambda: score(codes, factors + 0.5), "factors", "whole numbers")
    one = torch.stack([factors[:, 0], torch.ones(60, dtype=torch.long)], 1)
    refuses(ValueError, lambda: score(codes, one), "factors", "two values", "[1]", "out")
    if name in SPLITTING:
        few = "held_out", "two elements"
        refuses(ValueError, lambda: score(codes[:4], grid(2, 2)), *few)
        refuses(ValueError, lambda: score(codes, factors, held_out=1), "held_out", "0 and 1")
        rare = torch.zeros(60, 2, dtype=torch.long)
        rare[split(60, 1 / 3, 0)[1][0]] = 1
        words = "factors", "among the 40 elements to train on", "[0, 1]"
        refuses(ValueError, lambda: score(codes, rare), *words)


def test_too_few_codes_or_factors_are_refused(refuses: Refuses) -> None:
    codes, factors = independent(60, 3, 4)
    for name in ("mig", "sap", "sap of quantities", "dci"):
        call = lambda name=name: ON_CODES[name](codes[:, :1], factors)  # noqa: E731
        refuses(ValueError, call, "codes: expected at least 2 columns, got 1")
    for name in ("dci", "modularity"):
        call = lambda name=name: ON_CODES[name](codes, factors[:, :1])  # noqa: E731
        refuses(ValueError, call, "factors: expected at least 2 columns, got 1")
    refuses(ValueError, lambda: metrics.mig(codes, factors, bins=0), "bins", "0")
    refuses(ValueError, lambda: metrics.irs(codes, factors, quantile=1.5), "quantile", "1.5")


def test_explicitness_needs_two_values_to_test_on(refuses: Refuses) -> None:
    codes, factors = torch.rand(60, 2), torch.zeros(60, 1, dtype=torch.long)
    factors[split(60, 1 / 3, 0)[0][0]] = 1
    refuses(ValueError, lambda: metrics.explicitness(codes, factors), "factors", "column 0")


def test_a_factor_of_a_few_elements_makes_no_warning() -> None:
    codes, factors = independent(12, 2, 2)  # 12 values in 20 bins
    assert 0 <= metrics.mig(codes, factors).score <= 1


@pytest.mark.parametrize("name", [name for name in ON_CODES if name != "irs"])
def test_without_scikit_learn_the_extra_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, refuses: Refuses
) -> None:
    if name == "sap of quantities":
        pytest.skip("needs none")
    for module in [module for module in sys.modules if module.split(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, module, None)
    codes, factors = independent(60, 3, 4)
    words = ("needs scikit-learn", 'pip install "vaekit[plots]"')
    refuses(ImportError, lambda: ON_CODES[name](codes, factors), *words)
