"""What shows how far training is, and how it is ended from there."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["Bar", "interruptible"]


class Bar:
    """A progress bar that words its numbers only when it is drawn."""

    def __init__(self, total: int | None, shown: bool, step: int) -> None:
        from tqdm.auto import tqdm

        class Unwatched(tqdm):  # type: ignore[misc]
            # No thread that looks after slow bars: one that is left as the process ends may abort
            # it, where gloo is loaded. This one is drawn by the clock.
            monitor_interval = 0

        shape = {"total": total, "initial": step, "unit": "step", "dynamic_ncols": True}
        self._bar = Unwatched(disable=not shown, **shape)
        self._drawn = time.monotonic()
        self._waiting = 0
        self._newest: tuple[Sequence[str], Sequence[float]] = (), ()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
        self._bar.close()

    def update(self, names: Sequence[str], numbers: Sequence[float]) -> None:
        """Count a step, and show its numbers if it is time to."""
        self._waiting += 1
        self._newest = names, numbers
        if not self._bar.disable and time.monotonic() - self._drawn >= 0.2:
            self._show()

    def _show(self) -> None:
        shown = {name: f"{value:.2f}" for name, value in zip(*self._newest, strict=True)}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(self._waiting)
        self._drawn, self._waiting = time.monotonic(), 0


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, where signals can be handled; the second acts at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
