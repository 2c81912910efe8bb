"""Packets that nobody should send, and words for those that are sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from via6.babel.model import GROUP, PORT, Arrival
from via6.babel.wire import decode
from via6.prefix import Address, Prefix

if TYPE_CHECKING:
    from random import Random


class Sender(Protocol):
    """The end of a wire that a packet came from."""

    address: Address


def draw(
    chance: Random,
    ifindex: int,
    own: Address,
    kept: Sequence[tuple[Sender, bytes]],
    prefixes: Sequence[Prefix],
    keyed: bool,
) -> Arrival:
    """A malicious datagram for an interface with the address `own`. `kept` are packets of this wire. Where there are
    no keys nothing is forged that a router must believe: a false Update of a real neighbour."""
    stranger = b"\xfe\x80" + bytes(8) + chance.randbytes(6)
    noise = chance.randbytes(chance.choice((0, 1, 3, 4, 20, 300, 1500)))
    kinds = ["noise", "body", "lie", "request"]
    if kept:
        kinds += ["truncated", "port", "hops", "global", "echo", "replay", "trailer"]
        kinds += ["flipped"] if keyed else []
    kind = chance.choice(kinds)
    if kind == "noise":
        return Arrival(ifindex, stranger, noise)
    if kind in ("body", "lie", "request"):
        prefix = chance.choice(prefixes)
        body = noise if kind == "body" else _lie(chance, prefix, kind == "request")
        data = b"\x2a\x02" + len(body).to_bytes(2, "big") + body
        return Arrival(ifindex, stranger, data, chance.choice((GROUP, own)))
    sender, data = chance.choice(kept)
    source = sender.address
    if kind == "truncated":
        return Arrival(ifindex, source, data[: chance.randrange(len(data))])
    if kind == "port":
        return Arrival(ifindex, source, data, port=chance.choice((0, 1, 53, 6697, 65535)))
    if kind == "hops":
        return Arrival(ifindex, source, data, hop_limit=chance.choice((0, 2, 64, 255)))
    if kind == "global":
        return Arrival(ifindex, bytes.fromhex("20010db8") + source[4:], data)
    if kind == "echo":
        return Arrival(ifindex, own, data)
    if kind == "trailer":
        return Arrival(ifindex, source, data + noise[: 1500 - len(data)])
    if kind == "flipped":
        spoilt = bytearray(data)
        spoilt[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return Arrival(ifindex, source, bytes(spoilt))
    return Arrival(ifindex, source, data)


def _lie(chance: Random, prefix: Prefix, request: bool) -> bytes:
    """A router-id and an Update from somebody who is no neighbour, or a seqno request for an unknown router."""
    octets = (prefix.length + 7) // 8
    router_id = chance.randbytes(8)
    ae = 2 if len(prefix.packed) == 16 else 4
    if request:
        head = bytes((ae if ae == 2 else 1, prefix.length)) + chance.randbytes(2) + bytes((chance.randrange(256), 0))
        return b"\x0a" + bytes((14 + octets,)) + head + router_id + prefix.packed[:octets]
    seqno, metric = chance.randbytes(2), chance.choice((0, 1, 96, 65535)).to_bytes(2, "big")
    head = bytes((ae, 0, prefix.length, 0)) + (400).to_bytes(2, "big") + seqno + metric
    return b"\x06\x0a" + bytes(2) + router_id + b"\x08" + bytes((10 + octets,)) + head + prefix.packed[:octets]


def words_of(data: bytes, source: Address) -> str:
    """A packet in words, for a history."""
    decoded = decode(data, source)
    return "; ".join([*map(_words, decoded.tlvs), *decoded.problems])


def _words(tlv: object) -> str:
    fields = getattr(tlv, "_fields", ())
    shown = []
    for name in fields:
        value = getattr(tlv, name)
        if value is not None and name not in ("ae", "interval_cs", "timestamp", "timestamps"):
            shown.append(f"{name}={value.hex() if isinstance(value, bytes) else value}")
    return f"{type(tlv).__name__}({', '.join(shown)})"


__all__ = ["PORT", "draw", "words_of"]
