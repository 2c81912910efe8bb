"""Babel datagrams as tshark reads them. tshark is `tshark` of Debian (scripts/test-tools installs it)."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from via6.babel.model import GROUP, PORT
from via6.prefix import Address

_LINKTYPE_RAW = 101
_UDP = 17


def _datagram(source: Address, destination: Address, data: bytes) -> bytes:
    """An IPv6 packet (hop limit 1) with a UDP datagram from port 6696 to port 6696 and a good checksum."""
    size = 8 + len(data)
    head = struct.pack("!HHH", PORT, PORT, size)
    covered = source + destination + struct.pack("!I3xB", size, _UDP) + head + b"\0\0" + data
    total = sum(struct.unpack(f"!{(len(covered) + 1) // 2}H", covered + b"\0" * (len(covered) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    checksum = (~total & 0xFFFF) or 0xFFFF
    ip = struct.pack("!IHBB", 6 << 28, size, _UDP, 1) + source + destination
    return ip + head + struct.pack("!H", checksum) + data


def capture(packets: Sequence[tuple[Address, bytes]], destination: Address = GROUP) -> bytes:
    """A capture file (pcap) of packets (source, octets of the UDP payload)."""
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0xFFFF, _LINKTYPE_RAW)]
    for number, (source, data) in enumerate(packets):
        octets = _datagram(source, destination, data)
        parts.append(struct.pack("<IIII", number, 0, len(octets), len(octets)) + octets)
    return b"".join(parts)


def dissect(pcap: bytes) -> list[ElementTree.Element]:
    """The packets of a capture file, each a <packet> of PDML: <proto> elements with nested <field>s."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "babel.pcap")
        path.write_bytes(pcap)
        words = ["tshark", "-n", "-r", str(path), "-T", "pdml", "-o", "udp.check_checksum:TRUE"]
        done = subprocess.run(words, capture_output=True, check=True, timeout=60)
    return ElementTree.fromstring(done.stdout).findall("packet")


def warnings(packet: ElementTree.Element) -> list[str]:
    """What tshark complains about: malformed parts, experts' remarks, prefixes that it cannot read. It does not know
    AE 4 (in any version of 2026) and calls such a prefix corrupt; that is left out."""
    found = []
    for field in packet.iter("field"):
        if (field.get("name") or "").startswith(("_ws.malformed", "_ws.expert")):
            found.append(field.get("showname") or field.get("show") or "?")
        if "corrupt" in (field.get("show") or ""):
            ae = field.find("field[@name='babel.message.ae']")
            if ae is None or ae.get("show") != "4":
                found.append(field.get("show") or "?")
    found += [
        f"{proto.get('name')}" for proto in packet.findall("proto") if proto.get("name") in ("_ws.malformed", "data")
    ]
    return found
