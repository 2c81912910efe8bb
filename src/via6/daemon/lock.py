"""One via6 at a time writes to a network namespace.

The lock is a listening Unix socket with an abstract name: such names are per network namespace, which is just what
must be locked, and vanish with the process, also after kill -9. Any user may bind one, so the holder's user decides:
only root's or our own counts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from typing import Final

from via6.errors import Refusal

_NAME: Final = "\0via6/fib"


def _holder() -> tuple[int, int] | None:
    """(pid, uid) of who listens, or None if nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(_NAME)
        except OSError:
            return None
        pid, uid, _gid = struct.unpack("=iII", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid, uid


class FibLock:
    """Held until `close`. Raises Refusal when another via6 holds it."""

    def __init__(self, purpose: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.bind(_NAME)
            self._socket.listen(8)
        except OSError as error:
            self._socket.close()
            if error.errno != errno.EADDRINUSE:
                raise Refusal(f"cannot lock the FIB: {error.strerror}", "try again") from None
            holder = _holder()
            if holder and holder[1] in (0, os.getuid()):
                raise Refusal(
                    f"another via6 (pid {holder[0]}) keeps the routes here; {purpose} would fight it",
                    f"change its file and `kill -HUP {holder[0]}`, or stop it first with `kill {holder[0]}`",
                ) from None

    def __enter__(self) -> FibLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


def daemon_pid() -> int:
    """Pid of the via6 that keeps this namespace's routes, or 0."""
    holder = _holder()
    return holder[0] if holder and holder[1] in (0, os.getuid()) else 0
