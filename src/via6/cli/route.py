"""Show, add, replace or delete routes. IPv4 routes take IPv6 next hops as they take IPv4 ones.

  via6 route add|replace|del [TYPE] PREFIX via ADDRESS [dev DEV] [src A] [metric N] [table T] [mtu N] [onlink]
  via6 route add|replace PREFIX via ADDRESS [dev DEV] [weight N] via ADDRESS [dev DEV] [weight N] …
  via6 route [show] [ADDRESS | [exact|root|match] PREFIX] [table T|all] [dev DEV] [proto P] [type T]
  via6 route -batch FILE

PREFIX: 10.0.0.0/8, 10/8, 0/0, default, 2001:db8::/32, one address. TYPE: unicast, blackhole, unreachable, prohibit …
show: an ADDRESS means its longest match in the table shown (main, unless `table` says otherwise; `via6 explain` asks
the kernel and its rules); a PREFIX means exactly that one, `root` what is inside it, `match` what covers it.
What is added is yours (protocol static): `via6 run` leaves it alone, and it is gone with its link.

examples:
  via6 route add 10.0.0.0/8 via 2a0a:e5c1:137::22
  via6 route add 0/0 via fe80::1%eth1 src 10.0.8.42
  via6 route add 10.2.0.0/16 via fe80::1 dev eth1 weight 2 via fe80::2 dev eth2
  via6 route replace 10.2.0.0/16 via 192.0.2.1
  via6 route del 10.2.0.0/16
  via6 route add blackhole 10.0.0.0/8 metric 4000
  via6 route add 10.1.0.0/16 via fe80::1 dev eth1 -v   prints the equivalent `ip` command, too
  via6 route 10.1.2.3                                  the route that this address would take
  via6 route show root 10.0.0.0/8 -j
  via6 route -batch routes.txt                         lines as of `ip -batch`; - reads standard input
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from via6.cli.main import add_output_options
from via6.cli.words import TYPES, Devices, ip_command, parse_route
from via6.collect import local
from via6.errors import OK, USAGE, Refusal
from via6.kernel.linux import LinuxKernel, parse_release, require
from via6.model import (
    NH_ONLINK,
    PROTO_VIA6,
    TABLE_MAIN,
    Burst,
    Failure,
    NextHop,
    Plan,
    Route,
    RouteBlock,
    Snapshot,
)
from via6.observe import show
from via6.observe.names import Names
from via6.prefix import (
    AF_INET,
    AF_INET6,
    Address,
    Prefix,
    PrefixError,
    format_address,
    parse_prefix,
)

_VERBS: Final = ("add", "replace", "delete", "show", "list", "ls", "lst")
_HOWS: Final = ("exact", "root", "match")
_FILTERS: Final = frozenset({*_HOWS, "to", "table", "dev", "oif", "proto", "protocol", "type", "default"})
_HELD_REMEDY: Final = (
    "take it out of the configuration and reload; or add `proto via6` to say that you mean that one (`via6 run` puts "
    "it back)"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `via6 route`."""
    parser.usage = "via6 route [show|add|replace|del] WORD…   |   via6 route -batch FILE"
    words = parser.add_argument("words", nargs="*", metavar="WORD", help="words as `ip route` takes them, see above")
    from via6.cli.completion import route_words

    words.completer = route_words  # type: ignore[attr-defined]
    parser.add_argument("-v", "--verbose", action="store_true", help="print the equivalent ip command")
    parser.add_argument("-b", "-batch", "--batch", dest="batch", metavar="FILE", help="read lines `route add …`")
    parser.add_argument("-force", "--force", dest="force", action="store_true", help="batch: go on after an error")
    add_output_options(parser, "-j", "-4", "-6", "-br", "-c")


def run(args: argparse.Namespace) -> int:
    """Does what the words say; returns the exit code."""
    words: list[str] = args.words
    if args.batch is not None:
        if words:
            raise Refusal(f"-batch FILE takes no other words: {words[0]!r}", code=USAGE)
        return _batch(args)
    verb = _verb(words)
    if verb in ("add", "replace", "delete"):
        return _change(args, verb, words[1:])
    return _show(args, words[1:] if verb else words)


def _verb(words: Sequence[str]) -> str:
    """The verb that the first word begins, as `ip` abbreviates; "" for one that is something to show."""
    if not words or words[0] in _FILTERS or words[0][:1].isdigit() or ":" in words[0]:
        return ""
    found = [verb for verb in _VERBS if words[0] and verb.startswith(words[0])]
    if words[0] == "del":
        return "delete"
    if not found:
        raise Refusal(
            f"via6 route does not know {words[0]!r}",
            "it knows show, add, replace and del; `ip route` knows the others; `via6 route -h` has examples",
            USAGE,
        )
    return found[0]


# --- add, replace, del ---------------------------------------------------------------------------------------------


def _family(args: argparse.Namespace) -> int:
    return {4: AF_INET, 6: AF_INET6}.get(args.family, 0)


def _change(args: argparse.Namespace, op: str, words: Sequence[str]) -> int:
    with LinuxKernel() as kernel:
        snapshot = kernel.dump(frozenset({"links"}))
        names = local.names()
        route = parse_route(op, words, names, Devices(snapshot.by_name), _family(args))
        if show.is_foreign(route):
            require(parse_release(local.kernel_release()))
        if op != "delete" and not route.nhid:
            hops = tuple(reachable(kernel, snapshot, route, hop) for hop in route.next_hops)
            route = replace(route, next_hops=hops)
        if op != "add":
            guard(kernel, op, route)
        if args.verbose:
            print(ip_command(op, route, names, snapshot.dev))
        outcome = kernel.apply(Plan((Burst(op, RouteBlock(route, (route.prefix.packed,))),)))
        if outcome.failures:
            text, remedy = said(kernel, snapshot, op, route, outcome.failures[0])
            raise Refusal(f"{route.prefix}: {text}", remedy)
        if outcome.overrun:
            raise Refusal("the kernel's answer was lost", f"via6 route {route.prefix} shows what is there")
    if op != "delete":
        _warn_wireguard(args, snapshot, [(hop, [route.prefix]) for hop in route.next_hops])
    return OK


def reachable(kernel: LinuxKernel, snapshot: Snapshot, route: Route, hop: NextHop) -> NextHop:
    """The next hop with its device, as the kernel would reach it; raises Refusal when it is not on a link.

    What it cannot judge (a device that is down, a next hop the administrator calls on link) is left to the kernel.
    """
    if hop.via is None or (hop.flags & NH_ONLINK and hop.ifindex):
        return hop
    text = format_address(hop.via)
    if hop.flags & NH_ONLINK:
        raise Refusal(f"next hop {text} is said to be on link, but on which?", f"via {text} dev DEV onlink", USAGE)
    link = snapshot.by_index.get(hop.ifindex)
    if link is not None and not link.up:
        return hop
    answer = kernel.lookup(hop.via, oif=hop.ifindex)
    return _judged(snapshot, route, hop, answer)


def _judged(snapshot: Snapshot, route: Route, hop: NextHop, answer: Route | Failure) -> NextHop:
    """`answer` is what the kernel would do with a packet to the next hop."""
    assert hop.via is not None
    text = format_address(hop.via)
    dev = snapshot.dev(hop.ifindex) if hop.ifindex else "DEV"
    on = f" on {dev}" if hop.ifindex else ""
    if isinstance(answer, Failure):
        raise Refusal(
            f"next hop {text} cannot be reached{on}: {answer.text}",
            f"give the device an address of the same network, or say that it is there: via {text} dev {dev} onlink",
        )
    if answer.type == "local":
        raise Refusal(f"next hop {text} is this node itself", "name an address of the neighbour")
    if answer.type != "unicast" or not answer.next_hops:
        raise Refusal(f"next hop {text} is routed as {answer.type}, it is not on a link", "name a neighbour's address")
    way = answer.next_hops[0]
    if way.via is not None:
        gateway, dev = format_address(way.via), snapshot.dev(way.ifindex)
        raise Refusal(
            f"next hop {text} is not on a link of this node: the way to it goes through {gateway} dev {dev}",
            f"via6 route add {route.prefix} via {gateway} dev {dev}   uses that gateway as it is now; only `via6 run` "
            "can follow the next hop when its IPv6 route moves",
        )
    return replace(hop, ifindex=way.ifindex)


def guard(kernel: LinuxKernel, op: str, route: Route) -> None:
    """Raises Refusal when the kernel would delete or replace a route that the daemon holds (protocol 46), unless
    `proto via6` was said."""
    if route.protocol == PROTO_VIA6:
        return
    part = frozenset({"routes4" if route.family == AF_INET else "routes6"})
    if not any(route.prefix.packed in b.destinations for b in kernel.dump(part, protocol=PROTO_VIA6).routes.blocks):
        return
    there = [
        b.template.at(route.prefix.packed)
        for b in kernel.dump(part, table=route.table).routes.blocks
        if b.template.prefix.length == route.prefix.length and route.prefix.packed in b.destinations
    ]
    hit = show.meant(there, route, op)
    if hit is not None and hit.protocol == PROTO_VIA6:
        raise Refusal(f"{route.prefix} is held by via6 itself (protocol 46, of `via6 run` or `apply`)", _HELD_REMEDY)


_REMEDIES: Final = {
    errno.EEXIST: "such a route is there: `via6 route replace` takes its place, another metric stands beside it",
    errno.ESRCH: "`via6 route` shows what is there",
    errno.ENETDOWN: "ip link set dev {dev} up",
    errno.ENODEV: "`ip link` shows the devices",
}


def said(kernel: LinuxKernel, snapshot: Snapshot, op: str, route: Route, failure: Failure) -> tuple[str, str]:
    """(the kernel's words, what to do) for a refused route; the next hops are looked at for a better answer."""
    if op != "delete":
        for hop in route.next_hops:
            link = snapshot.by_index.get(hop.ifindex)
            if link is not None and not link.up:
                return failure.text, f"{link.name} is down: ip link set dev {link.name} up"
            if failure.errno in (errno.EINVAL, errno.ENETUNREACH, errno.EHOSTUNREACH) and not route.nhid:
                try:
                    reachable(kernel, snapshot, route, hop)
                except Refusal as refusal:
                    return f"{failure.text}: {refusal.message}", refusal.remedy
    if "prefsrc" in failure.text and route.src:
        host = Prefix(route.src, len(route.src) * 8)
        return failure.text, f"src must be an address of this node: ip addr add {host} dev lo"
    device = snapshot.dev(route.next_hops[0].ifindex) if route.next_hops else "DEV"
    return failure.text, _REMEDIES.get(failure.errno, "").format(dev=device)


def _warn_wireguard(
    args: argparse.Namespace, snapshot: Snapshot, hops: Sequence[tuple[NextHop, Sequence[Prefix]]]
) -> None:
    """Says on stderr when WireGuard will drop what was just routed to it."""
    if not any(link.kind in ("wireguard", "tun") for link in snapshot.links):
        return
    from via6.collect import wireguard
    from via6.observe import allowedips

    for hop, prefixes in hops:
        link = snapshot.by_index.get(hop.ifindex)
        if link is None or not wireguard.is_wireguard(link):
            continue
        text, problem = wireguard.allowed_ips(link.name)
        if problem:
            advice = f"AllowedIPs of {link.name} were not checked: {problem}"
        else:
            advice = allowedips.advice(link.name, allowedips.parse(text), hop.via, prefixes, args.netns or "")
        if advice:
            print(f"via6: warning: {advice}", file=sys.stderr)


# --- batch ---------------------------------------------------------------------------------------------------------


def _batch(args: argparse.Namespace) -> int:
    from via6.cli import batch

    name = "-" if args.batch == "-" else args.batch
    try:
        descriptor = os.dup(0) if name == "-" else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Refusal(f"{name}: {error.strerror}", "`via6 route -batch -` reads standard input") from None
    with LinuxKernel() as kernel:
        try:
            return _run_batch(args, kernel, name, batch.pieces(descriptor))
        except IsADirectoryError:
            raise Refusal(f"{name} is a folder, not a file") from None
        finally:
            os.close(descriptor)


def _run_batch(
    args: argparse.Namespace, kernel: LinuxKernel, name: str, pieces: Iterable[tuple[int, list[str]]]
) -> int:
    from via6.cli import batch

    snapshot = kernel.dump(frozenset({"links"}))
    names, devices = local.names(), Devices(snapshot.by_name)
    old = parse_release(local.kernel_release())
    held = kernel.dump(frozenset({"routes4", "routes6"}), protocol=PROTO_VIA6).routes.blocks
    tunnels = {link.ifindex for link in snapshot.links if link.kind in ("wireguard", "tun")}
    tunnelled: dict[NextHop, list[Prefix]] = {}

    def parse(op: str, words: Sequence[str], family: int) -> Route:
        route = parse_route(op, words, names, devices, family)
        if show.is_foreign(route):
            require(old)
        return route

    def explain(op: str, route: Route, failure: Failure) -> str:
        text, remedy = said(kernel, snapshot, op, route, failure)
        return f"{text}\n  {remedy}" if remedy else text

    def sent(op: str, template: Route, destinations: Sequence[Address]) -> None:
        if args.verbose:
            for destination in destinations:
                print(ip_command(op, template.at(destination), names, snapshot.dev))
        for hop in template.next_hops if tunnels and op != "delete" else ():
            if hop.ifindex in tunnels:
                length = template.prefix.length
                tunnelled.setdefault(hop, []).extend(Prefix(d, length) for d in destinations)

    helpers = batch.Helpers(
        parse=parse,
        guard=lambda op, route: guard(kernel, op, route),
        held=frozenset(d for block in held for d in block.destinations),
        explain=explain,
        sent=sent,
    )
    code = batch.Batch(name, kernel, helpers, _family(args), args.force).run(pieces)
    _warn_wireguard(args, snapshot, list(tunnelled.items()))
    return code


# --- show ----------------------------------------------------------------------------------------------------------


def parse_filter(words: Sequence[str], names: Names, devices: Devices, family: int) -> show.Filter:
    """The words behind `show`; raises Refusal."""
    rest = iter(words)
    wanted = show.Filter(family=family)
    how = "exact"
    for word in rest:
        if word in _HOWS or word == "to":
            how = word if word != "to" else how
            continue
        if word in ("table", "dev", "oif", "proto", "protocol", "type"):
            value = next(rest, None)
            if value is None:
                raise Refusal(f"{word!r} lacks its value", code=USAGE)
            wanted = _narrowed(wanted, word, value, names, devices)
            continue
        if wanted.prefix is not None:
            raise Refusal(f"{word!r} is not understood here", "`via6 route -h` shows the words of show", USAGE)
        try:
            prefix = parse_prefix(word, family or AF_INET)
        except PrefixError as error:
            raise Refusal(str(error), code=USAGE) from None
        # A bare address asks where it would go, unless a word says what to do with it.
        address = "/" not in word and prefix.is_host and how == "exact" and "exact" not in words
        wanted = replace(wanted, prefix=prefix, how="longest" if address else how)
        if word in ("default", "any", "all") and not family:
            wanted = replace(wanted, prefix=None, how="default")
    return wanted


def _narrowed(wanted: show.Filter, word: str, value: str, names: Names, devices: Devices) -> show.Filter:
    if word == "table":
        table = 0 if value == "all" else names.table_number(value)
        if table is None:
            raise Refusal(f"there is no table {value!r}", "`table all` shows all of them", USAGE)
        return replace(wanted, table=table)
    if word in ("proto", "protocol"):
        protocol = names.protocol_number(value)
        if protocol is None:
            raise Refusal(f"there is no protocol {value!r}", "write its number", USAGE)
        return replace(wanted, protocol=protocol)
    if word == "type":
        if value not in TYPES:
            raise Refusal(f"there is no route type {value!r}", f"types: {', '.join(TYPES)}", USAGE)
        return replace(wanted, type=value)
    return replace(wanted, ifindex=devices.index(value))


def _show(args: argparse.Namespace, words: Sequence[str]) -> int:
    from via6.cli.output import painter, write_lines

    with LinuxKernel() as kernel:
        links = kernel.dump(frozenset({"links"}))
        names = local.names()
        wanted = parse_filter(words, names, Devices(links.by_name), _family(args))
        family = wanted.prefix.family if wanted.prefix else wanted.family
        parts = {"routes4", "routes6", "nexthops"} - {{AF_INET: "routes6", AF_INET6: "routes4"}.get(family, "")}
        found = kernel.dump(frozenset(parts), table=wanted.table)
    blocks = show.select(found, wanted)
    colour = painter(args.color) or show.plain
    if args.json:
        from json import dumps

        write_lines(show.json_lines(blocks, names, links.dev, dumps))
    elif args.brief:
        write_lines(show.brief_lines(blocks, links.dev, colour))
    else:
        write_lines(show.lines(blocks, names, links.dev, wanted.table or TABLE_MAIN, colour))
    if wanted.how == "longest" and not blocks and wanted.prefix:
        address, table = format_address(wanted.prefix.packed), names.table(wanted.table) if wanted.table else "all"
        raise Refusal(
            f"no route to {address} in table {table}", f"`via6 explain {address}` asks the kernel and its rules"
        )
    return OK
