"""What `via6 doctor --fix` changes, and the journal by which `--undo` takes it back.

The old value is on disk before the new one is written. A journal is of one network namespace, as that of apply, and
grows: what several runs have mended is taken back together, the last first. Only what still is as we left it is put
back; what another hand has changed meanwhile is named and stays. An interface is known by its number as well: another
one may have its name by now.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import socket
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from via6.daemon.journal import identity, state_file
from via6.errors import Refusal
from via6.observe.doctor.finding import Fix, RunCommand, SetSysctl
from via6.observe.doctor.look import sysctl_name

_ROOT: Final = Path("/proc/sys")
_PATIENCE_S: Final = 10.0
_LOCK: Final = "\0via6/doctor"
"""An abstract socket: it is of this network namespace and goes with the process, as that of `daemon.lock`."""


@dataclass(frozen=True)
class Entry:
    """One thing that was mended. A sysctl: `path` below /proc/sys, its values, and the number of the interface in it
    (0: it has none). A command: what was run, what takes it back, and what `look` printed behind it. `done`: it came to
    that."""

    path: str = ""
    before: str = ""
    after: str = ""
    ifindex: int = 0
    command: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    look: tuple[str, ...] = ()
    looks: str = ""
    done: bool = False

    @property
    def text(self) -> str:
        """In words."""
        if self.path:
            return f"{sysctl_name(self.path)} = {self.after} (was {self.before})"
        return shlex.join(self.command)


@dataclass(frozen=True)
class Mended:
    """The journal's file."""

    namespace: str
    entries: tuple[Entry, ...] = ()


def fix(fixes: Iterable[Fix]) -> tuple[list[Entry], list[str]]:
    """Mends. What was changed, and what went wrong, in words. Raises Refusal when there can be no journal: then nothing
    is changed."""
    with _alone():
        return _fix(fixes)


def _fix(fixes: Iterable[Fix]) -> tuple[list[Entry], list[str]]:
    changed: list[Entry] = []
    problems: list[str] = []
    for one in dict.fromkeys(fixes):
        try:
            entry = _sysctl(one) if isinstance(one, SetSysctl) else _command(one)
        except OSError as error:
            problems.append(f"{error.filename or one}: {error.strerror}")
            continue
        if entry is None:
            continue
        before = _read()
        _write(replace(before, entries=(*before.entries, entry)))
        problem = _do(entry)
        if problem:
            problems.append(problem)
            _write(before)
            continue
        entry = replace(entry, looks=_shown(entry.look), done=True)
        _write(replace(before, entries=(*before.entries, entry)))
        changed.append(entry)
    return changed, problems


def undo() -> tuple[list[str], list[str], list[str]]:
    """Takes back what was mended: (what was, what another hand has changed, what went wrong), in words. What went wrong
    stays in the journal. Raises Refusal if there is nothing to take back."""
    with _alone():
        return _undo()


def _undo() -> tuple[list[str], list[str], list[str]]:
    held = _read()
    if not held.entries:
        raise Refusal("nothing that `via6 doctor --fix` did here is left to take back", "`via6 doctor` looks again")
    back: list[str] = []
    left: list[str] = []
    problems: list[str] = []
    kept: list[Entry] = []
    for entry in reversed(held.entries):
        try:
            said, foreign = _back(entry)
        except OSError as error:
            problems.append(f"{entry.text}: {error.strerror or error}")
            kept.append(entry)
            continue
        if said:
            (left if foreign else back).append(said)
    _write(replace(held, entries=tuple(reversed(kept))))
    return back, left, problems


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One at a time: two would write one journal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        try:
            lock.bind(_LOCK)
        except OSError:
            raise Refusal("another via6 doctor mends something here", "try again when it is done") from None
        yield


# --- one thing -----------------------------------------------------------------------------------------------------


def _interface(path: str) -> str:
    parts = path.split("/")
    return parts[3] if len(parts) == 5 and parts[2] in ("conf", "neigh") and parts[3] not in ("all", "default") else ""


def _sysctl(one: SetSysctl) -> Entry | None:
    """None: the value is that already."""
    before = (_ROOT / one.path).read_text().strip()
    if before == str(one.value):
        return None
    dev = _interface(one.path)
    return Entry(one.path, before, str(one.value), socket.if_nametoindex(dev) if dev else 0)


def _command(one: RunCommand) -> Entry | None:
    return Entry(command=one.command, undo=one.undo, look=one.look) if one.undo else None


def _do(entry: Entry) -> str:
    """Empty if it was done, else what went wrong."""
    try:
        if entry.path:
            (_ROOT / entry.path).write_text(entry.after)
        else:
            _run(entry.command)
    except OSError as error:
        what = sysctl_name(entry.path) if entry.path else entry.text
        hint = ": run it as root" if error.errno in (errno.EPERM, errno.EACCES) else ""
        return f"{what}: {error.strerror or error}{hint}"
    return ""


def _back(entry: Entry) -> tuple[str, bool]:
    """(what happened, True if it was left to another hand); nothing happened: ("", False)."""
    if not entry.path:
        if not entry.done:
            return f"{entry.text}: nobody knows whether it was run: see for yourself", True
        if entry.look and _shown(entry.look) != entry.looks:
            return f"{shlex.join(entry.look)} says something else by now than after --fix", True
        _run(entry.undo)
        return shlex.join(entry.undo), False
    name, place = sysctl_name(entry.path), _ROOT / entry.path
    dev = _interface(entry.path)
    try:
        now = place.read_text().strip()
        gone = bool(dev) and socket.if_nametoindex(dev) != entry.ifindex
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise
        gone, now = True, ""
    if gone:
        return f"{name}: that interface is gone", True
    if now == entry.before:
        return "", False
    if now != entry.after:
        return f"{name} is {now} by now, not the {entry.after} of --fix", True
    place.write_text(entry.before)
    return f"{name} = {entry.before}", False


def _shown(look: tuple[str, ...]) -> str:
    return _run(look) if look else ""


def _run(command: tuple[str, ...]) -> str:
    """What it printed. Raises OSError with what it complained of."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, "it did not end in time") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise OSError(errno.EIO, said[-1] if said else f"it ended with {done.returncode}")
    return done.stdout


# --- the file ------------------------------------------------------------------------------------------------------


def _read() -> Mended:
    """The journal of this namespace; an empty one if there is none, or one of a namespace that is gone."""
    path = state_file("doctor")
    try:
        held = msgspec.json.decode(path.read_bytes(), type=Mended)
    except (FileNotFoundError, NotADirectoryError):
        return Mended(identity())
    except (OSError, msgspec.MsgspecError) as error:
        raise Refusal(f"{path}: {error}", "look at it, then remove it; what was mended stays so") from None
    return held if held.namespace == identity() else Mended(identity())


def _write(held: Mended) -> None:
    path = state_file("doctor")
    try:
        if not held.entries:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        with new.open("wb") as out:
            out.write(msgspec.json.encode(held))
            out.flush()
            os.fsync(out.fileno())
        new.replace(path)
    except OSError as error:
        raise Refusal(
            f"{path}: {error.strerror}: without a journal there is no undo",
            "run it as root, or name a folder of your own: VIA6_STATE=~/.local/state/via6",
        ) from None
