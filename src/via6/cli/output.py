"""Writing to the terminal: streams of lines, colours when they are wanted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

_LINES_AT_ONCE: Final = 4096
_CODES: Final = {"inet": "35", "inet6": "34", "dev": "36", "bad": "31", "good": "32"}  # those of `ip -c`


def write_lines(lines: Iterable[str]) -> None:
    """Prints lines without holding all of them."""
    rest = iter(lines)
    while chunk := list(islice(rest, _LINES_AT_ONCE)):
        sys.stdout.write("\n".join(chunk) + "\n")


def visible(text: str) -> str:
    """Text of somebody else's, such as names of devices, without what would steer the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def wants_colour(choice: str | None) -> bool:
    """`choice` is what -c says: None (not given: no colours, as `ip`), auto, always or never. NO_COLOR beats auto."""
    if choice == "auto":
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return choice == "always"


def painter(choice: str | None) -> Callable[[str, str], str] | None:
    """A function (kind, text) -> coloured text, or None where nothing is to be coloured."""
    if not wants_colour(choice):
        return None
    return lambda kind, text: f"\033[{_CODES[kind]}m{text}\033[0m" if kind in _CODES else text
