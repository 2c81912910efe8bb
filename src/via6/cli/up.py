"""Speaks Babel on these interfaces: neighbours find each other, agree on routes, and IPv4 flows.

Nothing is announced unless --export says so: `connected` is the IPv4 networks on this node's links and the addresses
on lo, `static` the routes typed in, `default` the IPv4 default route while there is one that is not Babel's, a prefix
exactly this one while the node can reach it. Interfaces are names or patterns in quotes ('wg*'; '!wg9' is left out).

Runs until it is told to leave, as `via6 run` does with the same in a [babel] table, which can say more (via6.toml(5)).

signals: HUP reads the key file again; TERM and INT retract and leave, and remove the routes, or with --keep leave them.

examples:
  via6 up eth1 eth2 --export connected
  via6 up 'wg*' --address 10.0.0.1 --export 10.0.0.1/32 --key /etc/via6/babel.keys
  via6 -n r1 up eth0 --export connected --export default --hello-interval 100
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import Any, Final

from via6.cli.keys import with_keys
from via6.cli.run import add_daemon_options, stay
from via6.config import Config, Problem, declared
from via6.config_shape import is_glob
from via6.errors import USAGE, Refusal

_OPTIONS: Final = {
    "babel.interfaces": "INTERFACE",
    "babel.export": "--export",
    "babel.import": "--import",
    "babel.families": "--family",
    "babel.key": "--key",
    "babel.accept_all": "--accept-all",
    "babel.cost": "--cost",
    "babel.hello_interval_ms": "--hello-interval",
    "babel.update_interval_ms": "--update-interval",
    "babel.kernel_metric": "--kernel-metric",
    "node.address": "--address",
    "node.name": "--name",
    "gateway": "--gateway",
    "trace.interfaces": "--trace-on",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("interfaces", metavar="INTERFACE", nargs="+", help="a name, or a pattern in quotes")
    add = parser.add_argument
    add("--export", metavar="WHAT", action="append", help="connected, static, default or a prefix; again for more")
    add("--import", metavar="WHAT", action="append", dest="imports",
        help="take only this: any, default or a prefix; again for more (else: all that is sensible)")  # fmt: skip
    add("--address", metavar="A.B.C.D", help="an IPv4 address for this node, put on lo: source of its own packets")
    add("--name", metavar="NAME", help="of this node, for people")
    add("--key", metavar="FILE", action="append", help="sign, and demand signatures, with the keys in this file")
    add("--accept-all", action="store_true", help="sign, but take unsigned packets, too (while keys are rolled out)")
    add("--family", action="append", choices=("ipv4", "ipv6"), help="carry these routes; again for both (default ipv4)")
    add("--cost", metavar="N", type=int, help="of the links, 1 to 65534 (default 96)")
    add("--hello-interval", metavar="MS", type=int, help="milliseconds, 50 or more (default 1000)")
    add("--update-interval", metavar="MS", type=int, help="milliseconds (default 16000)")
    add("--kernel-metric", metavar="N", type=int, help="of the routes in the kernel (default 460)")
    add("--gateway", action="store_true", help="offer this node's IPv4 default route to the others")
    add("--masquerade", action="store_true", help="with --gateway: translate what leaves by it to this node's address")
    add("--trace-on", metavar="INTERFACE", action="append",
        help="let hosts on this LAN, too, ask for the way of a packet (`via6 trace`); again for more")  # fmt: skip
    add_daemon_options(parser)


def tables(args: argparse.Namespace) -> dict[str, Any]:
    """What a file would have to say for the same."""
    keys = [os.path.abspath(path) for path in args.key or ()]
    babel = {
        "interfaces": args.interfaces,
        "export": _several(args.export),
        "import": _several(args.imports),
        "families": args.family,
        "cost": args.cost,
        "hello_interval_ms": args.hello_interval,
        "update_interval_ms": args.update_interval,
        "kernel_metric": args.kernel_metric,
        "key": keys or None,
        "accept_all": args.accept_all or None,
    }
    node = {"name": args.name, "address": args.address}
    made: dict[str, Any] = {"node": _given(node), "babel": _given(babel)}
    if args.gateway:
        made["gateway"] = {"masquerade": args.masquerade}
    if args.trace_on:
        made["trace"] = {"interfaces": args.trace_on}
    return made


def _given(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}


def _several(given: list[str] | None) -> list[str] | None:
    """`--export a,b` is `--export a --export b`."""
    return None if given is None else [word for text in given for word in text.split(",")]


def _describe(problem: Problem) -> str:
    option = next((o for place, o in _OPTIONS.items() if problem.place.startswith(place)), problem.place)
    return f"{option}: {problem.message}"


def _remedy(problem: Problem) -> str:
    """Interfaces are words here, and no list of a file."""
    return "names, or patterns in quotes: via6 up eth1 'wg*'" if problem.place == "babel.interfaces" else problem.remedy


def config_of(args: argparse.Namespace) -> Config:
    """The configuration, its key files read. Warnings go to stderr. Raises Refusal with all mistakes."""
    if args.masquerade and not args.gateway:
        raise Refusal("--masquerade: of what leaves by which default route?", "add --gateway", USAGE)
    found, problems = declared(tables(args), "via6 up")
    errors = [problem for problem in problems if problem.severity == "error"]
    if found is None or errors:
        *first, last = errors
        lines = [f"{_describe(problem)}\n  {_remedy(problem)}" for problem in first]
        raise Refusal("\n".join([*lines, _describe(last)]), _remedy(last), USAGE)
    for problem in problems:
        print(f"via6: warning: {_describe(problem)}\n  {_remedy(problem)}", file=sys.stderr)
    return with_keys(found)


def missing(config: Config, names: Iterable[str]) -> None:
    """Refuses interfaces that are named and not there; patterns may find theirs later."""
    there = sorted(set(names) - {"lo"})
    wanted = config.babel.interfaces if config.babel is not None else ()
    gone = [name for name in wanted if not is_glob(name) and not name.startswith("!") and name not in there]
    if gone:
        which = f"no interface {gone[0]!r}" if len(gone) == 1 else "no interfaces " + ", ".join(map(repr, gone))
        known = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
        raise Refusal(
            f"there is {which} here",
            (f"there are: {known}" if there else "there is none but lo")
            + "; an interface that comes later is waited for as a pattern: 'wg[0]'",
        )


def run(args: argparse.Namespace) -> int:
    from via6.kernel.linux import LinuxKernel, require

    config = config_of(args)
    require()
    kernel = LinuxKernel()
    try:
        missing(config, [link.name for link in kernel.dump(frozenset({"links"})).links])
    finally:
        kernel.close()
    return stay(config, lambda: config_of(args), args, "up")
