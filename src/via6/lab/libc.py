"""System calls of Linux that Python has no function for (os.unshare comes with 3.12; setns is in kernel.netns)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from via6.kernel.netns import setns

NOBODY: Final = 65534
CLONE_NEWNS: Final = 0x00020000  # linux/sched.h
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000

MS_NOSUID: Final = 2  # linux/mount.h
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_DUMPABLE: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    _check(_libc.unshare(flags), "unshare")


def has_nobody() -> bool:
    """True if this user namespace has the user `nobody`; that of an ordinary user's lab has one user alone."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= NOBODY < first + count:
            return True
    return False


@contextlib.contextmanager
def hostname(name: str) -> Iterator[None]:
    """What this thread starts meanwhile believes that the machine has this name, where that can be had."""
    here = os.open("/proc/thread-self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            unshare(CLONE_NEWUTS)
            socket.sethostname(name)
        yield
    finally:
        with contextlib.suppress(OSError):
            setns(here, CLONE_NEWUTS)
        os.close(here)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2). Raises OSError."""
    _check(
        _libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode()),
        f"mount {target}",
    )


def die_with_parent(signal_number: int) -> None:
    """The signal this process gets when its parent ends; 0 takes it back. Entering a user namespace forgets it."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number)), "prctl")


def stay_visible() -> None:
    """Lets processes of the same user look into this one's /proc files again after it has changed credentials."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(1)), "prctl")
