"""One via6 at a time writes to a network namespace.

The lock is a listening Unix socket with an abstract name: such names are per network namespace, which is just what
must be locked, and vanish with the process, also after kill -9. Any user may bind one, so the holder's user decides:
only root's or our own counts, and a name that somebody else sits on is passed over for the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from typing import Final

from via6.errors import Refusal

_NAMES: Final = ("\0via6/fib", "\0via6/fib/1", "\0via6/fib/2", "\0via6/fib/3")
_QUEUE: Final = 4096  # who asks takes a place in it until the holder takes notice (`drain`) or goes
_TRIES: Final = 5  # a name is bound a moment before it listens


def _holder(name: str) -> int | None:
    """Pid of the via6 that listens there (0: one of another pid namespace), None if there is none."""
    for _ in range(_TRIES):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(name)
            except ConnectionRefusedError:
                if not _bound(name):
                    return None
                time.sleep(0.02)
                continue
            except OSError:
                return None
            pid, uid, _gid = struct.unpack("=iII", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return int(pid) if uid in (0, os.getuid()) else None
    return None


def _bound(name: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(name)
        except OSError:
            return True
        return False


class FibLock:
    """Held until `close`. Raises Refusal when another via6 holds it."""

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        try:
            own = next((name for name in _NAMES if self._take(name)), None)
            for name in _NAMES:
                # Also behind ours: it may have been taken while a stranger sat on the name that is ours now.
                if name != own:
                    self._refuse(_holder(name))
        except BaseException:
            self._socket.close()
            raise

    def _take(self, name: str) -> bool:
        try:
            self._socket.bind(name)
            self._socket.listen(_QUEUE)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise Refusal(f"cannot lock the FIB: {error.strerror}", "try again") from None
            self._refuse(_holder(name))
            return False
        return True

    def _refuse(self, pid: int | None) -> None:
        if pid == 0:
            raise Refusal(
                f"a via6 of another container keeps the routes here; {self._purpose} would fight it", "stop it first"
            )
        if pid:
            raise Refusal(
                f"another via6 (pid {pid}) keeps the routes here; {self._purpose} would fight it",
                ("change its file and `kill -HUP {0}`, or " if _has_file(pid) else "").format(pid)
                + f"stop it first with `kill {pid}`",
            )

    def __enter__(self) -> FibLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Readable when somebody has asked who holds the lock."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Takes notice of those who asked; they know already."""
        with contextlib.suppress(OSError):
            while True:
                self._socket.accept()[0].close()


def _has_file(pid: int) -> bool:
    """Whether that via6 was given a configuration file: `via6 up` was not."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"run" in file.read().split(b"\0")
    except OSError:
        return True
