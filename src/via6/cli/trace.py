"""Follows an IPv4 packet hop by hop, by the names of the nodes, there and back, and says where it ends.

Three witnesses are asked at once: probes with rising hop limits (ICMP errors, with the interface and node that they may
name), the via6 daemons on the way (each says what its kernel would do with exactly this packet), and this node's own
tables. Of a hop without via6 stands what is known of it. Where a daemon and the probes differ the probes are right, and
it is said. Probes cannot see the way back; daemons can.

Without --from the source is the kernel's choice. With an address that is not of this node no probe is sent (answers
would go elsewhere): daemons alone are asked, about a packet that comes in where the routes place its sender.
--port alone means TCP; TCP and ICMP probes need CAP_NET_RAW, without it UDP is sent. All probes have one pair of ports,
and daemons are asked about the same, so that all speak of one way among several of equal cost.
--snapshots traces on paper, in what `via6 snapshot` wrote; --from is then a node or an address.

The end of either way is one of
  ACCEPTED, DELIVERED_TO_SUBNET, EXITS_NETWORK                it arrives, or leaves for what is not known
  NO_ROUTE, NULL_ROUTED, NEIGHBOR_UNREACHABLE, LOOP, UNKNOWN  it does not, or nobody knows

examples:
  via6 trace 10.0.3.10
  via6 trace 10.0.3.10 --proto tcp --port 443
  via6 -n r1 trace 10.0.3.10 -j
  via6 trace 10.0.3.10 --snapshots network/ --from r1

exit codes: 0 the destination answers, or nothing was sent and all arrives; 3 not so, there or back
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from via6.cli.main import add_output_options
from via6.errors import OK, TROUBLE, USAGE, Refusal
from via6.observe.trace.merge import merge, no_address
from via6.observe.trace.model import GOOD, ICMP, TABLE, TCP, UDP, Flow, Hop, Trace
from via6.prefix import Address, PrefixError, format_address, is_multicast, parse_address

if TYPE_CHECKING:
    from via6.collect.trace_wire import Wire
    from via6.daemon.trace_kernel import Oracle
    from via6.observe.trace.probe import Answer

_PROTOCOLS: Final = {"icmp": ICMP, "tcp": TCP, "udp": UDP}
_PORTS: Final = {"icmp": 0, "tcp": 80, "udp": 33434}
_PATIENCE_S: Final = 0.8  # for daemons, where none runs here
_DEADLINE_S: Final = 1.35  # for the daemon here, which gives up by itself a little earlier
_WAIT_S: Final = 0.9
_LONGEST_S: Final = 60.0
_MOST_HOPS: Final = 63
_ANYWHERE: Final = bytes(4)
_LOOPBACK: Final = 127


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `via6 trace`."""
    parser.usage = (
        "via6 trace ADDRESS [--from A] [--proto udp|tcp|icmp] [--port P] [-m N] [-w S] [--snapshots PATH]… [-j]"
    )
    parser.add_argument("address", metavar="ADDRESS", help="the destination, an IPv4 address")
    parser.add_argument("--from", dest="source", metavar="A", help="the source address; on paper also a node's name")
    parser.add_argument("--proto", choices=tuple(_PROTOCOLS), help="what kind of packet (default icmp)")
    parser.add_argument("--port", type=int, metavar="P", help="destination port (default tcp 80, udp 33434)")
    parser.add_argument("-m", "--max-hops", type=int, default=30, metavar="N", help="look no further (default 30)")
    parser.add_argument(
        "-w", "--wait", type=float, default=_WAIT_S, metavar="SECONDS",
        help=f"listen so long for answers (default {_WAIT_S})",
    )  # fmt: skip
    parser.add_argument(
        "--snapshots", action="append", default=[], metavar="PATH", help="trace on paper, in these files or folders"
    )
    add_output_options(parser, "-j", "-c")


def run(args: argparse.Namespace) -> int:
    """Traces and prints; TROUBLE if the packet or its answer does not arrive."""
    flow = flow_of(args)
    if args.snapshots:
        trace, probed = _on_paper(args, flow), False
    else:
        trace, probed = live(args, flow)
    _print(args, trace)
    return OK if is_good(trace, probed) else TROUBLE


def is_good(trace: Trace, probed: bool) -> bool:
    """The destination answers; or, where nothing was sent, what is known of both ways is good."""
    if trace.back is not None and trace.back.disposition not in GOOD | {"UNKNOWN"}:
        return False
    return trace.disposition == "ACCEPTED" or (not probed and trace.disposition in GOOD)


def flow_of(args: argparse.Namespace) -> Flow:
    """The packet that the command line describes; raises Refusal."""
    destination = _ipv4(args.address)
    if is_multicast(destination) or destination in (_ANYWHERE, b"\xff" * 4):
        raise Refusal(f"{args.address} is no address of one machine", "via6 trace 10.0.3.10", USAGE)
    proto = args.proto or ("tcp" if args.port is not None else "icmp")
    if args.port is not None and proto == "icmp":
        raise Refusal("ICMP has no ports", "--proto tcp, or --proto udp", USAGE)
    if args.port is not None and not 0 < args.port < 1 << 16:
        raise Refusal("--port is a number from 1 to 65535", code=USAGE)
    if not 0 < args.max_hops <= _MOST_HOPS:
        raise Refusal(f"--max-hops is a number from 1 to {_MOST_HOPS}", code=USAGE)
    if not 0 < args.wait <= _LONGEST_S:
        raise Refusal(f"--wait is a number of seconds, at most {_LONGEST_S:.0f}", code=USAGE)
    return Flow(destination, None, _PROTOCOLS[proto], 0, args.port or _PORTS[proto])


def _ipv4(text: str) -> Address:
    try:
        address = parse_address(text)
    except PrefixError as error:
        remedy = "trace takes one address" if "/" in text else f"names are not looked up: `getent ahostsv4 {text}` does"
        remedy = remedy if "/" in text or any(letter.isalpha() for letter in text) else ""
        raise Refusal(str(error), remedy, USAGE) from None
    if len(address) != 4:
        raise Refusal(f"{text} is IPv6; trace follows IPv4", f"via6 explain {text}", USAGE)
    return address


def _source(text: str, flow: Flow) -> Address:
    """What --from says; raises Refusal if no packet to the destination has such a source."""
    source = _ipv4(text)
    if is_multicast(source) or source in (_ANYWHERE, b"\xff" * 4):
        raise Refusal(f"{text} is no address of one machine", "--from 10.0.1.1", USAGE)
    if source[0] == _LOOPBACK != flow.destination[0]:
        raise Refusal(f"a packet from {text} never leaves its node", "`ip -4 address` lists the addresses here", USAGE)
    return source


def _print(args: argparse.Namespace, trace: Trace) -> None:
    from via6.observe.trace import report

    if args.json:
        from json import dumps

        print(dumps(report.as_json(trace)))
        return
    from via6.cli.output import painter, write_lines

    write_lines(report.lines(trace, painter(args.color)))


# --- on paper ------------------------------------------------------------------------------------------------------


def _on_paper(args: argparse.Namespace, flow: Flow) -> Trace:
    try:
        import numpy  # noqa: F401 - asked for once, here, so that the reason is clear
    except ImportError:
        raise Refusal("a trace on paper needs numpy", "apt-get install python3-numpy, or pip install numpy") from None
    from via6.collect import local
    from via6.observe import snapshot
    from via6.observe.trace import paper

    nodes = snapshot.load(args.snapshots)
    some = ", ".join(node.name for node in nodes[:8]) + (" …" if len(nodes) > 8 else "")
    if not args.source:
        raise Refusal("from where? The snapshots are of many nodes", f"--from NODE or ADDRESS; nodes: {some}", USAGE)
    start = paper.begin(nodes, args.source, flow.destination)
    if start is None:
        raise Refusal(f"no snapshot is of a node {args.source!r}, or has that address", f"nodes: {some}", USAGE)
    return paper.trace(nodes, start, flow, local.names())


# --- live ----------------------------------------------------------------------------------------------------------


def live(args: argparse.Namespace, flow: Flow) -> tuple[Trace, bool]:
    """The trace, and whether probes were sent. Of the arguments `source`, `netns`, `max_hops` and `wait` count."""
    from via6.cli.snapshot import name_of
    from via6.daemon import trace_kernel
    from via6.kernel.linux import LinuxKernel
    from via6.observe.trace.node import Lookup

    with LinuxKernel() as kernel:
        snapshot = kernel.dump(frozenset({"links", "addresses"}))
    oracle = trace_kernel.Oracle(trace_kernel.Node(lambda: snapshot.by_index, lambda: snapshot.addresses))
    try:
        own = {a.address for a in snapshot.addresses}
        source = _source(args.source, flow) if args.source else oracle.source_for(flow)
        flow = replace(flow, source=source)
        stranger = source is not None and source not in own
        iif = oracle.comes_in(source) if stranger and source else 0
        wire, remarks = (None, []) if source is None or stranger else _wire(flow, oracle)
        flow = wire.flow if wire is not None else flow
        verdict = oracle.look(Lookup(b"", False, flow, iif))
    finally:
        oracle.close()
    first = replace(verdict.hop, node=name_of(args.netns), seen=frozenset({TABLE}))
    if source is None and first.ends in GOOD:  # else there is no route that would choose one
        remarks = [no_address(first.node)]
    elif source is not None and stranger:
        who = format_address(source)
        if not iif:
            why = f"no route of this node leads to {who}, so where its packets come in is not known"
            first = replace(first, route="", next_hop=None, out_device="", ends="UNKNOWN", why=why)
            alone = f"no probes, and nobody is asked: {who} is not of this node"
            return Trace(flow, (first,), "UNKNOWN", Trace(flow.back()), remarks=(alone,)), False
        what = f"what becomes of a packet that comes in on {first.in_device}"
        remarks = [f"no probes: {who} is not of this node; asked is {what}"]
    if first.ends == "EXITS_NETWORK":  # it leaves this node, which is no end
        first = replace(first, ends="")
    if first.ends == "ACCEPTED" and not stranger:
        if wire is not None:
            wire.close()
        back = Trace(flow.back(), (first,), "ACCEPTED") if source else None
        return Trace(flow, (first,), "ACCEPTED", back, remarks=("it is an address of this node",)), False
    answers, there, back_hops, said = _witnesses(flow, wire, args, first.node)
    return merge(flow, first, answers, there, back_hops, (*remarks, *said)), bool(answers)


def _wire(flow: Flow, oracle: Oracle) -> tuple[Wire, list[str]]:
    """Where probes leave. Of several next hops they take the one that the kernel would choose for the flow."""
    from via6.collect import trace_wire
    from via6.model import Route

    wire, remarks = trace_wire.wire(flow)
    answer, entry = oracle.route(wire.flow, 0), oracle.route(wire.flow, 0, True)
    several = isinstance(entry, Route) and (len(entry.next_hops) > 1 or bool(entry.nhid))
    if several and isinstance(answer, Route) and answer.next_hops:
        wire.oif = answer.next_hops[0].ifindex
    return wire, remarks


def _witnesses(
    flow: Flow, wire: Wire | None, args: argparse.Namespace, name: str
) -> tuple[Sequence[Answer], list[Hop], list[Hop], list[str]]:
    """Probes and daemons at once: (answers to probes, hops there, hops back, remarks)."""
    from threading import Thread
    from time import monotonic

    from via6.collect.trace_probe import NEVER, Prober
    from via6.daemon.trace_ask import ask

    said: list[tuple[list[Hop], list[Hop], list[str]]] = []
    failed: list[str] = []

    def work() -> None:
        try:
            said.append(ask(flow, True, _PATIENCE_S, name))
        except Refusal as refusal:
            failed.append(refusal.message)
        except OSError as error:
            failed.append(f"daemons could not be asked: {error.strerror or error}")
        except (KeyError, TypeError, ValueError):
            failed.append("the via6 daemon here said what cannot be understood: another version?")

    began = monotonic()
    # setns(2) has moved this thread; one that it starts is where it is.
    asking = Thread(target=work, daemon=True)
    if flow.source is not None:
        asking.start()

    def enough() -> int:
        """Where a packet is discarded by what daemons say, nothing behind is missed; where it arrives, all counts."""
        there = said[0][0] if said else []
        if not there or there[-1].ends in ("", "UNKNOWN"):
            return NEVER
        return _MOST_HOPS + 1 if there[-1].ends in GOOD else len(there) - 1

    answers = Prober(wire, args.max_hops, args.wait, enough).run() if wire is not None else []
    if flow.source is not None:
        asking.join(max(0.0, began + _DEADLINE_S - monotonic()))
    there, back, remarks = said[0] if said else ([], [], failed or ["daemons did not answer in time"])
    return answers, there, back, remarks if flow.source is not None else []
