"""Sysctls that via6 changes: the old value is written down first, and comes back when via6 leaves.

After a kill -9 the file is still there, so the next run restores what was before the first, or goes on where the last
one stood. A value that is no longer what via6 wrote belongs to another hand by now and is left alone.

A sysctl is named by its path below /proc/sys; one of an interface below net/ipv4/conf as `IFINDEX KEY`, such as
`3 forwarding`: the interface may be renamed meanwhile, and another one may get its name.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from via6.daemon.journal import identity, state_file
from via6.errors import Refusal

_ROOT: Final = Path("/proc/sys")
_GONE: Final = (errno.ENOENT, errno.ENODEV, errno.ENXIO)


def of_link(ifindex: int, key: str) -> str:
    """The name of net.ipv4.conf.INTERFACE.`key` here."""
    return f"{ifindex} {key}"


def path(name: str) -> Path | None:
    """Where it is to be found now; None if its interface is gone."""
    ifindex, _, key = name.rpartition(" ")
    if not ifindex:
        return _ROOT / name
    try:
        return _ROOT / "net/ipv4/conf" / socket.if_indextoname(int(ifindex)) / key
    except (OSError, ValueError, OverflowError):
        return None


def read(name: str) -> str | None:
    """The value now; None if there is no such sysctl (any more)."""
    place = path(name)
    try:
        return place.read_text().strip() if place else None
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


class Sysctls:
    """Changed sysctls of this network namespace. A damaged file is put aside, and `problem` says so: the routes of this
    node count for more than its old settings. Raises Refusal when the file cannot be read at all."""

    def __init__(self) -> None:
        self._path = state_file("sysctl")
        self._old: dict[str, str] = {}
        self._new: dict[str, str] = {}
        self.problem = ""
        try:
            found = json.loads(self._path.read_text())
            if found.get("namespace") == identity():
                self._old = {str(name): str(value) for name, value in found["old"].items()}
                self._new = {str(name): str(value) for name, value in found.get("new", {}).items()}
                for name in self._old:
                    int(name.rpartition(" ")[0] or 0)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Refusal(f"{self._path}: {error.strerror}", "remove it") from None
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            self._old, self._new = {}, {}
            aside = self._path.with_suffix(".bad")
            self._path.replace(aside)
            self.problem = f"{self._path} is damaged ({error}); what an earlier run changed stays so: see {aside}"

    @property
    def changed(self) -> Mapping[str, str]:
        """What via6 has changed, with the value before."""
        return {name: old for name, old in self._old.items() if self._new.get(name) != old}

    def before(self, name: str) -> str | None:
        """The value before, of one that was changed or noted."""
        return self._old.get(name)

    def set(self, name: str, value: str) -> None:
        """Writes a value, having written down the old one. Raises Refusal."""
        problems = self.change({name: value})
        if problems:
            raise Refusal(problems[0], "run it as root; set VIA6_STATE to a folder")

    def note(self, name: str) -> None:
        """Writes down the value there is, without a change. The first note stays; a failure is none of the caller's."""
        value = read(name)
        if value is not None and name not in self._old:
            self._old[name] = self._new[name] = value

    def change(self, values: Mapping[str, str], along: Iterable[str] = ()) -> list[str]:
        """Writes values in their order, the old ones first into the file. What went wrong, in words; a sysctl whose
        interface is gone is passed over. `along`: those that the kernel may move with them count as changed, too.
        Raises Refusal when the file cannot be written: then nothing is changed."""
        problems: list[str] = []
        todo: dict[str, str] = {}
        for name, value in values.items():
            try:
                old = read(name)
            except OSError as error:
                problems.append(f"{path(name)}: {error.strerror}")
                continue
            if old is not None and old != value:
                self._old.setdefault(name, old)
                self._new[name] = todo[name] = value
        if not todo:
            return problems
        moved = [name for name in along if name not in todo]
        for name in moved:
            self.note(name)
        self._save()
        for name, value in todo.items():
            try:
                place = path(name)
                if place:
                    place.write_text(value)
            except OSError as error:
                if error.errno not in _GONE:
                    problems.append(f"{place}: {error.strerror}")
        self._new.update((name, now) for name in moved if (now := read(name)) is not None)
        self._save()
        # What has its old value again is nothing to restore.
        self.forget([name for name in (*todo, *moved) if self._new.get(name) == self._old.get(name)])
        return problems

    def forget(self, names: Iterable[str]) -> None:
        """They stay as they are, also when via6 leaves. Raises Refusal when the file cannot be written."""
        known = [name for name in names if name in self._old]
        for name in known:
            del self._old[name]
            self._new.pop(name, None)
        if known:
            self._save()

    def restore(self, names: Iterable[str] | None = None) -> None:
        """Puts old values back and forgets them: of these, or all. Raises Refusal."""
        chosen = [name for name in (list(self._old) if names is None else dict.fromkeys(names)) if name in self._old]
        place: Path | None = None
        try:
            # Settings of the whole namespace first, so that no interface is open for a moment that never was.
            for name in sorted(chosen, key=lambda name: " " in name):
                place = path(name)
                now = read(name)  # an interface may be gone, and its sysctls with it
                if place and now is not None and now == self._new.get(name, now) and now != self._old[name]:
                    place.write_text(self._old[name])
        except OSError as error:
            raise Refusal(f"{place}: {error.strerror}", f"the old values are in {self._path}") from None
        self.forget(chosen)
        if names is None:
            self._save()

    def _save(self) -> None:
        new = self._path.with_suffix(".new")
        try:
            if not self._old:
                self._path.unlink(missing_ok=True)
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with new.open("w") as out:
                json.dump({"namespace": identity(), "old": self._old, "new": self._new}, out)
                out.flush()
                os.fsync(out.fileno())
            os.replace(new, self._path)
        except OSError as error:
            raise Refusal(f"{error.filename}: {error.strerror}", "run it as root; set VIA6_STATE to a folder") from None
