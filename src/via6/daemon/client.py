"""Asking the daemon: where its control socket is, and one question with its answer. Synchronous, and quick to import.

Where it is. VIA6_SOCKET names a socket (`@NAME` an abstract one), and then only that is asked. Else it is the daemon of
*this* network namespace that is meant, whatever namespaces of files there are, so the abstract name comes first: such
names are per network namespace, and both `via6 -n r1` and `ip netns exec r1 via6` see those of r1. Any user may bind
one; only a name held by root, by ourselves or by the user `via6` is believed. Last comes /run/via6/control.sock, for
who can reach no other (a container with the host's folder in it, a daemon of another user); the daemon says in which
network namespace it is, and one of another is not taken for ours.

What is said. Each side sends lines, a JSON object each. A question is answered by any number of objects and
`{"end": N}`, or by `{"error": TEXT, "remedy": TEXT}` at any time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from via6.errors import FAILED, NO_DAEMON, Refusal

PATH: Final = "/run/via6/control.sock"
NAMES: Final = ("\0via6/control", "\0via6/control/1", "\0via6/control/2", "\0via6/control/3")
ACCOUNT: Final = "via6"
"""The group that may ask, and the user that is believed besides root, if there are such."""

_PATIENCE_S: Final = 30.0
_CONNECT_S: Final = 5.0
_STRANGER_S: Final = 1.0  # anybody may sit on an abstract name and not listen
_START: Final = "`via6 up INTERFACE…` or `via6 run FILE` starts one; `via6 -n NAME …` asks that of a namespace"
_END: Final = b'{"end":'
_ERROR: Final = b'{"error":'


def address_of(path: str) -> str:
    """What bind and connect take: `@NAME` is an abstract name, as for systemd."""
    return f"\0{path[1:]}" if path.startswith("@") else path


def namespace() -> int:
    """Inode of this network namespace; no two that exist at one time have the same."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def configured() -> str:
    """What VIA6_SOCKET says; empty if it says nothing."""
    return os.environ.get("VIA6_SOCKET", "")


def holder(peer: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process at the other end."""
    pid, uid, _gid = struct.unpack("=iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid), int(uid)


def believed(uid: int) -> bool:
    """True for a user whose daemon we take for the daemon of this machine."""
    if uid in (0, os.getuid()):
        return True
    import pwd

    with contextlib.suppress(KeyError):
        return pwd.getpwnam(ACCOUNT).pw_uid == uid
    return False


def dial(address: str) -> socket.socket:
    """A connection, whoever is there. Raises OSError."""
    patience = _STRANGER_S if address.startswith("\0") else _CONNECT_S
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    end = time.monotonic() + patience
    try:
        peer.settimeout(patience)
        while True:
            try:
                peer.connect(address)
            except BlockingIOError:  # its queue is full, and a Unix socket does not wait for that
                if time.monotonic() > end:
                    raise TimeoutError(errno.ETIMEDOUT, "it does not answer") from None
                time.sleep(0.02)
            else:
                return peer
    except BaseException:
        peer.close()
        raise


def connect() -> socket.socket:
    """A connection to the daemon that is meant. Raises Refusal with NO_DAEMON."""
    path = configured()
    if path:
        try:
            return dial(address_of(path))
        except (OSError, ValueError) as error:  # ValueError: a NUL in it
            raise _not_reached(path, error, " (VIA6_SOCKET)") from None
    for name in NAMES:
        with contextlib.suppress(OSError):
            peer = dial(name)
            if believed(holder(peer)[1]):
                return peer
            peer.close()
    try:
        there = _namespace_of_path()
        if there == namespace():
            return dial(PATH)
    except FileNotFoundError:
        raise Refusal("no via6 daemon runs in this network namespace", _START, NO_DAEMON) from None
    except OSError as error:
        raise _not_reached(PATH, error) from None
    raise Refusal(
        f"no via6 daemon runs in this network namespace; the one at {PATH} is of another",
        f"{_START}; `VIA6_SOCKET={PATH} via6 …` asks the other",
        NO_DAEMON,
    )


def _not_reached(path: str, error: Exception, whence: str = "") -> Refusal:
    if isinstance(error, PermissionError):
        return Refusal(
            f"not allowed to talk to the daemon at {path}{whence}",
            f"run it as root, or join the group that owns the socket: `usermod -aG {ACCOUNT} USER`",
            NO_DAEMON,
        )
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Refusal(f"no via6 daemon answers at {path}{whence}: {said}", _START, NO_DAEMON)


def _namespace_of_path() -> int:
    with dial(PATH) as peer:
        for lines in _converse(peer, {"show": "about"}):
            for line in lines:
                return int(json.loads(line)["netns"])
    return 0


def ask(question: Mapping[str, Any], *, follow: bool = False, patience_s: float = _PATIENCE_S) -> Iterator[list[bytes]]:
    """The answer's lines, as many at a time as there are, up to the end; with `follow` the mark of the end is a line
    like others, and what comes behind it, too. Raises Refusal: NO_DAEMON if there is none or it goes, FAILED with the
    daemon's own words for what it will not answer."""
    with connect() as peer:
        yield from _converse(peer, question, follow, patience_s)


def _converse(
    peer: socket.socket, question: Mapping[str, Any], follow: bool = False, patience_s: float = _PATIENCE_S
) -> Iterator[list[bytes]]:
    peer.settimeout(patience_s)
    with contextlib.suppress(ConnectionError):  # it may have said no and hung up; that stands to be read
        peer.sendall(json.dumps(question).encode() + b"\n")
    rest = b""
    while True:
        try:
            data = peer.recv(1 << 17)
        except TimeoutError:
            raise Refusal(f"the daemon has not answered for {patience_s:.0f} s", "is it stopped?", NO_DAEMON) from None
        except ConnectionResetError:
            data = b""
        if not data:
            raise Refusal("the daemon has hung up", "its log says why; try again", NO_DAEMON)
        lines = (rest + data).split(b"\n")
        rest = lines.pop()
        for at, line in enumerate(lines):
            if line.startswith(_ERROR):
                if at:
                    yield lines[:at]
                _refuse(line)
            if line.startswith(_END) and not follow:
                if at:
                    yield lines[:at]
                return
            if line.startswith(_END):
                peer.settimeout(None)
        if lines:
            yield lines


def _refuse(line: bytes) -> None:
    said = json.loads(line)
    raise Refusal(said["error"], said.get("remedy", ""), said.get("code", FAILED))
