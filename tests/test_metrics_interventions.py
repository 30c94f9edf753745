"""Scores on data that are made to order, of codes whose score is known."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from codes import ROTATION, columns, grid, variance
from gaussians import seeds
from hypothesis import given, settings
from torch import Tensor

from vaekit.datasets import sprites
from vaekit.metrics import interventions as metrics
from vaekit.metrics import mig

linear_model = pytest.importorskip("sklearn.linear_model")
Refuses = Callable[..., Exception]


class Made:
    """Data that are their own factors."""

    def __init__(self, *sizes: int) -> None:
        self.factor_sizes = sizes

    def images(self, indices: Tensor) -> Tensor:
        return indices.double()


def same(x: Tensor) -> Tensor:
    return x


def noise(dim: int) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    return lambda x: torch.randn(len(x), dim, generator=generator)


class Recording(Made):
    """Data that remember which factors they were made of, call by call."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.drawn: list[Tensor] = []

    def images(self, indices: Tensor) -> Tensor:
        self.drawn.append(indices)
        return super().images(indices)


def entangled(x: Tensor) -> Tensor:
    """Codes of which one is a factor, one a mixture, one of two others, and one hardly varies."""
    first, second, third = x.T
    turned = [first, first + 0.5 * second, (second * third).sqrt(), 0.001 * third]
    return torch.stack(turned, 1)


def test_the_score_of_factor_vae_equals_a_plain_count_of_the_same_draws() -> None:
    data, train, test, batch = Recording(7, 8, 9), 60, 50, 16
    options = {"train": train, "test": test, "batch": batch, "variance_of": 200}
    found = metrics.factor_vae_score(data, entangled, **options, chunk=100)
    drawn = torch.cat(data.drawn)
    assert len(drawn) == 200 + (train + test) * batch
    over_all = [variance(code) for code in columns(entangled(drawn[:200].double()))]
    votes = []
    for start in range(200, len(drawn), batch):
        indices = drawn[start : start + batch]
        (fixed,) = (f for f in range(3) if len(set(indices[:, f].tolist())) == 1)
        ratios = [
            variance(code) / whole if whole**0.5 >= 0.05 else math.inf
            for code, whole in zip(columns(entangled(indices.double())), over_all, strict=True)
        ]
        votes.append((ratios.index(min(ratios)), fixed))
    counts = [[votes[:train].count((j, f)) for f in range(3)] for j in range(4)]
    assert found.votes.tolist() == counts
    assert found.active.tolist() == [True, True, True, False]
    right = [counts[j].index(max(counts[j])) == f for j, f in votes[train:]]
    share = sum(right) / test
    assert 0.5 < share < 1
    assert found.score.mean == pytest.approx(share)
    assert found.score.standard_error == pytest.approx((share * (1 - share) / (test - 1)) ** 0.5)


def test_the_score_of_beta_vae_equals_a_plain_count_of_the_same_draws() -> None:
    data, train, test, batch = Recording(7, 8, 9), 60, 50, 16
    options = {"train": train, "test": test, "batch": batch}
    found = metrics.beta_vae_score(data, entangled, **options, chunk=10**6)
    sets, common = [], []
    for ones, others in (data.drawn[:2], data.drawn[2:]):
        for start in range(0, len(ones), batch):
            one, other = ones[start : start + batch], others[start : start + batch]
            shared = [f for f in range(3) if (one[:, f] == other[:, f]).all()]
            assert len(shared) == 1
            pairs = zip(*(entangled(x.double()).tolist() for x in (one, other)), strict=True)
            apart = [[abs(a - b) for a, b in zip(*pair, strict=True)] for pair in pairs]
            sets.append([sum(code) / batch for code in zip(*apart, strict=True)])
            common += shared
    assert len(sets) == train + test
    regression = linear_model.LogisticRegression(max_iter=10_000)
    regression.fit(sets[:train], common[:train])
    share = sum(regression.predict(sets[train:]) == common[train:]) / test
    assert 0.5 < share < 1
    assert found.score.mean == pytest.approx(share)
    assert found.train_accuracy == regression.score(sets[:train], common[:train])


def test_the_score_of_factor_vae_of_perfect_codes_is_one() -> None:
    found = metrics.factor_vae_score(Made(3, 4, 5), same, train=300, test=200)
    assert found.score == (1, 0)
    assert found.votes.sum() == 300
    assert torch.equal(found.votes, found.votes.diag().diag())
    # Which factor is fixed is drawn evenly.
    assert ((found.votes.diag() - 100) / (300 * 2 / 9) ** 0.5).abs().max() < 4


def test_a_vote_is_by_variance_relative_to_that_over_all_data() -> None:
    draw = noise(2)

    def representation(x: Tensor) -> Tensor:  # the least variance alone is always the second's
        return x * torch.tensor([100.0, 1.0]) + draw(x) * torch.tensor([5.0, 0.01])

    assert metrics.factor_vae_score(Made(5, 5), representation, train=50, test=100).score.mean == 1


def test_the_score_of_factor_vae_of_noise_is_at_chance() -> None:
    found = metrics.factor_vae_score(
        Made(3, 4, 5), noise(4), train=300, test=1000, batch=8, variance_of=1000
    )
    assert abs(found.score.mean - 1 / 3) < 4 * (2 / 9 / 1000) ** 0.5
    p = found.score.mean
    assert found.score.standard_error == pytest.approx((p * (1 - p) / 999) ** 0.5)


def test_the_score_of_factor_vae_of_rotated_codes_is_at_chance() -> None:
    def rotated(x: Tensor) -> Tensor:  # of which both vary alike, whichever factor is fixed
        return (2 * x - 1) @ ROTATION.to(x)

    found = metrics.factor_vae_score(Made(2, 2), rotated, train=100, test=1000)
    assert abs(found.score.mean - 1 / 2) < 4 * (1 / 4 / 1000) ** 0.5


def test_a_code_that_hardly_varies_has_no_vote_and_a_factor_of_one_value_is_not_asked_for() -> None:
    def representation(x: Tensor) -> Tensor:
        return x * torch.tensor([1.0, 1.0, 0.001, 1.0])

    found = metrics.factor_vae_score(Made(1, 3, 3, 3), representation, train=90, test=60)
    assert found.active.tolist() == [False, True, False, True]
    assert found.votes[:, 0].tolist() == found.votes[0].tolist() == [0, 0, 0, 0]
    assert found.votes[2].sum() == 0
    asked = metrics.factor_vae_score(
        Made(1, 3, 3, 3), representation, train=90, test=60, least_deviation=0
    )
    assert asked.active.tolist() == [False, True, True, True]
    assert asked.score.mean == 1


def test_constant_codes_have_no_score_of_factor_vae() -> None:
    found = metrics.factor_vae_score(Made(3, 3), lambda x: torch.ones(len(x), 2))
    assert found.score == (0, 0)
    assert not found.active.any()


def test_the_score_of_beta_vae_of_perfect_codes_is_one() -> None:
    found = metrics.beta_vae_score(Made(3, 4, 5), same, train=300, test=200)
    assert found.score == (1, 0)
    assert found.train_accuracy == 1
    assert found.classifier == "LogisticRegression(max_iter=10000)"


def test_pairs_have_exactly_one_factor_in_common() -> None:
    data = Recording(1, 30, 30, 30)
    metrics.beta_vae_score(data, same, train=50, test=20, chunk=10**6)
    drawn = data.drawn
    for one, other in (drawn[:2], drawn[2:]):
        equal = (one == other).unflatten(0, (-1, 64)).all(1)
        assert equal.sum(1).tolist() == [2] * len(equal)  # that of one value, and another
        sets = one.unflatten(0, (-1, 64))
        assert not (sets == sets[:, :1]).all(1)[:, 1:].any()
    assert len(drawn) == 4


@pytest.mark.parametrize("code", ["rotated", "constant", "noise"])
def test_the_score_of_beta_vae_is_at_chance(code: str) -> None:
    representation = {
        "rotated": lambda x: x @ ROTATION.to(x),  # differences alike, whichever is in common
        "constant": lambda x: torch.ones(len(x), 2),
        "noise": noise(2),
    }[code]
    found = metrics.beta_vae_score(Made(2, 2), representation, train=300, test=1000, batch=8)
    assert abs(found.score.mean - 1 / 2) < 4 * (1 / 4 / 1000) ** 0.5


@settings(max_examples=5)
@given(seeds)
def test_scores_follow_the_seed_and_not_the_chunk(seed: int) -> None:
    data, options = Made(3, 4), {"train": 60, "test": 40, "batch": 4, "seed": seed}

    def mixed(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0] + x[:, 1], x[:, 0] * x[:, 1]], 1)

    before = torch.get_rng_state()
    one = metrics.factor_vae_score(data, mixed, **options)
    other = metrics.factor_vae_score(data, mixed, **options, chunk=7)
    assert one.score == other.score
    assert torch.equal(one.votes, other.votes)
    differences = [metrics.beta_vae_score(data, mixed, **options, chunk=n) for n in (7, 4096)]
    assert differences[0] == differences[1]
    codes = [metrics.encode_factors(data, mixed, 50, seed=seed, chunk=n)[0] for n in (7, 4096)]
    assert torch.equal(*codes)
    assert torch.equal(torch.get_rng_state(), before)


def test_factors_are_drawn_evenly_and_those_of_one_value_left_out() -> None:
    codes, factors = metrics.encode_factors(Made(1, 3, 4), same, 6000)
    assert torch.equal(codes[:, 1:], factors.double())
    counts = torch.stack([(factors == v).all(1).sum() for v in grid(3, 4)])
    chi_squared = ((counts - 500).square() / 500).sum().item()
    assert abs(chi_squared - 11) < 4 * 22**0.5
    assert mig(codes, factors).score > 0.99


def test_data_made_to_order_are_encoded_on_the_device(device: torch.device) -> None:
    found = metrics.factor_vae_score(
        Made(3, 4), lambda x: x.float(), train=20, test=10, device=device
    )
    assert found.score.mean == 1
    assert found.votes.device.type == "cpu"


@pytest.mark.parametrize("score", [metrics.factor_vae_score, metrics.beta_vae_score])
def test_what_cannot_be_made_to_order_is_refused(
    score: Callable[..., Any], refuses: Refuses
) -> None:
    data = Made(3, 4)
    refuses(TypeError, lambda: score(torch.zeros(3), same), "data", "factor_sizes", "Tensor")
    refuses(ValueError, lambda: score(Made(1, 4), same), "data", "two factors", "(1, 4)")
    refuses(ValueError, lambda: score(Made(3, 0), same), "factor_sizes", "0")
    refuses(ValueError, lambda: score(data, lambda x: x * math.nan), "representation", "NaN")
    refuses(ValueError, lambda: score(data, lambda x: x[:, 0], train=5), "representation", "dim")
    refuses(ValueError, lambda: score(data, lambda x: 3, train=5), "representation", "int")
    refuses(ValueError, lambda: score(data, same, train=0), "train", "0")
    refuses(ValueError, lambda: score(data, same, train=50, test=1), "test", "at least 2")
    refuses(ValueError, lambda: score(data, same, batch=0), "batch", "0")
    refuses(ValueError, lambda: score(data, same, chunk=0), "chunk", "0")


def test_too_few_votes_are_refused(refuses: Refuses) -> None:
    factor_vae = partial(metrics.factor_vae_score, Made(3, 4), same)
    refuses(ValueError, lambda: factor_vae(batch=1), "batch", "2")
    refuses(ValueError, lambda: factor_vae(least_deviation=-1), "least_deviation", "-1")
    # Two votes are for the same factor at every second seed.
    beta_vae = partial(metrics.beta_vae_score, Made(3, 4), same, train=2, test=2)
    refuses(ValueError, lambda: [beta_vae(seed=s) for s in range(20)], "train: expected enough")


def test_a_split_is_not_taken_for_the_whole(refuses) -> None:
    """Its images can be made to order only of the whole, on part of which a model was trained."""
    _, held_out = sprites().select(orientation=0, shape=0).split(0.9, 0.1)
    words = "data: expected every combination of the factors", "got 614 of 6,144"
    for score in (metrics.factor_vae_score, metrics.beta_vae_score, metrics.encode_factors):
        refuses(ValueError, lambda score=score: score(held_out, same), *words)

    class Longer(Made):
        def __len__(self) -> int:
            return 1000  # of an epoch, say

    metrics.encode_factors(Longer(3, 4), same, 10)
