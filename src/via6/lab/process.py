"""Processes that must be told apart from others with the same number: by pid and start time."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (/proc/PID/stat, field 22); None if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    return None if fields[0] in "ZX" else int(fields[19])


def alive(pid: int, started: int) -> bool:
    """True if the process with this pid is the one that started then."""
    return start_time(pid) == started


def kill(pid: int, started: int, number: int = signal.SIGKILL) -> None:
    """A signal to exactly this process; none if it is gone and another one has its number."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if alive(pid, started):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def fork() -> int:
    """os.fork, with Ctrl-C held back in the child: in the midst of the interpreter's own work after a fork it would end
    in a traceback. The child calls `interruptible` as soon as it is ready for it."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
    return pid


def interruptible(handler: signal.Handlers) -> None:
    """What Ctrl-C does in this child from now on."""
    signal.signal(signal.SIGINT, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
