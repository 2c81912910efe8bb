"""How the running daemon is: version, neighbours and routes in numbers, what it warns of, what it has changed here.

examples:
  via6 status
  via6 -n r1 status -j
"""

from __future__ import annotations

import argparse
import sys

from via6.cli.main import add_output_options
from via6.errors import FAILED, OK, Refusal


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `via6 status`."""
    add_output_options(parser, "-j", "-c")


def run(args: argparse.Namespace) -> int:
    """Asks and prints."""
    from via6.daemon.client import ask

    lines = [line for batch in ask({"show": "status"}) for line in batch]
    if len(lines) != 1:
        raise Refusal("the daemon's answer is not understood", "is it another version of via6?", FAILED)
    if args.json:
        sys.stdout.write(f"{lines[0].decode()}\n")
        return OK
    from json import loads

    from via6.cli.output import painter, write_lines
    from via6.observe.babel_text import status_lines

    write_lines(status_lines(loads(lines[0]), painter(args.color)))
    return OK
