"""Takes the last `via6 apply` back. What another hand has changed since is named and left alone.

examples:
  via6 undo
"""

from __future__ import annotations

import argparse
import sys

from via6.cli.changes import Printer, counted, dump, failed_json
from via6.cli.main import add_output_options
from via6.errors import FAILED, OK


def configure(parser: argparse.ArgumentParser) -> None:
    add_output_options(parser, "-j")


def run(args: argparse.Namespace) -> int:
    from via6.daemon.apply import undo
    from via6.kernel.linux import LinuxKernel

    with LinuxKernel() as kernel:
        printer = Printer(kernel.dump(frozenset({"links"})))
    done, changed, failed = undo()
    if args.json:
        left = [printer.json(r) for r in changed]
        dump(printer.json_of(done) | {"left": left, "failed": failed_json(failed)})
    else:
        printer.difference(done)
        for route in changed:
            print(f"via6: {route.prefix} was changed by another hand since: left alone", file=sys.stderr)
        printer.failed(failed)
        print(counted(done, done=True))
    return FAILED if failed else OK
