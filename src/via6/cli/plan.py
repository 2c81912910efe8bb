"""Prints what `apply` would change on this node, and changes nothing.

`+` would be added, `~` changed, `-` removed, `!` cannot be done (with the remedy). Needs no root.
Exit code: 0, or 1 if something declared cannot be done; with --exit-code 3 if something would change.

examples:
  via6 plan /etc/via6/via6.toml
  via6 plan --exit-code via6.toml || echo 'the node differs from the file'
"""

from __future__ import annotations

import argparse

from via6.cli.changes import Printer, counted, dump, refused_json
from via6.cli.files import load
from via6.cli.main import add_output_options
from via6.errors import FAILED, OK, TROUBLE


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="configuration in TOML; - is standard input")
    parser.add_argument("--exit-code", action="store_true", help="exit with 3 if something would change")
    add_output_options(parser, "-j")


def run(args: argparse.Namespace) -> int:
    from via6.daemon.apply import propose
    from via6.kernel.linux import LinuxKernel, require

    require()
    config = load(args.file)
    with LinuxKernel() as kernel:
        proposal = propose(kernel, config.routes)
    printer = Printer(proposal.snapshot)
    if args.json:
        occupied = [printer.json(r) for r in proposal.occupied.values()]
        dump(printer.json_of(proposal.difference) | {"refused": refused_json(proposal.refused), "occupied": occupied})
    else:
        printer.difference(proposal.difference)
        printer.refused(proposal.refused)
        printer.occupied(proposal)
        print(counted(proposal.difference, done=False) if proposal.difference else "nothing to change")
    if proposal.refused or proposal.occupied:
        return FAILED
    return TROUBLE if args.exit_code and proposal.difference else OK
