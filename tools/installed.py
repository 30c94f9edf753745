"""Say what an environment holds: vaekit as it was installed there, and what that requires.

    PYTHON tools/installed.py [--lowest]

Fails if what is imported is not the package in the environment of PYTHON, or is not whole; with
``--lowest`` also if a requirement, of vaekit or of an extra, is not there as low as it may be.
"""

import argparse
import sys
from collections.abc import Iterator
from importlib.metadata import distributions, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import vaekit


def faults(lowest: bool) -> Iterator[str]:
    """Look at the package and at what it requires; print what is there."""
    folder = Path(vaekit.__file__).parent
    if not folder.is_relative_to(sys.prefix):
        yield f"vaekit comes from {folder}, which is not in {sys.prefix}"
    if not (folder / "py.typed").is_file():
        yield "vaekit ships no py.typed"
    if version("vaekit") != vaekit.__version__:
        yield f"vaekit {version('vaekit')} calls itself {vaekit.__version__}"
    print(f"vaekit {vaekit.__version__} in {folder}: {vaekit.datasets.digits()[0]}")
    there = {one.name.lower().replace("_", "-"): one.version for one in distributions()}
    for text in dict.fromkeys(one.partition(";")[0] for one in requires("vaekit") or ()):
        requirement = Requirement(text)
        got = there.get(requirement.name)
        print(f"  {requirement.name}{requirement.specifier}: {got}")
        for bound in requirement.specifier:
            if lowest and not (got and SpecifierSet(f"=={bound.version}.*").contains(got)):
                yield f"{requirement.name} {got} is not as low as {bound}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lowest", action="store_true")
    sys.exit("\n".join(faults(parser.parse_args().lowest)) or None)
