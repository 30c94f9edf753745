"""Measuring the validation data of a run."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from vaekit import _checks
from vaekit.datasets.batches import beginning
from vaekit.objectives import Objective
from vaekit.training.how import How
from vaekit.training.measures import evaluate
from vaekit.training.randomness import random_states, set_random_states
from vaekit.vae import VAE

__all__ = ["Validation"]


@dataclass(frozen=True)
class Validation:
    """Validation data, and how they are measured.

    Attributes:
        model: The model, or its copy of averaged weights.
        objective: The objective.
        data: The data; None where there are none.
        batch_size: How many elements a batch has, where the data come unbatched.
        pairs: Whether a batch is ``(input, target)``.
        how: How a batch goes through the model.
        metrics: Of torchmetrics, by name.
    """

    model: VAE
    objective: Objective
    data: Any
    batch_size: int
    pairs: bool | None
    how: How
    metrics: Mapping[str, Any] | None

    def __call__(self, step: int) -> dict[str, float] | None:
        """Evaluate the objective as it is at a step."""
        return None if self.data is None else self._measure(self.data, step, self.metrics)

    def look(self, device: torch.device) -> None:
        """Have what does not fit of the first batch found before anything is trained."""
        part = None if self.data is None else beginning(self.data, self.batch_size)
        if part is not None:
            states = random_states(device)
            self._measure(part, 0, None)
            set_random_states(device, states)

    def _measure(self, data: Any, step: int, metrics: Mapping[str, Any] | None) -> dict[str, float]:
        with ExitStack() as renamed:
            for name in ("x", "target", "batch", "data"):
                renamed.enter_context(_checks.calling(name, "validation"))
            return evaluate(
                self.model,
                self.objective,
                data,
                batch_size=self.batch_size,
                pairs=self.pairs,
                samples=self.how.samples,
                corruption=self.how.corruption,
                precision=self.how.precision,
                metrics=metrics,
                step=step,
            )
