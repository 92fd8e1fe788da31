"""Interrupt a call that takes too long, where the platform can."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Overdue", "alarm"]


class Overdue(BaseException):
    """A call took longer than allowed; no `except Exception` of the target catches it."""


def _ring(_number: int, _frame: FrameType | None) -> None:
    raise Overdue


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `Overdue` inside the block after some seconds.

    It interrupts Python code, not a native function that never comes back; outside the main thread and on
    platforms without interval timers it does nothing.

    Args:
        seconds: how long the block may take.

    Example:
        >>> try:
        ...     with alarm(0.01):
        ...         while True: pass
        ... except Overdue:
        ...     print("stopped")
        stopped
    """
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not usable:
        yield
        return
    before = signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
