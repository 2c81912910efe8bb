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
