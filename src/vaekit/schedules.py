"""Weights that change with the training step.

A schedule is called with the step, counted from 0, and returns a number. Any function from an int
to a float will do where a schedule is asked for.
"""

import math
from dataclasses import dataclass

from vaekit import _checks

__all__ = ["Constant", "Cyclical", "Linear", "Sigmoid"]


@dataclass(frozen=True)
class Constant:
    """The same value at every step.

    Args:
        value: The value, at least 0.

    Raises:
        ValueError: If a number does not fit.

    Example:
        >>> Constant(4.0)(step=1000)
        4.0
    """

    value: float

    def __post_init__(self) -> None:
        _checks.number("value", self.value, low=0)

    def __call__(self, step: int) -> float:
        """Return the value."""
        return float(self.value)


@dataclass(frozen=True)
class _Between:
    """From one value to another, each at least 0."""

    start: float
    end: float

    def __post_init__(self) -> None:
        _checks.number("start", self.start, low=0)
        _checks.number("end", self.end, low=0)

    def _after(self, part: float) -> float:
        """Return the value after a part of the way."""
        return self.start + (self.end - self.start) * part


@dataclass(frozen=True)
class Linear(_Between):
    """From one value to another in a straight line, and constant afterwards.

    Warming up the weight of the KL from 0 to 1 is the commonest cure of posterior collapse.

    Args:
        start: The value at step 0.
        end: The value from step ``steps`` on.
        steps: How many steps the line takes.

    Raises:
        ValueError: If a number does not fit.

    Example:
        >>> warm_up = Linear(0, 1, steps=1000)
        >>> [warm_up(step) for step in (0, 500, 1000, 2000)]
        [0.0, 0.5, 1.0, 1.0]

    References:
        S. R. Bowman et al., *Generating Sentences from a Continuous Space*, 2016, section 3.1.
    """

    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.positive_int("steps", self.steps)

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        return self._after(min(max(step, 0) / self.steps, 1.0))


@dataclass(frozen=True)
class Cyclical(_Between):
    """Again and again from one value to another: a line up, then a plateau.

    Args:
        start: The value at the beginning of each cycle.
        end: The value of each plateau.
        period: How many steps a cycle takes.
        ramp: The part of the cycle that the line takes, above 0 and at most 1.

    Raises:
        ValueError: If a number does not fit.

    Example:
        >>> beta = Cyclical(0, 1, period=1000, ramp=0.5)
        >>> [beta(step) for step in (0, 250, 500, 999, 1000)]
        [0.0, 0.5, 1.0, 1.0, 0.0]

    References:
        H. Fu et al., *Cyclical Annealing Schedule*, 2019, equations 6 and 7.
    """

    period: int
    ramp: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.positive_int("period", self.period)
        ramp = _checks.number("ramp", self.ramp, above=0)
        _checks.require(ramp <= 1, "ramp", "at most 1", ramp)

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        return self._after(min((step % self.period) / (self.period * self.ramp), 1.0))


@dataclass(frozen=True)
class Sigmoid(_Between):
    r"""From one value to another along an S: slowly, quickly, slowly; constant afterwards.

    .. math:: \text{start} + (\text{end} - \text{start}) \cdot \tfrac{1}{2} \left( 1 +
              \frac{\tanh(s\, (t - \frac12) / 2)}{\tanh(s / 4)} \right), \qquad
              t = \text{step} / \text{steps}

    The logistic function of :math:`s\,(t - \frac12)`, stretched to begin and end where it says.

    Args:
        start: The value at step 0.
        end: The value from step ``steps`` on.
        steps: How many steps the S takes.
        steepness: s, above 0: nearly a line at 1, nearly a jump at 100.

    Raises:
        ValueError: If a number does not fit.

    Example:
        >>> warm_up = Sigmoid(0, 1, steps=1000)
        >>> [round(warm_up(step), 3) for step in (0, 250, 500, 750, 1000)]
        [0.0, 0.07, 0.5, 0.93, 1.0]

    References:
        S. R. Bowman et al., *Generating Sentences from a Continuous Space*, 2016, figure 2.
    """

    steps: int
    steepness: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.positive_int("steps", self.steps)
        _checks.number("steepness", self.steepness, above=0)

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        time = min(max(step, 0) / self.steps, 1.0)
        half = math.tanh(self.steepness * (time - 0.5) / 2) / math.tanh(self.steepness / 4)
        return self._after((1 + half) / 2)
