"""Sysctls that via6 changes: the old value is written down first, and comes back when via6 leaves.

After a kill -9 the file is still there, so the next run restores what was before the first.
"""

from __future__ import annotations

import json
from pathlib import Path

from via6.daemon.journal import identity, state_file
from via6.errors import Refusal


class Sysctls:
    """Changed sysctls of this network namespace, by path below /proc/sys."""

    def __init__(self) -> None:
        self._path = state_file("sysctl")
        self._old: dict[str, str] = {}
        try:
            found = json.loads(self._path.read_text())
            if found.get("namespace") == identity():
                self._old = {str(name): str(value) for name, value in found["old"].items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise Refusal(f"{self._path}: {error}", "remove the file") from None

    def set(self, name: str, value: str) -> None:
        """Writes a value, having written down the old one. Raises Refusal."""
        path = Path("/proc/sys") / name
        try:
            old = path.read_text().strip()
            if old == value:
                return
            self._old.setdefault(name, old)
            self._save()
            path.write_text(value)
        except OSError as error:
            raise Refusal(f"{error.filename}: {error.strerror}", "run it as root; set VIA6_STATE to a folder") from None

    def restore(self) -> None:
        """Puts every old value back and forgets it. Raises Refusal."""
        try:
            for name, old in self._old.items():
                path = Path("/proc/sys") / name
                if path.exists():  # an interface may be gone, and its sysctls with it
                    path.write_text(old)
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise Refusal(f"{error.filename}: {error.strerror}", f"the old values are in {self._path}") from None
        self._old.clear()

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"namespace": identity(), "old": self._old}))
        new.replace(self._path)
