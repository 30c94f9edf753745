"""Every shape and type that vaekit's signatures state is checked while the tests run."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jaxtyping
import pytest
import torch
from hypothesis import settings

# torch.compile cannot look through the checker, so test_compile.py runs its cases without.
if os.environ.get("VAEKIT_UNCHECKED") != "1":
    jaxtyping.install_import_hook("vaekit", "typechecking.check")

settings.register_profile("vaekit", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("vaekit")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_figure_is_left_open() -> Iterator[None]:
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def mnist_root() -> str:
    root = os.environ.get("VAEKIT_DATA", "")
    if not root or not os.path.isdir(os.path.join(root, "MNIST")):  # noqa: PTH112, PTH118
        pytest.skip("VAEKIT_DATA names no folder that holds MNIST")
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision, which reads MNIST, cannot be imported: {error}")
    return root


@contextmanager
def annotations_unchecked() -> Iterator[None]:
    """What a user runs: vaekit without the checker of annotations."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def refuses() -> Callable[..., Exception]:
    """Check that a call is refused with an error that says what it should.

    Where the first word is a name, it is the argument that the message is of; names stand in it as
    words, so that "x" is not found in "expected". The annotations are not checked meanwhile, so the
    error is the one a user sees.
    """

    def check(error: type[Exception], call: Callable[[], object], *words: str) -> Exception:
        with annotations_unchecked(), pytest.raises(error) as caught:
            call()
        message, name = str(caught.value), re.compile(r"[A-Za-z_][\w.]*")
        if words and name.fullmatch(words[0]):
            assert message.startswith(f"{words[0]}: "), f"not of {words[0]!r}: {message}"
        for word in words:
            pattern = re.escape(word)
            found = re.search(rf"\b{pattern}\b" if name.fullmatch(word) else pattern, message)
            assert found, f"{word!r} is not in: {message}"
        return caught.value

    return check
