"""What the tests and the doctests share."""

import os

import pytest

# Each worker, and what it starts, has its share of the cores: torch reads this when imported.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tensors live: cpu, cuda, mps")


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, object]) -> None:
    import torch

    import vaekit as vk

    torch.manual_seed(0)
    doctest_namespace.update(vk=vk, torch=torch)
