"""Entering a network namespace, as `ip -n` does."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from via6.errors import Refusal

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
NAMED: Final = Path("/run/netns")


def setns(descriptor: int, kind: int = CLONE_NEWNET) -> None:
    """setns(2); os.setns exists from Python 3.12 only. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def names() -> list[str]:
    """The named namespaces, as `ip netns list` shows them."""
    try:
        return sorted(os.listdir(NAMED))
    except FileNotFoundError:
        return []


def _path(name: str) -> Path:
    if "/" in name and Path(name).exists():
        return Path(name)
    if "/" not in name and (NAMED / name).exists():
        return NAMED / name
    from via6.lab.state import node_netns

    found = node_netns(name)
    if found is None:
        known = ", ".join(names()[:8]) or "none"
        raise Refusal(
            f"there is no network namespace {name!r}",
            f"`ip netns list` names those there are ({known}); `ip netns add {name}` makes one",
        )
    return Path(found)


def enter(name: str) -> None:
    """Moves this process into a namespace: a name of `ip netns`, a path, or NODE or LAB/NODE of a running lab."""
    path = _path(name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Refusal(f"network namespace {name!r}: {error.strerror}", "run it as root") from None
    try:
        setns(descriptor)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise Refusal(f"not allowed to enter network namespace {name!r}", "run it as root") from None
        raise Refusal(f"{path} is not a network namespace: {error.strerror}", "`ip netns list` names them") from None
    finally:
        os.close(descriptor)
