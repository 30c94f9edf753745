"""What holds for the package as a whole."""

import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import torch

import vaekit as vk

ROOT = Path(__file__).parent.parent


def test_the_current_version_has_its_heading_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(vk.__version__)}\]", changelog, re.MULTILINE)


def test_importing_vaekit_imports_nothing_heavy() -> None:
    code = (
        "import torch, sys; before = set(sys.modules); import vaekit; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    standard = {name for name in done.stdout.split() if name in sys.stdlib_module_names}
    assert {*done.stdout.split()} - standard <= {"jaxtyping", "numpy", "vaekit", "wadler_lindig"}


def test_every_public_name_is_there_and_documented() -> None:
    for name in vk.__all__:
        assert hasattr(vk, name)
        assert getattr(vk, name).__doc__, name


def test_the_metrics_show_what_their_rooms_do() -> None:
    rooms = [
        importlib.import_module(f"vaekit.metrics.{room.name}")
        for room in pkgutil.iter_modules(vk.metrics.__path__)
    ]
    names = [name for room in rooms for name in room.__all__]
    assert len(rooms) > 5
    # what the rooms share, and users do not need
    inside = {"Collected", "mean_of", "share_below", "described", *vk.metrics.inputs.__all__}
    assert sorted(names) == sorted({*vk.metrics.__all__, *inside})
    for name in vk.metrics.__all__:
        assert getattr(vk.metrics, name).__doc__, name


def test_it_ships_its_types() -> None:
    assert Path(vk.__file__).with_name("py.typed").exists()


def blocks(language: str, text: str) -> list[str]:
    """The code of a Markdown file."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_documentation_gives_the_commands_of_the_readme() -> None:
    def worded(command: str) -> str:
        return " ".join(command.replace("\\\n", " ").split())

    documented = (ROOT / "docs" / "index.rst").read_text()
    found = re.findall(r"^\.\. code-block:: sh\n\n((?:   .*\n)+)", documented, re.MULTILINE)
    readme = blocks("sh", (ROOT / "README.md").read_text())
    assert len(readme) == 2
    assert [*map(worded, found)] == [*map(worded, readme)]


def test_what_the_readme_writes_runs() -> None:
    code = blocks("python", (ROOT / "README.md").read_text())
    assert len(code) == 3
    names: dict[str, object] = {}
    for each in code:
        brief = each.replace("epochs=20", "epochs=1, progress=False")
        assert (brief != each) == ("vk.fit(" in each)
        exec(compile(brief, "README.md", "exec"), names)
    pictures, mu = names["pictures"], names["mu"]
    assert isinstance(pictures, torch.Tensor)
    assert isinstance(mu, torch.Tensor)
    assert pictures.shape == (64, 1, 8, 8)
    assert mu.shape == (len(vk.datasets.digits()[1]), 10)


def test_contributors_are_told_the_rooms_that_are_held() -> None:
    told = (ROOT / "CONTRIBUTING.md").read_text().partition("lowest:")[2].partition(".\n")[0]
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    assert re.findall("`(.+?)`", told) == contract["layers"][::-1]
