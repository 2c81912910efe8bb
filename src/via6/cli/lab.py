"""A network in namespaces, from a file: routers, hosts, links without any IPv4 address, and IPv4 across it all.

  up FILE                  bring it up and leave it (routers run via6, which finds the routes)
  test FILE                bring it up, ping every pair of hosts over IPv4, report, take it down
  down LAB|FILE            take it down
  list                     the labs that are up
  exec NODE -- CMD         run a program in a node; LAB/NODE or FILE NODE where several labs have one of that name

FILE is TOML, or GraphML of the Internet Topology Zoo (.graphml): there every node becomes a router with an IPv4 /24 of
its own behind it, and a host in that. Needs no root where ordinary users may make user namespaces. `test` works in a
sandbox that vanishes with the command, however that ends.

A lab in TOML:
  [lab]
  name = "small"               # else the file's name; software = "via6" | "babeld" | "static" | … for all routers
  [router.r1]
  lan = "10.1.0.0/24"          # optional: the island behind it; the first address is the router's
  address = "10.255.0.1"       # optional: an IPv4 address of its own, the source of its ICMP; software = ...
  [router.r2]
  lan = "10.2.0.0/24"
  [host.h1]                    # optional: a router with a lan and no host gets one, r1-h
  router = "r1"                # address = "10.1.0.10/24"   gateway = "10.1.0.1"   desktop = "vnc"
  [[link]]
  ends = ["r1", "r2"]          # cost = 10   mtu = 1400

software: via6, babeld, babeld-13, bird and bird3 speak Babel and find their routes. via6-static is `via6 run` with the
lab's shortest paths as static routes; static has `ip` put the same routes in, without a program; none has no route that
the lab made. `--software A,B` deals several out over the routers by chance; --seed N repeats a deal.

examples:
  via6 lab test examples/labs/triangle.toml
  via6 lab test --software static Abilene.graphml
  via6 lab test --software via6,babeld,bird examples/labs/line10.toml
  via6 lab test -j Geant2012.graphml            nodes, links, pairs, reachable, seconds, missing …
  via6 lab up examples/labs/line10.toml
  via6 lab exec r5 -- ip route
  via6 -n r5 route
  via6 lab down line10

exit codes of test: 0 every pair answered, 3 some are missing
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from via6.errors import FAILED, OK, USAGE, Refusal

if TYPE_CHECKING:
    from via6.lab.topology import Topology

_FILES: Final = (".toml", ".graphml")
_SEEDS: Final = 10_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    from via6.cli.main import add_output_options

    parser.usage = (
        "via6 lab up FILE | test FILE [-j] [--timeout S] [--software A,B [--seed N]]"
        " | down LAB | list [-j] | exec NODE -- CMD"
    )
    parser.add_argument("action", choices=tuple(ACTIONS), help="what to do")
    parser.add_argument("words", nargs="*", metavar="FILE|LAB|NODE", help="with what; after -- a command")
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="how long test waits for the last pair (default 30, more for"
        " large networks)",
    )  # fmt: skip
    parser.add_argument(
        "--software",
        metavar="NAME,...",
        help="what the routers run, whatever FILE says; several are dealt out at random",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="deal as in the run that named this seed")
    add_output_options(parser, "-j", "-br")


def run(args: argparse.Namespace) -> int:
    """Does one action."""
    return ACTIONS[args.action](args)


def _one(args: argparse.Namespace, what: str) -> str:
    if len(args.words) != 1:
        raise Refusal(f"lab {args.action} takes one {what}", f"via6 lab {args.action} {what}", USAGE)
    return str(args.words[0])


def _is_file(word: str) -> bool:
    return Path(word).suffix in _FILES


def _load(args: argparse.Namespace) -> Topology:
    """The lab of FILE, with the software that --software deals out. The seed, chosen here if it is not given, is in
    the topology's notes if the deal was one of chance."""
    from via6.lab.speakers import require
    from via6.lab.topology import load, with_software

    topology = load(_one(args, "FILE"))
    if args.software:
        kinds = args.software.split(",")
        seed = secrets.randbelow(_SEEDS) if args.seed is None else args.seed
        topology = with_software(topology, kinds, seed)
        if len(set(kinds)) > 1:
            topology = replace(topology, notes=(*topology.notes, f"software dealt with --seed {seed}"))
    elif args.seed is not None:
        raise Refusal(
            "--seed deals out what --software names", "via6 lab test --software via6,babeld --seed 1 FILE", USAGE
        )
    require(router.software for router in topology.routers)
    return topology


def _up(args: argparse.Namespace) -> int:
    from via6.lab import desktop, updown

    topology = _load(args)
    desktop.require(topology)
    trouble = updown.up(topology, args.words[0])
    for note in topology.notes:
        print(note, file=sys.stderr)
    some = ", ".join(topology.nodes[:6]) + (" …" if len(topology.nodes) > 6 else "")
    print(f"lab {topology.name} is up: {len(topology.routers)} routers, {len(topology.cables)} links, nodes {some}")
    for one in desktop.listing(topology):
        print(f"desktop {one.name}: {one.at()} in {one.near}")
    if trouble:
        print(f"via6: {trouble}\n  `via6 lab down {topology.name}` takes it down", file=sys.stderr)
    return FAILED if trouble else OK


def _test(args: argparse.Namespace) -> int:
    from via6.lab import run as lab_run

    topology = _load(args)
    usual = lab_run.DEFAULT_TIMEOUT_S + topology.start_s
    return lab_run.test(topology, usual if args.timeout is None else args.timeout, bool(args.json))


def _down(args: argparse.Namespace) -> int:
    from via6.lab import updown

    word = _one(args, "LAB")
    if _is_file(word):
        from via6.lab.topology import load

        word = load(word).name
    updown.down(word)
    return OK


def _list(args: argparse.Namespace) -> int:
    from via6.lab import updown

    labs, removed = updown.sweep()
    for name in removed:
        print(f"lab {name} was not whole any more; what was left of it is removed now", file=sys.stderr)
    for lab in labs:
        if args.json:
            print(json.dumps({"lab": lab.name, "file": lab.file, "routers": lab.routers, "links": lab.links,
                              "nodes": list(lab.nodes)}))  # fmt: skip
        elif args.brief:
            print(lab.name)
        else:
            print(f"{lab.name}\t{lab.routers} routers, {lab.links} links\t{lab.file}")
    return OK


def _exec(args: argparse.Namespace) -> int:
    from via6.lab import updown

    words = list(args.words)
    if len(words) > 1 and _is_file(words[0]):
        from via6.lab.topology import load

        words[:2] = [f"{load(words[0]).name}/{words[1]}"]
    if len(words) < 2:
        raise Refusal("lab exec takes a node and a command", "via6 lab exec NODE -- ip route", USAGE)
    return updown.execute(words[0], words[1:])


ACTIONS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "up": _up, "test": _test, "down": _down, "list": _list, "exec": _exec,
}  # fmt: skip
