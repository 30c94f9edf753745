"""What a model is built of, described by plain values and built again."""

import json
from collections import OrderedDict

import pytest
import torch
from torch import distributions as td
from torch import nn

from vaekit.architecture import (
    UndescribedError,
    bare,
    build,
    describe,
    is_plain,
    plain_arguments,
    torch_class,
)


class Odd(nn.Module):
    """A module that keeps whatever it was made with."""

    def __init__(self, given: object, *, kind: type = nn.ReLU) -> None:
        super().__init__()
        self.given, self.kind = given, kind


class Silent(nn.Module):
    """A module that keeps nothing of what it was made with."""

    def __init__(self, width: int) -> None:
        super().__init__()


def find(name: str) -> type:
    kind = {"Odd": Odd}.get(name) or torch_class(name)
    assert kind is not None, name
    return kind


def _built(description: object, tensors: dict[str, torch.Tensor], room: int = 10_000) -> object:
    return build(description, tensors, find, room)


def _again(part: object) -> object:
    """Describe a part, write that as JSON, and build it again."""
    tensors: dict[str, torch.Tensor] = {}
    return _built(json.loads(json.dumps(describe(part, tensors))), tensors, 10**6)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1,
        "words",
        [1, [2.5]],
        (1, (2, [3])),
        {"a": (1,), "b": {"c": None}},
        nn.GELU,
    ],
    ids=str,
)
def test_values_come_back_as_they_were(value: object) -> None:
    found = _again(Odd(value, kind=nn.Tanh))
    assert isinstance(found, Odd)
    assert found.given == value
    assert type(found.given) is type(value)
    assert found.kind is nn.Tanh


def test_tensors_are_told_by_their_places() -> None:
    tensors: dict[str, torch.Tensor] = {}
    given = torch.randn(3), [torch.ones(2)]
    described = describe(Odd(given), tensors, "encoder")
    assert tensors.keys() == {"encoder.given.0", "encoder.given.1.0"}
    found = _built(described, tensors)
    assert torch.equal(found.given[0], given[0])
    assert torch.equal(found.given[1][0], given[1][0])


def test_containers_keep_the_names_of_what_they_hold() -> None:
    named = nn.Sequential(OrderedDict(first=nn.Linear(2, 3), then=nn.ReLU()))
    held = nn.ModuleDict({"a": nn.ModuleList([named, nn.Identity()]), "b": nn.Dropout(0.25)})
    found = _again(held)
    assert repr(found) == repr(held)
    assert found.state_dict().keys() == held.state_dict().keys()


def test_what_occurs_twice_is_one_part() -> None:
    shared = nn.Linear(2, 2)
    found = _again(nn.Sequential(shared, nn.ReLU(), shared))
    assert found[0] is found[2]
    assert len([*found.parameters()]) == 2


def test_building_draws_no_random_number() -> None:
    described = describe(nn.Linear(2, 2), {})
    before = torch.get_rng_state()
    _built(described, {})
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "given",
    [1j, b"bytes", bytearray(b"more"), memoryview(b"seen"), {1, 2}, len, open],
    ids=lambda given: type(given).__name__,
)
def test_what_no_plain_value_is(given: object) -> None:
    with pytest.raises(UndescribedError, match=r"model\.given: expected a module, a distribution"):
        describe(Odd(given), {})


def test_what_keeps_no_argument_is_named() -> None:
    with pytest.raises(UndescribedError, match=r"net\.1: expected an attribute 'width'"):
        describe(nn.Sequential(nn.ReLU(), Silent(3)), {}, "net")
    assert plain_arguments(Silent(3)) == {}
    assert plain_arguments(Odd((1, "two"))) == {"given": (1, "two")}


def test_plain_values() -> None:
    assert all(map(is_plain, (None, True, 1, 1.5, "a", [1, (2, "b")])))
    assert not any(map(is_plain, (torch.ones(1), [nn.ReLU()], {"a": 1}, nn.ReLU)))


@pytest.mark.parametrize(
    "name",
    [
        *("torch.nn.Module", "torch.nn.Transformer", "torch.nn.Parameter", "torch.nn.functional"),
        *("torch.nn.functional.relu", "torch.load", "os.system", "Linear", "", "torch.nn."),
        *(
            "torch.distributions.Transform",
            "torch.distributions.constraints",
            "torch.nn.DataParallel",
        ),
    ],
)
def test_other_names_are_no_classes_of_torchs(name: str) -> None:
    assert torch_class(name) is None
    assert torch_class("torch.nn.Linear") is nn.Linear
    assert torch_class("torch.distributions.Normal") is td.Normal


def test_a_distribution_without_what_was_computed_of_it() -> None:
    held = td.Categorical(logits=torch.randn(3))
    given = held.logits
    _ = held.probs
    assert "probs" in vars(held)
    copied = bare(held)
    assert "probs" not in vars(copied)
    assert "probs" in vars(held)
    assert torch.equal(copied.logits, given)
    inner = bare(td.Independent(held, 0)).base_dist
    assert "probs" not in vars(inner)


def test_a_layer_that_a_newer_torch_gave_a_bias_to_choose() -> None:
    class Older(nn.ReLU):
        def __init__(self) -> None:
            super().__init__()

    Older.__module__ = "torch.nn.modules.older"
    described = {"class": "torch.nn.ReLU", "arguments": [["bias", True]]}
    assert isinstance(build(described, {}, lambda name: Older, 1000), Older)
    with pytest.raises(ValueError, match="unexpected keyword argument 'more'"):
        build(described | {"arguments": [["more", 1]]}, {}, lambda name: Older, 1000)


def test_parts_that_hold_one_another_again_and_again_are_counted() -> None:
    whole: dict[str, object] = {"class": "torch.nn.Identity", "arguments": []}
    for index in range(30):
        children = [["0", whole], ["1", {"again": index}]]
        whole = {"class": "torch.nn.Sequential", "children": children}
        if index == 4:
            assert len(list(_built(whole, {}).modules())) == 6  # each once
    with pytest.raises(MemoryError, match="more than 10000 parts"):
        _built(whole, {})


def test_what_constructors_compute_is_counted() -> None:
    def described(factors: int) -> object:
        tensors = {"loc": torch.zeros(1), "diag": torch.ones(1), "factor": torch.randn(1, factors)}
        arguments = [["loc", "loc"], ["cov_factor", "factor"], ["cov_diag", "diag"]]
        named = [[name, {"tensor": key}] for name, key in arguments]
        kind = "torch.distributions.LowRankMultivariateNormal"
        return _built({"class": kind, "arguments": named}, tensors)

    assert described(50).cov_factor.shape == (1, 50)
    with pytest.raises(MemoryError, match="compute more"):
        described(200)  # makes a matrix of 200 by 200
