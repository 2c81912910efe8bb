"""What the last apply changed, slot by slot, so that it can be taken back.

One file per network namespace in the state folder (VIA6_STATE, else /var/lib/via6), written before the kernel is
touched and replaced as a whole. A namespace is known by its inode and the boot, because inodes are used again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from via6.errors import Refusal
from via6.model import Route


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
    boot: str
    confirm_pid: int = 0
    confirm_start: int = 0


def state_folder() -> Path:
    return Path(os.environ.get("VIA6_STATE") or "/var/lib/via6")


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _path() -> Path:
    return state_folder() / f"apply-{os.stat('/proc/self/ns/net').st_ino}.json"


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
    if journal.boot != boot_id():
        forget()
        raise Refusal("the last apply was before this boot: its routes are gone", "`via6 apply FILE` again")
    return journal


def forget() -> None:
    _path().unlink(missing_ok=True)


def start_time(pid: int) -> int:
    """Start of a process in clock ticks since boot (proc(5), field 22), 0 if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])
