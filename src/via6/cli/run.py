"""Makes the declared routes so and keeps them so, until it is told to leave.

A route that another hand deletes or changes comes back at once, next hops behind a router are followed when IPv6
moves, links may go and return. What it installs carries protocol 46 (via6); it touches nothing else.

signals: HUP reads FILE again (with a mistake in it, the old one stays in force); TERM and INT leave and remove the
routes, or with --keep leave them.

examples:
  via6 run /etc/via6/via6.toml
  via6 -n r1 run --keep r1.toml
"""

from __future__ import annotations

import argparse

from via6.cli.files import load
from via6.config import Config
from via6.errors import Refusal


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="configuration in TOML; - is standard input (then SIGHUP reads nothing)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the routes in place when leaving")
    parser.add_argument(
        "--nexthop-compat-mode", choices=("0", "1"),
        help="set net.ipv4.nexthop_compat_mode while running and restore it on leaving: with 0 a million routes move"
        " to another next hop in microseconds, but `ip route` and other programs see `nhid N` and no next hop",
    )  # fmt: skip


def _again(file: str) -> Config:
    """The file, for SIGHUP. Standard input is at its end by then, and an empty text would mean: no routes."""
    if file == "-":
        raise Refusal("standard input cannot be read twice", "name a file, then SIGHUP reads it again")
    return load(file)


def run(args: argparse.Namespace) -> int:
    from via6.daemon.journal import refuse_pending
    from via6.daemon.lock import FibLock
    from via6.daemon.run import serve
    from via6.daemon.sysctl import Sysctls
    from via6.kernel.linux import require

    require()
    config = load(args.file)
    with FibLock("a second `via6 run`") as lock:
        refuse_pending()
        sysctls = Sysctls()
        if args.nexthop_compat_mode is None:
            sysctls.restore()  # what a run that was killed could not
        else:
            sysctls.set("net/ipv4/nexthop_compat_mode", args.nexthop_compat_mode)
        try:
            return serve(config, lambda: _again(args.file), lock, keep=args.keep)
        finally:
            sysctls.restore()
