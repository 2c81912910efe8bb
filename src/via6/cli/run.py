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


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="configuration in TOML (`via6 check` finds its mistakes)")
    parser.add_argument("--keep", action="store_true", help="leave the routes in place when leaving")
    parser.add_argument(
        "--nexthop-compat-mode", choices=("0", "1"),
        help="set net.ipv4.nexthop_compat_mode while running and restore it on leaving: with 0 a million routes move"
        " to another next hop in microseconds, but `ip route` and other programs see `nhid N` and no next hop",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from via6.daemon.lock import FibLock
    from via6.daemon.run import serve
    from via6.kernel.linux import require

    require()
    config = load(args.file)
    with FibLock("a second `via6 run`"):
        if args.nexthop_compat_mode is None:
            return serve(config, lambda: load(args.file), keep=args.keep)
        from via6.daemon.sysctl import Sysctls

        sysctls = Sysctls()
        sysctls.set("net/ipv4/nexthop_compat_mode", args.nexthop_compat_mode)
        try:
            return serve(config, lambda: load(args.file), keep=args.keep)
        finally:
            sysctls.restore()
