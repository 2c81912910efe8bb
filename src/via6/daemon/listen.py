"""Where the control socket is, for the daemon: the other half of what `client` says.

The daemon listens twice. Once on an abstract name, which who asks in the same network namespace finds, however it came
there; such a name has no owner and no mode, so who calls is looked at: root, our own user, the group `via6`. And once
on a file, with mode 0660 and that group: the one that VIA6_SOCKET names, else /run/via6/control.sock if this is the
machine's own network namespace. A daemon in another one has the abstract name alone, and so needs no file for which it
would have to find a name.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from via6.daemon import client
from via6.errors import Refusal

_QUEUE: Final = 128
_MODE: Final = 0o660
_NETNS: Final = Path("/run/netns")
_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h, Linux 4.13
_GROUPS: Final = 65536  # as many as a process may be in
_SUN_PATH: Final = 107


class Ear:
    """A listening socket. `file` is its (path, inode), None for an abstract name."""

    def __init__(self, listening: socket.socket, file: tuple[str, int] | None, group: int | None) -> None:
        self.socket = listening
        self._file = file
        self._group = group

    def admits(self, peer: socket.socket) -> bool:
        """True if the one who calls may ask. Whoever could open the file may."""
        if self._file is not None:
            return True
        _pid, uid, gid = array.array("i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid in (0, os.getuid()) or (self._group is not None and gid == self._group):
            return True
        if self._group is None:
            return False
        try:
            groups = array.array("i", peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _GROUPS))
        except OSError:
            return False
        return self._group in groups

    def close(self) -> None:
        """Takes the file away, if it is still ours."""
        self.socket.close()
        if self._file is not None:
            path, inode = self._file
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)


def group_id() -> int | None:
    """Number of the group that may ask; None if there is none."""
    import grp

    try:
        return grp.getgrnam(client.ACCOUNT).gr_gid
    except KeyError:
        return None


def is_machines_own() -> bool:
    """True unless this is a network namespace besides the machine's (the container's) own one."""
    here = client.namespace()
    with contextlib.suppress(OSError):
        return os.stat("/proc/1/ns/net").st_ino == here
    # A service with few capabilities may not look at process 1. Those that `ip netns` made everybody can see.
    with contextlib.suppress(OSError):
        return all(os.stat(_NETNS / name).st_ino != here for name in os.listdir(_NETNS))
    return True


def listen(path: str | None) -> tuple[list[Ear], list[str]]:
    """What to listen on, and what could not be had though the rest can. `path` None: what VIA6_SOCKET says. Raises
    Refusal when another daemon listens there, or a socket that was asked for cannot be made."""
    wanted = client.configured() if path is None else path
    group = group_id()
    ears: list[Ear] = []
    notes: list[str] = []
    try:
        # With a place of its own another daemon here is no obstacle: whoever asks names the place.
        abstract = _abstract(group, alone=not wanted)
        if abstract is not None:
            ears.append(abstract)
        if wanted.startswith("@"):
            ears.append(Ear(_bound(client.address_of(wanted)), None, group))
        elif wanted:
            ears.append(_file(wanted, group))
        elif is_machines_own():
            try:
                ears.append(_file(client.PATH, group))
            except Refusal as refusal:
                if abstract is None:
                    raise
                notes.append(f"{refusal.message}; `via6 show` works all the same")
    except BaseException:
        for ear in ears:
            ear.close()
        raise
    if not ears:
        raise Refusal("other users sit on all names for the control socket", "set VIA6_SOCKET to a path of your own")
    return ears, notes


def _abstract(group: int | None, *, alone: bool) -> Ear | None:
    for name in client.NAMES:
        pid = _who(name)
        if pid is not None and alone:
            raise Refusal(f"{_named(pid)} answers `via6 show` here", "stop it first, or set VIA6_SOCKET to a path")
    for name in client.NAMES:
        with contextlib.suppress(Refusal):
            return Ear(_bound(name), None, group)
    return None


def _who(address: str) -> int | None:
    """Pid of the daemon that listens there (0: it cannot be told); None if none does, or one that nobody believes."""
    try:
        with client.dial(address) as peer:
            pid, uid = client.holder(peer)
    except (ConnectionRefusedError, FileNotFoundError):
        return None
    except OSError:
        return None if address.startswith("\0") else 0
    return pid if not address.startswith("\0") or client.believed(uid) else None


def _named(pid: int) -> str:
    return f"another via6 (pid {pid})" if pid else "a via6 of another container"


def _bound(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    before = os.umask(0o777 & ~_MODE)
    try:
        made.bind(address)
        made.listen(_QUEUE)
    except OSError as error:
        made.close()
        shown = address.replace("\0", "@")
        if error.errno == errno.EADDRINUSE:
            raise Refusal(f"somebody else listens on {shown}", "set VIA6_SOCKET to another path") from None
        raise Refusal(f"cannot listen on {shown}: {error.strerror}", "set VIA6_SOCKET to a path of your own") from None
    finally:
        os.umask(before)
    return made


def _file(path: str, group: int | None) -> Ear:
    if len(os.fsencode(path)) > _SUN_PATH:
        raise Refusal(f"{path}: longer than {_SUN_PATH} octets, which is all that a socket's path may have")
    if "\0" in path:
        raise Refusal("VIA6_SOCKET holds a NUL", "name a path")
    _make_room(path)
    made = _bound(path)
    if group is not None:
        with contextlib.suppress(OSError):  # who is not root has no group to give away
            os.chown(path, -1, group)
    return Ear(made, (path, os.stat(path).st_ino), group)


def _make_room(path: str) -> None:
    """The folder is there, and what a daemon that was killed left is gone."""
    try:
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            os.makedirs(folder)
            os.chmod(folder, 0o755)  # whatever the umask: the group shall get in
        there = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refusal(f"cannot listen on {path}: {error.strerror}", "set VIA6_SOCKET to a path of your own") from None
    if not stat.S_ISSOCK(there.st_mode):
        raise Refusal(f"{path} is there and is no socket", "remove it, or set VIA6_SOCKET to another path")
    pid = _who(path)
    if pid is not None:
        raise Refusal(f"{_named(pid)} listens on {path}", "set VIA6_SOCKET to another path, or stop it first")
    with contextlib.suppress(OSError):
        os.unlink(path)
