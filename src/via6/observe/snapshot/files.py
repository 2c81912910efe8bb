"""Snapshots from files and folders.

A file holds one snapshot, or several, a line each (JSON Lines), or an array of them; or the text that OpenBSD's
`netstat -rn` or `route -n get` prints, and then the node has the file's name. A folder is its files with these endings.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from via6.errors import USAGE, Refusal
from via6.observe.node import Node
from via6.observe.snapshot import openbsd
from via6.observe.snapshot.decode import AGAIN, decode

ENDINGS: Final = (".json", ".jsonl", ".txt")


def load(paths: Iterable[str | Path]) -> list[Node]:
    """The nodes of files and folders (`-`: standard input), in the order given, those of a folder by file name.
    Raises Refusal: a file that cannot be read or understood, no snapshot at all, two nodes of one name."""
    found: dict[str, tuple[Node, str]] = {}
    places = [place for path in paths for place in _files(str(path))]
    for place in places:
        for node in read(*_octets(place)):
            if node.name in found:
                raise Refusal(
                    f"two snapshots are of a node {node.name!r}: {found[node.name][1]} and {place}",
                    "take one of them away, or give one another name (`via6 snapshot --name NAME`)",
                )
            found[node.name] = node, place
    if not found:
        raise Refusal("no snapshot was named", "`via6 snapshot -o FILE` makes one", USAGE)
    return [node for node, _ in found.values()]


def _files(path: str) -> list[str]:
    if path == "-" or not Path(path).is_dir():
        return [path]
    files = sorted(str(p) for p in Path(path).iterdir() if p.suffix in ENDINGS and p.is_file())
    if not files:
        raise Refusal(f"{path} holds no snapshot", f"the files in it are to end in {', '.join(ENDINGS)}")
    return files


def _octets(path: str) -> tuple[bytes, str]:
    if path == "-":
        if sys.stdin is None:
            raise Refusal("standard input is closed", "name a file")
        return sys.stdin.buffer.read(), "stdin"
    shown = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    try:
        return Path(path).read_bytes(), shown
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise Refusal(f"cannot read {shown}: {reason}", "`via6 snapshot -o FILE` makes one") from None


def read(data: bytes, where: str) -> list[Node]:
    """The nodes of one file's octets."""
    text = data.lstrip()
    if not text:
        raise Refusal(f"{where} is empty", AGAIN)
    if text[:1] not in b"{[":
        node = openbsd.from_text(data.decode(errors="backslashreplace"), Path(where).stem)
        if node is None:
            raise Refusal(f"{where} is neither a snapshot nor the output of `netstat -rn` or `route -n get`", AGAIN)
        return [node]
    if text[:1] == b"[":
        try:
            values = msgspec.json.decode(text, type=list[msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(f"{where}: not JSON: {error}", AGAIN) from None
        return [decode(bytes(value), f"{where}[{at}]") for at, value in enumerate(values)]
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    if len(lines) > 1 and _whole(lines[0][1]):
        return [decode(line, f"{where}:{number}") for number, line in lines]
    return [decode(data, where)]


def _whole(line: bytes) -> bool:
    """True for a line that is a JSON value by itself: then each line is one."""
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
