"""What the last apply changed, slot by slot, so that it can be taken back.

One file per network namespace in the state folder (VIA6_STATE, else /var/lib/via6), written before the kernel is
touched and replaced as a whole. The file is named by the namespace's inode. Inodes are used again, so the file also
says which namespace is meant: the boot, and the cookie that the kernel gives each namespace of a boot (from 5.14).
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from via6.errors import Refusal
from via6.model import Route

_SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h


@dataclass(frozen=True)
class Entry:
    """One slot: what was there and what the apply put there (None: nothing)."""

    before: Route | None
    after: Route | None


@dataclass(frozen=True)
class Journal:
    """`confirm_pid` is the process that undoes it unless `via6 confirm` comes (0: none), `confirm_start` its start
    time in clock ticks (proc(5)), so that no other process with this pid is taken for it."""

    file: str
    entries: tuple[Entry, ...]
    namespace: str
    confirm_pid: int = 0
    confirm_start: int = 0


def state_folder() -> Path:
    return Path(os.environ.get("VIA6_STATE") or "/var/lib/via6")


def identity() -> str:
    """Of this network namespace, never used again: boot id and namespace cookie, as far as the kernel tells them."""
    boot = cookie = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        cookie = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8).hex()
    return f"{boot} {cookie}"


def state_file(kind: str) -> Path:
    """The file of this kind for this network namespace."""
    return state_folder() / f"{kind}-{os.stat('/proc/thread-self/ns/net').st_ino}.json"


def _path() -> Path:
    return state_file("apply")


def write(journal: Journal) -> None:
    """Raises Refusal when the folder cannot be written: an apply that cannot be undone is not begun."""
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        with new.open("wb") as out:
            out.write(msgspec.json.encode(journal))
            out.flush()
            os.fsync(out.fileno())
        new.replace(path)
    except OSError as error:
        raise Refusal(
            f"{path}: {error.strerror}: without a journal there is no undo",
            "run it as root, or name a folder of your own: VIA6_STATE=~/.local/state/via6",
        ) from None


def read() -> Journal:
    """The last apply in this namespace; Refusal if there is none to take back."""
    path = _path()
    try:
        journal = msgspec.json.decode(path.read_bytes(), type=Journal)
    except FileNotFoundError:
        raise Refusal(
            "there is no apply to take back in this network namespace", "`via6 apply FILE` makes one"
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise Refusal(f"{path}: {error}", "remove the file; the routes stay as they are") from None
    if journal.namespace != identity():
        forget()
        raise Refusal("the last apply was before this boot or in a namespace that is gone", "`via6 apply FILE` again")
    return journal


def forget() -> None:
    _path().unlink(missing_ok=True)


def pending(last: Journal) -> bool:
    """A process waits to take it back."""
    return bool(last.confirm_pid) and start_time(last.confirm_pid) == last.confirm_start != 0


def refuse_pending() -> None:
    """Raises Refusal while an apply waits for its confirmation: it could not be taken back under another change."""
    try:
        last = read()
    except Refusal:
        return
    if pending(last):
        raise Refusal(
            f"the apply of {last.file} waits for confirmation", "first `via6 confirm` to keep it, or `via6 undo`"
        )


def start_time(pid: int) -> int:
    """Start of a process in clock ticks since boot (proc(5), field 22), 0 if there is none that lives."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])
