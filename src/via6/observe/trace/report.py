"""A trace as text to read at night, and as a JSON object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from via6.observe.trace.model import GOOD, TCP, UDP, Flow, Hop, Trace
from via6.observe.trace.probe import DUMMY
from via6.prefix import Address, format_address

Colour = Callable[[str, str], str]

_PROTOCOLS: Final = {TCP: "TCP", UDP: "UDP"}
_HEADINGS: Final = ("", "node", "in", "out", "next hop", "rtt", "answered from")
MEANINGS: Final = {
    "ACCEPTED": "it arrives",
    "DELIVERED_TO_SUBNET": "it arrives on the link of its destination",
    "EXITS_NETWORK": "it leaves for a next hop of which nothing is known",
    "NEIGHBOR_UNREACHABLE": "a next hop does not answer, or a link does not carry",
    "NO_ROUTE": "a node on the way has no route",
    "NULL_ROUTED": "a node on the way discards it",
    "LOOP": "it goes round",
    "UNKNOWN": "its trail is lost",
}


# --- text ----------------------------------------------------------------------------------------------------------


def lines(trace: Trace, colour: Colour | None = None) -> Iterator[str]:
    """The way there, the way back, and what is to be said of the whole; the last word is the disposition."""
    paint = colour or (lambda _kind, text: text)
    yield f"to {flow_words(trace.flow)}"
    yield from _way(trace, paint)
    back = trace.back
    if back is not None:
        yield ""
        yield f"back to {_address(back.flow.destination)}"
        yield from _way(back, paint)
        yield from back.remarks
    remarks = list(trace.remarks)
    if any(hop.icmp_source == DUMMY for hop in trace.hops):
        remarks.append("192.0.0.8 is how a router without an IPv4 address answers")
    if remarks:
        yield ""
        yield from remarks
    yield ""
    if back is not None:
        lost = "" if trace.disposition in GOOD else "of an answer, if there were one: "
        said = MEANINGS[back.disposition] if back.hops or back.disposition != "UNKNOWN" else "not known"
        yield f"back: {lost}{said}{_marked(trace)}: {_painted(paint, back.disposition)}"
    yield f"there: {MEANINGS[trace.disposition]}: {_painted(paint, trace.disposition)}"


def flow_words(flow: Flow) -> str:
    """`10.1.0.1 from 10.2.0.1, UDP 40000 > 33434`."""
    source = f" from {_address(flow.source)}" if flow.source else ""
    if flow.proto not in _PROTOCOLS:
        return f"{_address(flow.destination)}{source}, ICMP echo"
    ports = f"{flow.sport} > {flow.dport}" if flow.sport else f"port {flow.dport}"
    return f"{_address(flow.destination)}{source}, {_PROTOCOLS[flow.proto]} {ports}"


def _marked(trace: Trace) -> str:
    return ", by another way (asymmetric)" if trace.asymmetric else ""


def _painted(paint: Colour, disposition: str) -> str:
    return paint("good" if disposition in GOOD else "bad", disposition)


def _way(trace: Trace, paint: Colour) -> Iterator[str]:
    rows = [_row(number, hop) for number, hop in enumerate(trace.hops)]
    if rows:
        used = [any(row[at] for row in rows) or at < 2 for at in range(len(_HEADINGS))]
        table = [_HEADINGS, *rows]
        widths = [max(len(row[at]) for row in table) for at in range(len(_HEADINGS))]
        yield _line(_HEADINGS, widths, used, None)
        for hop, row in zip(trace.hops, rows, strict=True):
            yield _line(row, widths, used, paint)
            indent = " " * (widths[0] + 2)
            if hop.route:
                yield f"{indent}  {hop.route}"
            for note in hop.notes:
                yield f"{indent}  ({note})"
            if hop.ends:
                yield f"{indent}  {_painted(paint, hop.ends)}" + (f": {hop.why}" if hop.why else "")


def _row(number: int, hop: Hop) -> tuple[str, ...]:
    return (
        str(number),
        hop.node or "?",
        hop.in_device,
        hop.out_device,
        _address(hop.next_hop),
        _time(hop.rtt_ms),
        _address(hop.icmp_source),
    )


def _line(row: tuple[str, ...], widths: list[int], used: list[bool], paint: Colour | None) -> str:
    out = []
    kinds = ("", "", "dev", "dev", "", "", "inet")
    for at, text in enumerate(row):
        if not used[at]:
            continue
        padded = text.rjust(widths[at]) if at in (0, 5) else text.ljust(widths[at])
        kind = "inet6" if at == 4 and ":" in text else kinds[at]
        out.append(paint(kind, padded) if paint and text and kind else padded)
    return "  ".join(out).rstrip()


def _time(rtt_ms: float | None) -> str:
    """`12.3 ms`; a link within one machine takes hundredths."""
    return "" if rtt_ms is None else f"{rtt_ms:.{1 if rtt_ms >= 1 else 2}f} ms"


def _address(address: Address | None) -> str:
    return format_address(address) if address else ""


# --- JSON ----------------------------------------------------------------------------------------------------------


def as_json(trace: Trace) -> dict[str, Any]:
    """The object that -j prints; what is not known is null."""
    return {
        "flow": _flow_json(trace.flow),
        "hops": [_hop_json(hop) for hop in trace.hops],
        "disposition": trace.disposition,
        "asymmetric": trace.asymmetric,
        "remarks": list(trace.remarks),
        "back": as_json(trace.back) if trace.back is not None else None,
    }


def _flow_json(flow: Flow) -> dict[str, Any]:
    return {
        "destination": _address(flow.destination), "source": _address(flow.source) or None, "proto": flow.proto,
        "sport": flow.sport, "dport": flow.dport,
    }  # fmt: skip


def _hop_json(hop: Hop) -> dict[str, Any]:
    return {
        "node": hop.node or None,
        "in": hop.in_device or None,
        "route": hop.route or None,
        "next_hop": _address(hop.next_hop) or None,
        "out": hop.out_device or None,
        "rtt_ms": round(hop.rtt_ms, 3) if hop.rtt_ms is not None else None,
        "icmp_source": _address(hop.icmp_source) or None,
        "seen": sorted(hop.seen),
        "mtu": hop.mtu or None,
        "notes": list(hop.notes),
        "ends": hop.ends or None,
        "why": hop.why or None,
    }
