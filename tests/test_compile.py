import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_everything_compiles_into_one_graph(request: pytest.FixtureRequest) -> None:
    here = Path(__file__).parent
    device = request.config.getoption("--device")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n0",
            here / "compiled_cases.py",
            "--device",
            device,
        ],
        env=os.environ | {"VAEKIT_UNCHECKED": "1"},
        cwd=here.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
