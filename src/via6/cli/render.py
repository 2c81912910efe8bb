"""Prints the declared routes in the words of another system, for machines that will not run via6.

SYSTEM is iproute2 (for `ip -batch`), networkd, bird, freebsd, openbsd, netplan or networkmanager (nm). A route that
the system cannot express, or would misread, is refused by name: it is left out, said on stderr, and the exit code is
1. Nothing of this machine is looked at.

examples:
  via6 render iproute2 via6.toml | ip -batch -
  via6 render networkd -o /etc/systemd/network via6.toml
  via6 render bird via6.toml > /etc/bird/via6.conf
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from via6.cli.files import load
from via6.cli.main import add_output_options
from via6.errors import FAILED, OK, Refusal
from via6.render import ALIASES, SYSTEMS, Refused, Rendered, render

_OURS = "# Written by via6 render "


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", metavar="SYSTEM", choices=[*SYSTEMS, *ALIASES], help="one of those above")
    parser.add_argument("file", metavar="FILE", help="configuration in TOML; - is standard input")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="write the files into this folder instead: all, or none if a route was refused",
    )
    add_output_options(parser, "-j")


def _describe(refused: Refused) -> str:
    return f"via6: {refused.route.place}: {refused.route.to}: {refused.reason}\n  {refused.remedy}"


def _write(folder: Path, rendered: Rendered) -> None:
    """All files or none: a foreign file in the way is found before the first is written."""
    targets = [(folder / file.name, file.text) for file in rendered.files]
    try:
        for path, _ in targets:
            if path.exists() and not path.read_bytes().startswith(_OURS.encode()):
                raise Refusal(f"{path} was not written by via6", "move it away, or choose another folder")
        for path, text in targets:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(path)
    except OSError as error:
        raise Refusal(f"cannot write {error.filename}: {error.strerror}", "choose another folder") from None


def _print(rendered: Rendered) -> None:
    for file in rendered.files:
        if len(rendered.files) > 1:
            print(f"# ==> {file.name} <==")
        sys.stdout.write(file.text)


def run(args: argparse.Namespace) -> int:
    rendered = render(args.system, load(args.file).routes)
    for refused in rendered.refused:
        print(_describe(refused), file=sys.stderr)
    if args.json:
        files = [{"name": file.name, "text": file.text} for file in rendered.files]
        left_out = [
            {"to": str(r.route.to), "place": r.route.place, "message": r.reason, "remedy": r.remedy}
            for r in rendered.refused
        ]
        print(json.dumps({"files": files, "refused": left_out}, indent=1, ensure_ascii=False))
    elif not args.output:
        _print(rendered)
    elif rendered.refused:
        raise Refusal(f"nothing was written to {args.output}", "see above; without -o the others are printed")
    if args.output and not args.json:
        _write(Path(args.output), rendered)
    return FAILED if rendered.refused else OK
