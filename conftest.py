"""What the tests and the doctests share."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tensors live: cpu, cuda, mps")


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, object]) -> None:
    import torch

    import vaekit as vk

    torch.manual_seed(0)
    doctest_namespace.update(vk=vk, torch=torch)
