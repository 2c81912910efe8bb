"""Finds every mistake of a configuration file at once, each with its place and what to write instead.

The file alone is looked at: whether a device exists or a next hop is on link, `via6 plan` says.
Exit code: 0 if the file can be used (warnings do not count), 1 if not.

examples:
  via6 check /etc/via6/via6.toml
  via6 check -j - < routes.toml       as JSON: place, line, severity, message, remedy
"""

from __future__ import annotations

import argparse
import json

from via6.cli.files import describe, read
from via6.cli.main import add_output_options
from via6.config import Config, parse
from via6.errors import FAILED, OK


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="configuration in TOML; - is standard input")
    add_output_options(parser, "-j")


def _summary(config: Config) -> str:
    words = [f"{len(config.routes)} route{'' if len(config.routes) == 1 else 's'}"]
    if config.babel is not None:
        words.append(f"Babel on {', '.join(config.babel.interfaces)}")
        if not config.babel.exports and config.gateway is None and not config.hosts:
            words.append("announces nothing")
    return ", ".join(words)


def run(args: argparse.Namespace) -> int:
    data, name = read(args.file)
    config, problems = parse(data, name)
    if args.json:
        keys = ("place", "line", "severity", "message", "remedy")
        rows = [json.dumps({key: getattr(p, key) for key in keys}, ensure_ascii=False) for p in problems]
        print("[" + ",\n".join(rows) + "]")
    else:
        for problem in problems:
            print(describe(problem))
        if config is not None:
            print(f"{name}: good, {_summary(config)}")
    return FAILED if config is None else OK
