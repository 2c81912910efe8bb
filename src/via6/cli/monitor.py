"""Prints what the running daemon knows, then each change as it happens, until Ctrl-C or until the daemon leaves.

  +  there is something new (at first: everything)      ~  something has changed      -  something has gone

A line `--- N now, changes follow` stands between the two. With -j each line is an object with `action` (add, change
or remove) and `kind`, and the object itself under its kind; the line between the two is {"end":N}.
Who does not read for long is dropped by the daemon.

examples:
  via6 monitor
  via6 monitor neighbour
  via6 -n r1 monitor route -j
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Final

from via6.cli.main import add_output_options
from via6.cli.show import what
from via6.errors import OK, USAGE, Refusal

_KINDS: Final = ("interface", "neighbour", "route")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `via6 monitor`."""
    parser.usage = "via6 monitor [interface|neighbour|route]… [-j]"
    words = parser.add_argument("words", nargs="*", metavar="KIND", help="only these (all of them if none is named)")
    words.completer = lambda **_: _KINDS  # type: ignore[attr-defined]
    add_output_options(parser, "-j", "-c")


def run(args: argparse.Namespace) -> int:
    """Prints until it is interrupted; a daemon that goes is a Refusal with NO_DAEMON."""
    from via6.cli.output import painter
    from via6.daemon.client import ask

    colour = painter(args.color)
    for lines in ask(question(args.words), follow=True):
        if args.json:
            out = b"\n".join(lines).decode()
        else:
            from json import loads

            from via6.observe.babel_text import change_line

            found = map(loads, lines)
            out = "\n".join(_between(row) if "end" in row else change_line(row, colour) for row in found)
        sys.stdout.write(f"{out}\n")
        sys.stdout.flush()
    return OK


def _between(row: dict[str, Any]) -> str:
    return f"--- {row['end']} now, changes follow"


def question(words: Sequence[str]) -> dict[str, Any]:
    """What to send; raises Refusal."""
    kinds = [what(word, "monitor", "interface, neighbour and route") for word in words]
    if "source" in kinds:
        raise Refusal("sources are not monitored", "`via6 show source` shows them", USAGE)
    return {"monitor": sorted(set(kinds)) or True}
