"""Sending what training measures to TensorBoard, or to any tracker that accelerate knows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from typing import Any

from vaekit import _checks
from vaekit.training.rows import TrainingState
from vaekit.training.world import World

__all__ = ["trackers", "tracking"]


@contextmanager
def tracking(
    made: Sequence[Any], settings: Mapping[str, Any], world: World
) -> Iterator[list[Callable[[TrainingState], None]]]:
    """Start trackers, yield what is to be called at the end of each row, and finish them.

    Args:
        made: The trackers.
        settings: What the run is begun with.
        world: The processes, of which the first speaks.
    """
    found: list[Any] = []

    def start(ending: ExitStack) -> None:
        for tracker in made:
            tracker.start()
            ending.callback(tracker.finish)
            tracker.store_init_configuration(dict(settings))
            found.append(tracker)

    def log(state: TrainingState) -> None:
        values = _newest(state)
        for tracker in found:
            tracker.log(values, step=state.step)

    with ExitStack() as ending:  # every one is finished, whatever the others do
        world.agreed(lambda: start(ending))
        yield [log] if found else []


def trackers(log_with: Any, log_dir: str | PathLike[str]) -> list[Any]:
    """Make the trackers that are named, and take those that are made.

    Raises:
        ImportError: If the package of one is not installed.
        TypeError: If something else is given.
        ValueError: If a name is unknown.
    """
    if log_with is None:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

    given = log_with if isinstance(log_with, list | tuple) else [log_with]
    made = []
    for each in given:
        if isinstance(each, GeneralTracker):
            made.append(each)
            continue
        if not isinstance(each, str):
            what = "the name of a tracker, or one of accelerate's"
            raise TypeError(_checks.expected("log_with", what, repr(each)))
        _checks.one_of("log_with", each, sorted(map(str, LOGGER_TYPE_TO_CLASS)))
        if each not in map(str, get_available_trackers()):
            raise ImportError(f"log_with={each!r} needs its package: pip install {each}.")
        tracker = LOGGER_TYPE_TO_CLASS[each]
        made.append(tracker("vaekit", *[log_dir] * tracker.requires_logging_directory))
    return made


def _newest(state: TrainingState) -> dict[str, float]:
    """Return the newest row of the history, by name."""
    history = state.history
    groups = {"train": history.train, "validation": history.validation, "weight": history.weights}
    values = {
        f"{group}/{name}": row[-1] for group, rows in groups.items() for name, row in rows.items()
    }
    return values | {"learning_rate": history.learning_rate[-1], "epoch": history.epoch[-1]}
