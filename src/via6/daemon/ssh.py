"""The ssh session that a command was typed in. sudo drops SSH_CONNECTION, so the ancestors' environments are asked,
too."""

from __future__ import annotations

import os
from pathlib import Path

from via6.prefix import Address, PrefixError, parse_scoped

_ANCESTORS = 32


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def session() -> tuple[Address, Address] | None:
    """(client, server) of the ssh session around this process, or None."""
    value = os.environ.get("SSH_CONNECTION", "")
    pid = os.getppid()
    for _ in range(_ANCESTORS):
        if value or pid <= 1:
            break
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            environment = b""
        for entry in environment.split(b"\0"):
            if entry.startswith(b"SSH_CONNECTION="):
                value = entry.partition(b"=")[2].decode("ascii", "replace")
        pid = _parent(pid)
    words = value.split()
    try:
        return (parse_scoped(words[0])[0], parse_scoped(words[2])[0]) if len(words) == 4 else None
    except PrefixError:
        return None
