"""Write down what a rehearsal of a release found, run by the interpreter that was tested.

    PYTHON tools/rehearsed.py LEG JUNIT FILE [COMMIT]

LEG is the row's name, JUNIT what pytest wrote with ``--junitxml``, FILE the results that the
documentation shows, to be added to.
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

_PACKAGES = ("torch", "torchvision", "numpy", "accelerate", "jaxtyping", "safetensors")


def row(junit: Path, commit: str) -> dict[str, Any]:
    """Return the versions that were tested, and how many tests passed."""
    suites = ElementTree.parse(junit).getroot().iter("testsuite")
    counts = [{name: float(suite.get(name, 0)) for name in _COUNTED} for suite in suites]
    total = {name: sum(count[name] for count in counts) for name in _COUNTED}
    skipped, failed = int(total["skipped"]), int(total["failures"] + total["errors"])
    return {
        "commit": commit,
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "passed": int(total["tests"]) - skipped - failed,
        "skipped": skipped,
        "failed": failed,
        "minutes": round(total["time"] / 60),
    }


_COUNTED = ("tests", "skipped", "failures", "errors", "time")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("leg")
    parser.add_argument("junit", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("commit", nargs="?", default="")
    args = parser.parse_args()
    held: dict[str, Any] = {"rows": {}}
    if args.file.exists():
        held = json.loads(args.file.read_text())
    held["rows"][args.leg] = row(args.junit, args.commit)
    args.file.write_text(json.dumps(held, indent=2) + "\n")
    print(json.dumps(held["rows"][args.leg]))
