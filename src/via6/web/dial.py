"""The helper that opens the TCP connections of desktops: `python -m via6.web.dial FD`, started by web/desktop.py.

A socket belongs to the network namespace it was made in, whoever reads it later. So this process goes into the
namespace of the near host once, gives up every privilege there, and from then on connects and hands the connected
sockets over (SCM_RIGHTS). Why a process: a thread cannot give up its user alone, and the server needs its own to watch
the nodes of a lab. For desktops the server needs no privilege and enters no namespace; and what it may ask for is a
name out of the list that was given at the start, not an address.

Words on the socket, one JSON object per datagram (SOCK_SEQPACKET):

    -> {"near": "lab/h1", "desktops": {"h2": ["10.4.0.10", 5900]}}      the first one
    <- {"ready": true} or {"refusal": [message, remedy]}
    -> {"id": 7, "name": "h2"}
    <- {"id": 7} with a socket, or {"id": 7, "why": "connection refused"}

It ends when the other end is closed, so also with the server, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import sys
import threading
from typing import Any, Final

from via6.errors import Refusal
from via6.kernel import netns
from via6.lab.libc import NOBODY, has_nobody

CONNECT_S: Final = 8.0
MAX_WORDS: Final = 65536  # octets of a message
_MOST_AT_ONCE: Final = 32
_PR_CAPBSET_DROP: Final = 24  # linux/prctl.h
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522  # linux/capability.h
_KEEP_IDLE_S: Final = 60


def main(descriptor: int) -> None:
    """Serves one other end until it closes."""
    channel = socket.socket(fileno=descriptor)
    try:
        orders = json.loads(channel.recv(MAX_WORDS))
        # What a name of a host needs is loaded now: nobody may not read root's Python.
        "x".encode("idna")
        if orders["near"]:
            netns.enter(orders["near"])
        drop_privileges()
    except Refusal as refusal:
        _tell(channel, {"refusal": [refusal.message, refusal.remedy]})
        return
    except OSError as error:
        _tell(channel, {"refusal": [f"the helper of desktops cannot give up its privileges: {error.strerror}", ""]})
        return
    _tell(channel, {"ready": True})
    places = {name: (str(host), int(port)) for name, (host, port) in orders["desktops"].items()}
    at_once = threading.BoundedSemaphore(_MOST_AT_ONCE)
    while words := _hear(channel):
        question = json.loads(words)
        if at_once.acquire(blocking=False):
            # A name may take seconds to resolve, and one desktop must not wait for another.
            threading.Thread(target=_serve, args=(channel, question, places, at_once), daemon=True).start()
        else:
            _tell(channel, {"id": question["id"], "why": "too many connections are being opened"})


def _hear(channel: socket.socket) -> bytes:
    try:
        return channel.recv(MAX_WORDS)
    except ConnectionResetError:  # it was closed before it read our last words
        return b""


def _serve(
    channel: socket.socket, question: dict[str, Any], places: dict[str, tuple[str, int]], done: threading.Semaphore
) -> None:
    try:
        answer = {"id": question["id"]}
        if question["name"] not in places:
            _tell(channel, answer | {"why": "not in the list"})
            return
        try:
            with socket.create_connection(places[question["name"]], timeout=CONNECT_S) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_IDLE_S)
                _tell(channel, answer, sock)
        except OSError as error:
            why = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
            _tell(channel, answer | {"why": why})
    finally:
        done.release()


def _tell(channel: socket.socket, words: dict[str, Any], sock: socket.socket | None = None) -> None:
    descriptors = [] if sock is None else [sock.fileno()]
    with contextlib.suppress(OSError):  # the other end has gone: so shall we
        socket.send_fds(channel, [json.dumps(words).encode()], descriptors)


# --- privileges ----------------------------------------------------------------------------------------------------


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def drop_privileges() -> None:
    """This process is `nobody` from now on, where it was root; in a user namespace that has one user only it stays
    that user, without capabilities. Nothing that it starts gets them back. Call it before there are threads. Raises
    OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = 0
    while libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) == 0:
        number += 1
    if os.geteuid() == 0 and has_nobody():
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    none = (ctypes.c_uint32 * 6)()
    if libc.capset(ctypes.byref(_CapHeader(_CAPABILITY_VERSION_3, 0)), none) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main(int(sys.argv[1]))
