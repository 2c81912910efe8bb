"""Makes the declared routes so and keeps them so, until it is told to leave; with [babel], it finds them itself.

A route that another hand deletes or changes comes back at once, next hops behind a router are followed when IPv6
moves, links may go and return. What it installs carries protocol 46 (via6); it touches nothing else.

signals: HUP reads FILE and its key files again (with a mistake in it, the old one stays in force); TERM and INT leave
and remove the routes, or with --keep leave them.

examples:
  via6 run /etc/via6/via6.toml
  via6 -n r1 run --keep r1.toml
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Final

from via6.cli.files import load
from via6.cli.keys import secrets_shown, with_keys
from via6.config import Config
from via6.errors import FAILED, OK, Refusal

_COMPAT_MODE: Final = "net/ipv4/nexthop_compat_mode"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="configuration in TOML; - is standard input (then SIGHUP reads nothing)"
    )
    add_daemon_options(parser)


def add_daemon_options(parser: argparse.ArgumentParser) -> None:
    """Those of every verb that stays."""
    parser.add_argument("--keep", action="store_true", help="leave the routes in place when leaving")
    parser.add_argument(
        "--nexthop-compat-mode", choices=("0", "1"),
        help="set net.ipv4.nexthop_compat_mode while running and restore it on leaving: with 0 a million routes move"
        " to another next hop in microseconds, but `ip route` and other programs see `nhid N` and no next hop",
    )  # fmt: skip


def _load(file: str) -> Config:
    config = with_keys(load(file), "" if file == "-" else os.path.dirname(file))
    if file != "-" and secrets_shown(config, file):
        shown = os.fsencode(file).decode(errors="backslashreplace")
        message = f"via6: warning: {shown} has secrets in it, and everybody can read it\n  chmod o= {shown}"
        print(message, file=sys.stderr)
    return config


def _again(file: str) -> Config:
    """The file, for SIGHUP. Standard input is at its end by then, and an empty text would mean: no routes."""
    if file == "-":
        raise Refusal("standard input cannot be read twice", "name a file, then SIGHUP reads it again")
    return _load(file)


def stay(config: Config, again: Callable[[], Config], args: argparse.Namespace, verb: str, file: str = "") -> int:
    """Runs the daemon until it is told to leave; the exit code. `again` makes the configuration anew."""
    from via6.daemon.journal import refuse_pending
    from via6.daemon.lock import FibLock
    from via6.daemon.run import serve
    from via6.daemon.sysctl import Sysctls

    with FibLock(f"a second `via6 {verb}`") as lock:
        refuse_pending()
        sysctls = Sysctls()
        if config.babel is None:
            sysctls.restore()  # what a run that was killed could not
        elif args.nexthop_compat_mode is None:
            # The routes of that run carry on and are taken over: their forwarding must not blink.
            sysctls.restore([_COMPAT_MODE])
        if args.nexthop_compat_mode is not None:
            sysctls.set(_COMPAT_MODE, args.nexthop_compat_mode)
        code = FAILED
        try:
            code = serve(config, again, lock, keep=args.keep, sysctls=sysctls, file=file)
        finally:
            # Routes of Babel that stay are of no use where nothing is forwarded.
            stays = config.babel is not None and (args.keep or code != OK)
            sysctls.restore([_COMPAT_MODE] if stays else None)
        return code


def run(args: argparse.Namespace) -> int:
    from via6.kernel.linux import require

    require()
    config = _load(args.file)
    return stay(config, lambda: _again(args.file), args, "run", args.file)
