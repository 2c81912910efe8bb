"""What via6 sends among the others, as tshark reads it: from a start to restarts and a link that fails."""

from __future__ import annotations

import signal
import struct
from collections import Counter
from dataclasses import replace

import pytest

import tshark
from interop.network import need_peers, network, ring, running, settle, take_down, take_up
from support import in_sandbox
from via6.babel.model import GROUP, PORT
from via6.babel.tlv import (
    TLV_CHALLENGE_REPLY,
    TLV_CHALLENGE_REQUEST,
    TLV_HELLO,
    TLV_IHU,
    TLV_MAC,
    TLV_PC,
    TLV_ROUTER_ID,
    TLV_SEQNO_REQUEST,
    TLV_UPDATE,
)
from via6.collect.capture import Capture, Captured
from via6.prefix import is_link_local

pytestmark = pytest.mark.root

KEY = "hmac-sha256 " + "00112233445566778899aabbccddeeff" * 2
KINDS = ("via6", "babeld", "via6", "bird")
_IPV6 = b"\x86\xdd"
_UDP = 17
_HEADERS = 14 + 40 + 8


@pytest.fixture(autouse=True, scope="module")
def _peers() -> None:
    need_peers()


def is_ours(seen: Captured) -> bool:
    """A Babel packet that this node has sent."""
    octets = seen.octets
    ports = struct.unpack("!HH", octets[54:58]) if octets[12:14] == _IPV6 and octets[20] == _UDP else ()
    return seen.outgoing and PORT in ports


def faults(octets: bytes) -> list[str]:
    """What is wrong with the headers below Babel (RFC 8966 section 4)."""
    found = []
    if octets[21] != 1:
        found.append(f"hop limit {octets[21]}")
    if struct.unpack("!HH", octets[54:58]) != (PORT, PORT):
        found.append("a port that is not 6696")
    if not is_link_local(octets[22:38]):
        found.append("a source that is not link-local")
    if octets[38:54] != GROUP and not is_link_local(octets[38:54]):
        found.append("a destination neither the group nor link-local")
    return found


@pytest.mark.parametrize("key", ["", KEY], ids=["plain", "signed"])
def test_tshark_has_nothing_to_say_against_our_packets(key: str) -> None:
    topology = network(ring(4), more=f'key = "{key}"\n' if key else "")
    routers = (replace(router, software=kind) for router, kind in zip(topology.routers, KINDS, strict=True))
    topology = replace(topology, routers=tuple(routers))

    def work() -> list[bytes]:
        taken: list[bytes] = []
        with running(topology) as lab:
            captures = [lab.call("r1", Capture, device) for device in ("eth1", "eth2")]

            def read() -> None:
                for capture in captures:
                    taken.extend(seen.octets for seen in capture.read(count=2000, timeout_s=0.5, keep=is_ours))

            settle(lab, "start")
            read()
            take_down(lab, ("r2", "r3"))  # r1 has to ask for newer seqnos
            settle(lab, "a link down", without=[("r2", "r3")])
            take_up(lab, ("r2", "r3"))
            settle(lab, "and up")
            read()
            for node, number in (("r2", signal.SIGKILL), ("r1", signal.SIGTERM)):
                lab.stop_router(node, number)
                settle(lab, "stopped", gone=[node])
                lab.start_router(node)
                settle(lab, "started again")
                read()
            for capture in captures:
                capture.close()
        return taken

    taken = in_sandbox(work)
    assert len(taken) > 20
    assert not Counter(fault for octets in taken for fault in faults(octets))
    kinds: Counter[int] = Counter()
    # Their checksums are left to the card; tshark.capture makes good ones, and sends them all to the group.
    for packet in tshark.dissect(tshark.capture([(octets[22:38], octets[_HEADERS:]) for octets in taken])):
        assert not tshark.warnings(packet)
        for field in packet.iter("field"):
            if field.get("name") == "babel.message.type":
                kinds[int(field.get("show", "0"))] += 1
    assert kinds.keys() >= {TLV_HELLO, TLV_IHU, TLV_ROUTER_ID, TLV_UPDATE, TLV_SEQNO_REQUEST}, kinds
    assert not key or kinds.keys() >= {TLV_MAC, TLV_PC, TLV_CHALLENGE_REQUEST, TLV_CHALLENGE_REPLY}, kinds
