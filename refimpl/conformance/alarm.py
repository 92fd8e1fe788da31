"""Interrupt a call that takes too long, and tell Ctrl-C from an exception of the target."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Overdue", "alarm", "interruptible"]


class Overdue(BaseException):
    """A call took longer than allowed; no `except Exception` of the target catches it."""


class Interrupted(BaseException):
    """Somebody pressed Ctrl-C; a `KeyboardInterrupt` that the target raises itself is a finding instead."""


REPEAT = 0.5  # seconds


def _ring(_number: int, _frame: FrameType | None) -> None:
    raise Overdue


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


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
    if not (hasattr(signal, "setitimer") and _in_main_thread()):
        yield
        return
    before = signal.signal(signal.SIGALRM, _ring)
    # again and again: an exception is lost where it meets a finaliser
    signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end the block with a `KeyboardInterrupt` even where those of the target are caught.

    It leaves the handler of somebody else, and other threads, alone.

    Example:
        >>> try:
        ...     with interruptible():
        ...         try:
        ...             signal.raise_signal(signal.SIGINT)
        ...         except KeyboardInterrupt:
        ...             print("the target raised it")
        ... except KeyboardInterrupt:
        ...     print("somebody pressed Ctrl-C")
        somebody pressed Ctrl-C
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not (usual and _in_main_thread()):
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    except Interrupted:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
