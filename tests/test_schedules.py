import math

from hypothesis import given
from hypothesis import strategies as st

from vaekit.schedules import Constant, Cyclical, Linear, Sigmoid


@given(step=st.integers(0, 10_000))
def test_constant(step: int) -> None:
    assert Constant(4)(step) == 4


@given(start=st.floats(0, 10), end=st.floats(0, 10), steps=st.integers(1, 1000))
def test_linear(start: float, end: float, steps: int) -> None:
    schedule = Linear(start, end, steps)
    assert schedule(0) == start
    assert math.isclose(schedule(steps), end, abs_tol=1e-12)
    assert schedule(10 * steps) == schedule(steps)
    assert math.isclose(schedule(1) - schedule(0), (end - start) / steps, abs_tol=1e-9)


@given(step=st.integers(0, 10_000), period=st.integers(1, 1000), ramp=st.floats(0.01, 1))
def test_cyclical(step: int, period: int, ramp: float) -> None:
    schedule = Cyclical(1, 3, period, ramp)
    assert schedule(step) == schedule(step + period)
    assert schedule(period * step) == 1
    assert 1 <= schedule(step) <= 3
    if ramp * period <= period - 1:
        assert math.isclose(schedule(period - 1), 3)


@given(
    start=st.floats(0, 10),
    end=st.floats(0, 10),
    steps=st.integers(1, 200),
    steepness=st.floats(0.1, 50),
)
def test_sigmoid(start: float, end: float, steps: int, steepness: float) -> None:
    schedule = Sigmoid(start, end, steps, steepness)
    values = [schedule(step) for step in range(steps + 1)]
    assert math.isclose(values[0], start, abs_tol=1e-12)
    assert math.isclose(values[-1], end, abs_tol=1e-12)
    assert schedule(10 * steps) == values[-1]
    sign = 1 if end >= start else -1
    for step in range(steps):
        assert sign * (values[step + 1] - values[step]) >= -1e-12  # it never turns back
    for one, other in zip(values, values[::-1], strict=True):  # the S is symmetric
        assert math.isclose(one + other, start + end, abs_tol=1e-9)


def test_a_sigmoid_is_the_logistic_function_or_nearly_a_line() -> None:
    def logistic(time: float) -> float:
        return 1 / (1 + math.exp(-10 * (time - 0.5)))

    low, high = logistic(0), logistic(1)
    steep, flat = Sigmoid(0, 1, 100, steepness=10), Sigmoid(0, 1, 100, steepness=1e-3)
    for step in range(101):
        exact = (logistic(step / 100) - low) / (high - low)
        assert math.isclose(steep(step), exact, abs_tol=1e-12)
        assert math.isclose(flat(step), step / 100, abs_tol=1e-6)


def test_bad_input(refuses) -> None:
    refuses(ValueError, lambda: Constant(-1), "value", "at least 0", "-1")
    refuses(ValueError, lambda: Linear(0, math.inf, 5), "end", "finite", "inf")
    refuses(ValueError, lambda: Linear(0, 1, 0), "steps", "above 0", "0")
    refuses(ValueError, lambda: Cyclical(0, 1, 2.5), "period", "whole number", "2.5")
    refuses(ValueError, lambda: Cyclical(0, 1, 10, ramp=0), "ramp", "above 0", "0")
    refuses(ValueError, lambda: Cyclical(0, 1, 10, ramp=1.5), "ramp", "at most 1", "1.5")
    refuses(ValueError, lambda: Sigmoid(-1, 1, 10), "start", "at least 0", "-1")
    refuses(ValueError, lambda: Sigmoid(0, math.nan, 10), "end", "finite", "nan")
    refuses(ValueError, lambda: Sigmoid(0, 1, 0), "steps", "above 0", "0")
    refuses(ValueError, lambda: Sigmoid(0, 1, 10, steepness=0), "steepness", "above 0", "0")
