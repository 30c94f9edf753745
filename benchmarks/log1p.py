"""Time what is made of log1p in a fresh process, before and after vaekit is imported.

With AVX-512, torch's log1p reads constants under a mask; where their page of the library is not in
memory, which is so until a value needs them, each read is as slow as a fault. vaekit's import asks
for one such value.

    python benchmarks/log1p.py
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

x, target = 3 * torch.randn(128, 784), torch.rand(128, 784)
WAYS: dict[str, Callable[[], object]] = {
    "log1p": lambda: target.log1p(),
    "expm1": lambda: x.expm1(),
    "softplus": lambda: F.softplus(x),
    "cross-entropy": lambda: F.binary_cross_entropy_with_logits(x, target, reduction="none"),
}


def times(runs: int = 200) -> dict[str, float]:
    """Return the median of each way, in microseconds; the ways take turns."""
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(runs):
        for name, way in WAYS.items():
            started = time.perf_counter()
            way()
            taken[name].append(1e6 * (time.perf_counter() - started))
    return {name: statistics.median(each) for name, each in taken.items()}


def main() -> None:
    """Print the times and their ratios."""
    before = times()
    import vaekit

    after = times()
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {capability}, vaekit {vaekit.__version__}")
    print(f"{'microseconds':16}{'before':>10}{'after':>10}{'ratio':>8}")
    for name in WAYS:
        print(f"{name:16}{before[name]:10.1f}{after[name]:10.1f}{before[name] / after[name]:8.2f}")


if __name__ == "__main__":
    main()
