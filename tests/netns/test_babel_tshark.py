"""tshark, whose Babel dissector is not ours, reads the golden packets: the same values, and nothing to complain about.

It does not keep the parser's state, so router-ids and next hops are carried over here; nor does it know AE 4, whose
fields it shows without putting the prefix together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

import pytest

import babelfile
import tshark
from via6.babel import wire
from via6.babel.model import INFINITY
from via6.babel.tlv import (
    TLV_ACK,
    TLV_ACK_REQUEST,
    TLV_CHALLENGE_REPLY,
    TLV_CHALLENGE_REQUEST,
    TLV_HELLO,
    TLV_IHU,
    TLV_NEXT_HOP,
    TLV_PC,
    TLV_ROUTE_REQUEST,
    TLV_ROUTER_ID,
    TLV_SEQNO_REQUEST,
    TLV_UPDATE,
)
from via6.babel.wire import AE_IPV4, AE_V4_VIA_V6, AE_WILDCARD
from via6.prefix import Address, mask, parse_address

pytestmark = pytest.mark.root  # not for a right that it needs: for the program, which only root's run installs

PATHS = [path for path in sorted(babelfile.FOLDER.glob("*.hex")) if not path.stem.startswith("bad-")]


class Message:
    """One TLV as tshark shows it."""

    def __init__(self, element: ElementTree.Element) -> None:
        self.element = element
        self.kind = int(element.get("show", ""))
        self.octets = bytes.fromhex(element.get("value", ""))

    def number(self, name: str) -> int:
        """A field's value, decimal or hexadecimal."""
        return int(self._field(name).get("show", ""), 0)

    def octets_of(self, name: str) -> bytes:
        return bytes.fromhex(self._field(name).get("value", ""))

    def _field(self, name: str) -> ElementTree.Element:
        (found,) = [field for field in self.element.iter("field") if field.get("name") == f"babel.message.{name}"]
        return found

    def text(self, head: str) -> tuple[str, bytes]:
        """What stands behind `head` in a line that tshark wrote, and its octets; nothing if there is no such line."""
        for field in self.element.iter("field"):
            if (field.get("show") or "").startswith(head):
                return field.get("show", "")[len(head) :].strip(), bytes.fromhex(field.get("value") or "")
        return "", b""

    def microseconds(self, head: str) -> int | None:
        found, _ = self.text(head)
        return int(found.rstrip("s").replace(".", "")) if found else None


class Reader:
    """Values from tshark's lines, with the state that it does not keep."""

    def __init__(self, source: Address) -> None:
        self.router_id: bytes | None = None
        self.hops: dict[int, Address | None] = {4: None, 16: source}
        self.v4_via_v6 = bytes(4)

    def value(self, message: Message) -> wire.Tlv | None:
        """What the message stands for; None if it only changes the state."""
        reader = self._readers.get(message.kind)
        return reader(self, message) if reader else None

    def _ack_request(self, message: Message) -> wire.Tlv:
        return wire.AckRequest(message.number("nonce"), message.number("interval"))

    def _ack(self, message: Message) -> wire.Tlv:
        return wire.Ack(message.number("nonce"))

    def _hello(self, message: Message) -> wire.Tlv:
        _, flags = message.text("Unicast :")  # the number that it shows is of another octet; these octets are right
        times = message.microseconds("Timestamp :")
        return wire.Hello(message.number("seqno"), message.number("interval"), bool(flags[0] & 0x80), times)

    def _router_id(self, message: Message) -> None:
        self.router_id = message.octets_of("routerid")

    def _next_hop(self, message: Message) -> None:
        address = parse_address(message.text("NH:")[0])
        self.hops[len(address)] = address

    def _route_request(self, message: Message) -> wire.Tlv:
        return wire.RouteRequest(*self._prefix(message))

    def _seqno_request(self, message: Message) -> wire.Tlv:
        seqno, hops = message.number("seqno"), message.number("hopcount")
        return wire.SeqnoRequest(*self._prefix(message), seqno, hops, message.octets_of("routerid"))

    def _pc(self, message: Message) -> wire.Tlv:
        return wire.Pc(message.number("index"), message.octets[6:])

    def _challenge_request(self, message: Message) -> wire.Tlv:
        return wire.ChallengeRequest(message.octets[2:])

    def _challenge_reply(self, message: Message) -> wire.Tlv:
        return wire.ChallengeReply(message.octets[2:])

    def _ihu(self, message: Message) -> wire.Ihu:
        address = None
        if message.number("ae") != AE_WILDCARD:
            address = parse_address(message.text("Address:")[0])
        origin, receive = message.microseconds("Timestamp origin :"), message.microseconds("Timestamp receive:")
        times = None if origin is None or receive is None else (origin, receive)
        return wire.Ihu(address, message.number("rxcost"), message.number("interval"), times)

    def _prefix(self, message: Message) -> tuple[int, int, bytes]:
        ae, length = message.number("ae"), message.number("plen")
        text = message.text("Prefix:")[0]
        if ae == AE_WILDCARD:
            assert text == "::/0"
            return ae, length, b""
        if ae == AE_V4_VIA_V6:
            start = self.v4_via_v6[: message.number("omitted")]
            self.v4_via_v6 = mask((start + message.octets_of("prefix")).ljust(4, b"\0"), length)
            return ae, length, self.v4_via_v6
        address, _, told = text.partition("/")
        assert told == str(length)
        return ae, length, parse_address(address)

    def _update(self, message: Message) -> wire.Update:
        ae, length, prefix = self._prefix(message)
        metric = message.number("metric")
        if message.number("flags") & 0x40:
            self.router_id = prefix[-8:].rjust(8, b"\0")
        hop = None if metric == INFINITY else self.hops[4 if ae == AE_IPV4 else 16]
        seqno, interval = message.number("seqno"), message.number("interval")
        return wire.Update(ae, length, prefix, seqno, metric, interval, self.router_id, hop)

    _readers: ClassVar[dict[int, Callable[[Reader, Message], wire.Tlv | None]]] = {
        TLV_ACK_REQUEST: _ack_request,
        TLV_ACK: _ack,
        TLV_HELLO: _hello,
        TLV_IHU: _ihu,
        TLV_ROUTER_ID: _router_id,
        TLV_NEXT_HOP: _next_hop,
        TLV_UPDATE: _update,
        TLV_ROUTE_REQUEST: _route_request,
        TLV_SEQNO_REQUEST: _seqno_request,
        TLV_PC: _pc,
        TLV_CHALLENGE_REQUEST: _challenge_request,
        TLV_CHALLENGE_REPLY: _challenge_reply,
    }


@pytest.fixture(scope="module")
def dissected() -> dict[str, ElementTree.Element]:
    """Every golden packet, read by tshark in one go."""
    packets = []
    for path in PATHS:
        _, source, _, _, octets = babelfile.read(path)
        packets.append((source, octets))
    return dict(zip([path.stem for path in PATHS], tshark.dissect(tshark.capture(packets)), strict=True))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_tshark_reads_the_same(path: Path, dissected: dict[str, ElementTree.Element]) -> None:
    packet = dissected[path.stem]
    _, source, _, _, octets = babelfile.read(path)
    assert tshark.warnings(packet) == []
    (proto,) = [proto for proto in packet.findall("proto") if proto.get("name") == "babel"]
    reader = Reader(source)
    values = [reader.value(Message(field)) for field in proto.findall("field[@name='babel.message']")]
    decoded = wire.decode(octets, source)
    assert [value for value in values if value is not None] == decoded.tlvs
    assert not decoded.problems


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(wire.encode_packet(wire.encode_hello(1, 100))[:-3], id="cut"),
        pytest.param(wire.encode_packet(bytes.fromhex("080c 0100 1800 0640 0007 0060 0a01")), id="16 bits of 24"),
        pytest.param(wire.encode_packet(bytes.fromhex("0902 0121")), id="33 bits of 32"),
    ],
)
def test_it_complains(octets: bytes) -> None:
    """The check above can fail; and where tshark complains, we do."""
    source = parse_address("fe80::1")
    (packet,) = tshark.dissect(tshark.capture([(source, octets)]))
    assert tshark.warnings(packet)
    assert wire.decode(octets, source).problems
