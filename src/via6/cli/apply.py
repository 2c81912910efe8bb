"""Makes the declared routes so, once, and reports; `via6 undo` takes it back.

Each route is made so whole or not at all. What via6 installed before and FILE no longer declares is removed; routes
of other hands are left alone. A next hop that is not on link is refused: only `via6 run` can follow it.
Exit code: 0, or 1 if a route could not be made so.

examples:
  via6 apply /etc/via6/via6.toml
  via6 apply --confirm 60 via6.toml     taken back after a minute, unless `via6 confirm` is typed
"""

from __future__ import annotations

import argparse

from via6.cli.changes import Printer, counted, dump, failed_json, refused_json
from via6.cli.files import load
from via6.cli.main import add_output_options
from via6.errors import FAILED, OK


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:9]) <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of seconds from 1 to 86400")
    return int(text)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="configuration in TOML; - is standard input")
    parser.add_argument(
        "--confirm",
        type=_seconds,
        default=0,
        metavar="SECONDS",
        help="take it back by then, unless `via6 confirm` is typed before",
    )
    parser.add_argument(
        "--accept-risk", choices=("lose-ssh",), help="do it even if it cuts the ssh session it is typed in"
    )
    add_output_options(parser, "-j")


def run(args: argparse.Namespace) -> int:
    from via6.daemon.apply import apply

    config = load(args.file)
    report = apply(
        config.routes,
        args.file,
        accept_ssh=args.accept_risk == "lose-ssh",
        confirm_s=args.confirm,
        in_namespace=bool(args.netns),
    )
    printer = Printer(report.proposal.snapshot)
    refused = report.proposal.refused
    if args.json:
        dump(
            printer.json_of(report.done)
            | {"refused": refused_json(refused), "failed": failed_json(report.failed), "confirm_s": args.confirm}
        )
    else:
        printer.difference(report.done)
        printer.refused(refused)
        printer.failed(report.failed)
        print(counted(report.done, done=True) if report.done else "nothing was changed")
        if args.confirm and report.done:
            print(f"taken back in {args.confirm} s, unless `via6 confirm` is typed")
    return FAILED if refused or report.failed else OK
