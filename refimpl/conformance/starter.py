"""A process that has the engine imported and nothing else, and starts the workers as copies of itself.

Importing torch and numba takes seconds, a copy takes milliseconds: a target that dies on every call does not
make the run crawl. The starter never imports the target, so every worker begins clean.
"""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time

__all__ = ["Starter", "serve"]

BOOT = """\
import sys
sys.path[:] = sys.argv[2:]
from refimpl.conformance.starter import serve
serve(int(sys.argv[1]))
"""
QUESTION = struct.Struct("<cqd")  # what; for which process; seconds to wait
ANSWER = struct.Struct("<q")
UNKNOWN = 1 << 32  # stands for the exit status of a process that is still there
PAUSE = 0.005  # seconds between looks at a process that should end


class Starter:
    """The starter as its parent sees it; it begins at once and ends with `close`.

    Example:
        >>> starter = Starter()
        >>> starter.close()
    """

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair()
        # a session of its own: Ctrl-C does not reach it
        self.process = subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-c", BOOT, str(theirs.fileno()), *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()

    def start(self, connection: int, output: int) -> int:
        """Start a worker.

        Args:
            connection: descriptor of its end of the connection.
            output: descriptor of the pipe that it prints into.

        Returns:
            The number of the process.

        Raises:
            RuntimeError: the engine cannot be imported in another process.
        """
        try:
            socket.send_fds(self.control, [QUESTION.pack(b"+", 0, 0.0)], [connection, output])
            return self._answer()
        except OSError as error:
            self.process.kill()
            printed = self.process.communicate()[1].decode(errors="replace")
            raise RuntimeError(f"the engine failed to start in a process of its own\n{printed}") from error

    def status(self, pid: int, seconds: float) -> int | None:
        """The exit status of a worker, minus the signal that killed it; None if it does not end in time."""
        try:
            self.control.sendall(QUESTION.pack(b"?", pid, seconds))
            found = self._answer()
        except OSError:
            return None
        return None if found == UNKNOWN else found

    def _answer(self) -> int:
        answer = self.control.recv(ANSWER.size)
        if len(answer) != ANSWER.size:
            raise ConnectionResetError("the starter is gone")
        found: int = ANSWER.unpack(answer)[0]
        return found

    def close(self) -> None:
        """End it."""
        self.control.close()
        self.process.kill()
        self.process.communicate()


def serve(descriptor: int) -> None:
    """Start workers for the parent until it is gone; never returns.

    Args:
        descriptor: number of the inherited socket.
    """
    from refimpl.conformance.worker import main  # noqa: PLC0415 - only the starter needs it, and it takes seconds

    os.set_inheritable(descriptor, False)
    control = socket.socket(fileno=descriptor)
    ended: dict[int, int] = {}
    while True:
        question, descriptors, _, _ = socket.recv_fds(control, QUESTION.size, 2)
        if len(question) != QUESTION.size:
            os._exit(0)
        what, pid, seconds = QUESTION.unpack(question)
        if what == b"+":
            pid = os.fork()
            if pid == 0:
                control.close()
                main(*descriptors)
            for inherited in descriptors:
                os.close(inherited)
            control.sendall(ANSWER.pack(pid))
        else:
            control.sendall(ANSWER.pack(_status(pid, seconds, ended)))


def _status(pid: int, seconds: float, ended: dict[int, int]) -> int:
    """Wait for a child; what is known about it already is in `ended`."""
    until = time.monotonic() + seconds
    while pid not in ended:
        with contextlib.suppress(ChildProcessError):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[pid] = os.waitstatus_to_exitcode(status)
                break
        if time.monotonic() > until:
            return UNKNOWN
        time.sleep(PAUSE)
    return ended[pid]
