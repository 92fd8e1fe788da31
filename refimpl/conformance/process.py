"""One worker process as its parent sees it: what it is doing, what it printed, how it ended."""

import contextlib
import os
import pickle
import signal
import time
from multiprocessing import Pipe

from refimpl.conformance.batch import Batch
from refimpl.conformance.starter import Starter
from refimpl.conformance.worker import Task

__all__ = ["GRACE", "IMPORT_LIMIT", "Process"]

GRACE = 2.0  # seconds for the worker's own alarm to end a call that Python can interrupt
IMPORT_LIMIT = 120.0  # seconds for the import of the target
TAIL = 4096  # bytes of the worker's output that are kept
LINES = 3  # of them that are shown


class Process:
    """A worker that has been started and told which target to import.

    Args:
        starter: starts it.
        request: the pickled request.
    """

    def __init__(self, starter: Starter, request: bytes) -> None:
        self.starter = starter
        self.connection, theirs = Pipe()
        self.output, printed = os.pipe()
        os.set_blocking(self.output, False)
        self.pid = starter.start(theirs.fileno(), printed)
        theirs.close()
        os.close(printed)
        self.tail = b""
        self.silent = False  # whether nothing can be printed any more
        self.ready = False
        self.index: int | None = None  # of the task it works on
        self.trying: tuple[str, str, Batch] | None = None  # the call it is in, or was in last
        self.deadline: float | None = time.monotonic() + IMPORT_LIMIT
        self.send(request)

    def send(self, message: bytes) -> None:
        """Tell the worker; that it is dead is learnt when it is listened to."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(message)

    def drain(self) -> None:
        """Read what it has printed and keep the end."""
        with contextlib.suppress(BlockingIOError):
            while text := os.read(self.output, 1 << 16):
                self.tail = (self.tail + text)[-TAIL:]
            self.silent = True

    def give(self, index: int, task: Task) -> None:
        """Let it work on a task."""
        self.index, self.trying, self.deadline = index, None, None
        self.tail = b""
        self.send(pickle.dumps(task))

    @property
    def late(self) -> bool:
        """Whether its time is up and it has said nothing that is still to be read."""
        return self.deadline is not None and time.monotonic() > self.deadline and not self.connection.poll()

    def end(self) -> None:
        """Kill it with all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.starter.status(self.pid, GRACE)
        self.drain()
        os.close(self.output)
        self.connection.close()

    def fate(self) -> str:
        """How a process that hung up on its own ended, its last words included."""
        status = self.starter.status(self.pid, GRACE)
        self.end()
        return f"{_ended(status)}{self.words()}"

    def words(self) -> str:
        """The last lines it printed."""
        lines = [line.strip() for line in self.tail.decode(errors="replace").splitlines() if line.strip()]
        return f"; it printed last: {' | '.join(line[-200:] for line in lines[-LINES:])}" if lines else ""


def _ended(status: int | None) -> str:
    """What an exit status means.

    Example:
        >>> _ended(3), _ended(-11)
        ('ended the process with exit status 3', 'killed the process with SIGSEGV')
        >>> _ended(-9)
        'killed the process with SIGKILL (the memory may be exhausted)'
    """
    if status is None:
        return "closed the connection to the engine"
    if status >= 0:
        return f"ended the process with exit status {status}"
    name = signal.Signals(-status).name if -status in {*signal.Signals} else f"signal {-status}"
    return f"killed the process with {name}" + (" (the memory may be exhausted)" if name == "SIGKILL" else "")
