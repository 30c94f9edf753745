import os
import subprocess
import sys
from pathlib import Path


def test_terms_made_of_gradients_compile() -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", here / "compiled_gradient_cases.py"],
        env=os.environ | {"VAEKIT_UNCHECKED": "1"},
        cwd=here.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
