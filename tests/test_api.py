"""The tool that holds the public names: on a made-up package, and against what Python says."""

import importlib
import inspect
import re
import subprocess
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import api
import griffe
import pytest

import vaekit as vk

HEADING = "# Changelog\n\n## [0.2.0] - unreleased\n\n"
RELEASED = "## [0.1.0] - 2026-01-01\n\n### Changed\n\n- All is new, `rates` and `KL` and `nats`.\n"
SHOP = {
    "__init__": """
        from vaekit import losses
        from vaekit.losses import rate
        __all__ = ["losses", "rate"]
    """,
    "_version": '__version__ = "0.2.0"',
    "losses": """
        from dataclasses import dataclass
        from typing import NamedTuple
        __all__ = ["KL", "Parts", "bits", "rate"]
        UNLISTED = 3
        def rate(x: float, nats: bool = True, *, name: str | None = None) -> float: ...
        def bits(x, /, *more): ...
        class _Base(dict):
            kept: bool = False
            def __add__(self, other: int) -> int: ...
            def weigh(self, by: float = 1.0) -> "KL": ...
            def _private(self): ...
        class KL(_Base):
            def __init__(self, weight: float) -> None:
                self.weight = weight
            @property
            def name(self) -> str: ...
            @classmethod
            def of(cls, x: int): ...
        class Parts(NamedTuple):
            first: int
            second: int = 0
    """,
    "sklearn": """
        from dataclasses import dataclass
        __all__ = ["Estimator"]
        @dataclass
        class Estimator:
            steps: int = 10
    """,
}
EXPECTED = """
module vaekit
module vaekit.losses
class vaekit.losses.KL(dict)
def vaekit.losses.KL.__add__(other: int) -> int
def vaekit.losses.KL.__init__(weight: float) -> None
vaekit.losses.KL.kept: bool = False
@property vaekit.losses.KL.name: str
@classmethod def vaekit.losses.KL.of(x: int)
def vaekit.losses.KL.weigh(by: float = 1.0) -> KL
vaekit.losses.KL.weight
class vaekit.losses.Parts(NamedTuple)
def vaekit.losses.Parts.__init__(first: int, second: int = 0) -> None
vaekit.losses.Parts.first: int
vaekit.losses.Parts.second: int = 0
def vaekit.losses.bits(x, /, *more)
def vaekit.losses.rate(x: float, nats: bool = True, *, name: str | None = None) -> float
vaekit.rate = vaekit.losses.rate
module vaekit.sklearn
class vaekit.sklearn.Estimator()
def vaekit.sklearn.Estimator.__init__(steps: int = 10) -> None
vaekit.sklearn.Estimator.steps: int = 10
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A small package of our name, recorded and released."""
    package = tmp_path / "src" / "vaekit"
    package.mkdir(parents=True)
    (tmp_path / "api").mkdir()
    for name, code in SHOP.items():
        (package / f"{name}.py").write_text(inspect.cleandoc(code))
    (tmp_path / "CHANGELOG.md").write_text(HEADING + RELEASED)
    (tmp_path / "api" / "released.txt").write_text(api.HEADER + EXPECTED)
    assert api.main(["record"], tmp_path) == 0
    return tmp_path


@pytest.fixture
def edit(shop: Path) -> Callable[[str, str], None]:
    def replace(old: str, new: str) -> None:
        path = shop / "src" / "vaekit" / "losses.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return replace


@pytest.fixture
def say(shop: Path) -> Callable[[str], None]:
    """Write the unreleased part of the changelog."""
    return lambda text: (
        (shop / "CHANGELOG.md").write_text(f"{HEADING}{text}\n\n{RELEASED}") and None
    )


def test_a_line_for_each_public_name(shop: Path) -> None:
    lines = (shop / "api" / "current.txt").read_text().splitlines()
    assert lines == [api.HEADER, *EXPECTED.strip().splitlines()]


RATE = "def rate(x: float, nats: bool = True, *, name: str | None = None) -> float"
CASES = {
    "a parameter is added": (
        (RATE, RATE.replace("True", "True, base: float = 2.0")),
        "",
        "### Added\n- `rate` has `bases`.",
        "### Added\n- `vk.rate(base=2)`: any\n  other.",
    ),
    "a parameter is added that must be given": (
        (RATE, RATE.replace("*,", "*, base: float,")),
        "parameter was added as required: base",
        "### Added\n- `rate` takes `base`.",
        "### Changed\n- `rate` takes `base`.",
    ),
    "a parameter is removed": (
        (RATE, RATE.replace(", nats: bool = True", "")),
        "parameter was removed: nats",
        "### Changed\n- `rate`.\n- `nats`.",
        "### Removed\n- `nats` of `rate`.",
    ),
    "a parameter is renamed": (
        (RATE, RATE.replace("nats", "bits")),
        "parameter was removed: nats",
        "### Changed\n- `rate` takes `bits`.",
        "### Changed\n- `rate` takes `bits`, not `nats`.",
    ),
    "parameters change places": (
        ("def bits(x, /, *more)", "def bits(*more, x)"),
        "parameter kind was changed: x",
        "### Changed\n- rate, `bit`, bits and `x`.",
        "### Fixed\n- `bits`: `x`.",
    ),
    "parameters are reordered": (
        (RATE, RATE.replace("x: float, nats: bool = True", "nats: bool = True, x: float = 1")),
        "positional parameter was moved: x",
        "### Changed\n- `rate`: `nats` before x.",
        "### Changed\n- `rate(nats, x)`.",
    ),
    "a default changes": (
        (RATE, RATE.replace("True", "False")),
        "parameter default was changed: nats",
        "### Added\n- `rate(nats=False)`.",
        "### Added\n- Nothing.\n### Changed\n- `rate(nats=False)`.",
    ),
    "an annotation changes": (
        (RATE, RATE.replace("float)", "int)").replace("x: float", "x: int")),
        "",
        "### Changed\n- `rate`.",
        "### Changed\n- `rate` of whole `x`.",
    ),
    "an annotation changes beside a new parameter": (
        (RATE, RATE.replace("x: float", "x: int").replace("True", "True, base: float = 2.0")),
        "",
        "### Added\n- `rate(x, base)`.",
        "### Changed\n- `rate(x, base)`.",
    ),
    "what is returned changes": (
        (RATE, RATE.replace("-> float", "-> int")),
        "",
        "### Added\n- `rate`.",
        "### Changed\n- `rate`.",
    ),
    "a method's default changes": (
        ("by: float = 1.0", "by: float = 2.0"),
        "parameter default was changed: by",
        "### Changed\n- `KL` and `by`.",
        "### Changed\n- `KL.weigh(by=2.0)`.",
    ),
    "a method is added": (
        ("def _private", "def public"),
        "",
        "### Added\n- `public`.",
        "### Added\n- `KL.public`.",
    ),
    "a class method is bound no more": (
        ("@classmethod\n    def of(cls,", "def of(self,"),
        "no classmethod any more",
        "### Added\n- `KL.of`.",
        "### Changed\n- `KL.of`.",
    ),
    "a method becomes a property": (
        ("def weigh(self, by: float = 1.0)", "@property\n    def weigh(self)"),
        "public object points to a different kind of object",
        "### Changed\n- `weigh`.",
        "### Changed\n- `KL.weigh`, without `by`.",
    ),
    "a field is put first": (
        ("first: int\n", "zeroth: int\n    first: int\n"),
        "positional parameter was moved: first",
        "### Added\n- `Parts.zeroth`.",
        "### Changed\n- `Parts.zeroth`.",
    ),
    "a class variable changes": (
        ("kept: bool = False", "kept: bool = True"),
        "",
        "### Added\n- `KL.kept`.",
        "### Changed\n- `KL.kept`.",
    ),
    "a base goes": (
        ("class _Base(dict)", "class _Base"),
        "base class was removed",
        "### Added\n- `KL`.",
        "### Changed\n- `KL`.",
    ),
    "a name is added": (
        ('"rate"]', '"rate", "UNLISTED"]'),
        "",
        "### Added\n- `rate`.",
        "### Added\n- `losses.UNLISTED`.",
    ),
    "a name is removed": (
        ('"bits", ', ""),
        "removed, not deprecated before",
        "### Added\n- `bits`.",
        "### Removed\n- `bits`.",
    ),
    "a class is removed with its members": (
        ('"KL", ', ""),
        "removed, not deprecated before",
        "### Removed\n- `KLs`.",
        "### Removed\n- `KL`.",
    ),
    "a function is deprecated": (
        (RATE, f'@deprecated("Use bits; will be removed in vaekit 0.3.")\n{RATE}'),
        "",
        "### Added\n- `rate`.",
        "### Deprecated\n- `rate`.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_change_is_recorded_and_said(case: str, shop: Path, edit, say, capsys) -> None:
    change, breaks, wrong, right = CASES[case]
    edit(*change)
    assert api.main([], shop) == 1
    shown = capsys.readouterr().out
    assert "python tools/api.py record" in shown
    assert re.findall("breaking: (.*)", shown)[:1] == ([breaks] if breaks else [])
    assert api.main(["record"], shop) == 1  # for want of an item in the changelog
    say(wrong)
    assert api.main([], shop) == 1
    assert "not as recorded" not in capsys.readouterr().out
    say(right)
    assert api.main([], shop) == (breaks == "removed, not deprecated before")


def test_a_removal_that_was_announced_is_told_from_one_that_was_not(
    shop, edit, say, capsys
) -> None:
    edit(RATE, f'@deprecated("Will be removed in vaekit 0.3.")\n{RATE}')
    say("### Deprecated\n- `rate`.")
    assert api.main(["record"], shop) == 0
    (shop / "CHANGELOG.md").write_text("## [0.2.0] - 2026-02-02\n")
    assert api.main(["release"], shop) == 0
    edit(', "rate"]', "]")
    init = shop / "src" / "vaekit" / "__init__.py"
    init.write_text('from vaekit import losses\n__all__ = ["losses"]')
    (shop / "CHANGELOG.md").write_text(f"{HEADING}### Removed\n- `rate`.\n\n{RELEASED}")
    capsys.readouterr()
    assert api.main(["record"], shop) == 0
    assert "breaking: removed\n" in capsys.readouterr().out


def test_a_release_starts_anew(shop: Path, edit, say, capsys) -> None:
    edit(RATE, RATE.replace("True", "False"))
    say("### Changed\n- `rate(nats=False)`.")
    assert api.main(["record"], shop) == 0
    assert api.main(["release"], shop) == 1  # it bears no date
    assert "bear the date" in capsys.readouterr().out
    dated = (shop / "CHANGELOG.md").read_text().replace("unreleased", "2026-02-02")
    (shop / "CHANGELOG.md").write_text(dated)
    assert api.main([], shop) == 1  # the release is not recorded
    assert api.main(["release"], shop) == 0
    assert api.main([], shop) == 0
    edit("nats: bool = False", "nats: bool = True")
    assert api.main(["record"], shop) == 1  # what the dated part says was said of another change


@pytest.mark.parametrize("old", ["def rate(", '["losses", "rate"]'])
def test_a_name_that_is_nowhere(old: str, shop: Path, capsys) -> None:
    for path in (shop / "src" / "vaekit").iterdir():
        path.write_text(path.read_text().replace(old, old.replace("rate", "rates")))
    assert api.main([], shop) == 1
    assert "a name that is nowhere: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ('@deprecated("Will be removed in vaekit 0.3.")\ndef f(): ...', None),
        ('@deprecated("Will be removed in vaekit 1.0.")\ndef f(): ...', None),
        ('@te.deprecated("Use g.")\ndef f(): ...', "losses.py:1: a deprecation says"),
        ('@deprecated("Is removed in vaekit 0.2.")\nclass F: ...', "to be removed in vaekit 0.2"),
        ("def f(x):\n  warn(f'{x} goes', DeprecationWarning)", "losses.py:2: a deprecation says"),
        ('warnings.warn("removed in vaekit 0.1", DeprecationWarning)', "and this is 0.2.0"),
        ('warnings.warn("removed in vaekit 0.3", DeprecationWarning, stacklevel=2)', None),
        ('warnings.warn("odd", UserWarning)', None),
    ],
)
def test_deprecations_say_when_they_go(code: str, fault: str | None, tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text(code)
    found = list(api.overdue(tmp_path, "0.2.0"))
    assert len(found) == (fault is not None)
    assert not found or fault in found[0]


def test_none_of_our_deprecations_is_overdue() -> None:
    assert not list(api.overdue(Path(vk.__file__).parent, vk.__version__))


def _at_run_time(name: str) -> list[tuple[str, str, bool]] | None:
    """The parameters that a caller of a public name gives; None of what is not called."""
    parent, last = name.removeprefix("vaekit.").rpartition(".")[::2]
    owner = attrgetter(parent)(vk)
    found = owner if last == "__init__" else inspect.getattr_static(owner, last)
    if isinstance(found, property):
        return None
    bound = inspect.isclass(owner) and found is not owner and not isinstance(found, staticmethod)
    parameters = inspect.signature(getattr(found, "__func__", found)).parameters.values()
    return [
        (p.name, p.kind.description, p.default is p.empty and "VAR" not in p.kind.name)
        for p in list(parameters)[bound:]
    ]


def test_the_signatures_are_those_of_the_run_time() -> None:
    """Constructors that data classes and named tuples write, and inherited methods, among them."""
    folder = Path(vk.__file__).parent.parent
    lines = api.snapshot(griffe.load("vaekit", search_paths=[folder], allow_inspection=False))
    importlib.import_module("vaekit.sklearn")
    checked = 0
    for name, line in lines.items():
        found = api.stub(line)["it"]
        if found.is_function and (expected := _at_run_time(name)) is not None:
            assert [(p.name, p.kind.value, p.required) for p in found.parameters] == expected, name
            checked += 1
    assert checked > 300


def test_an_older_line_says_nothing_of_a_newer_change(tmp_path: Path) -> None:
    """Of names that the unreleased part has long named."""

    def git(*words: str) -> None:
        own = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *own, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "api").mkdir()
    current, changelog = tmp_path / "api" / "current.txt", tmp_path / "CHANGELOG.md"
    assert list(api.silent(tmp_path)) == []  # where there is no repository
    git("init")
    for path in (current, changelog):
        path.write_text("first")
    git("add", ".")
    git("commit", "-m", "both")
    assert list(api.silent(tmp_path)) == []
    current.write_text("second")
    assert len(list(api.silent(tmp_path))) == 1
    git("commit", "-am", "one")
    assert len(list(api.silent(tmp_path))) == 1
    current.write_text("third")
    changelog.write_text("third")
    assert list(api.silent(tmp_path)) == []
    git("commit", "-am", "both")
    assert list(api.silent(tmp_path)) == []
