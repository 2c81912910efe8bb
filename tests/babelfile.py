"""Golden Babel packets: text files of octets in hex, a TLV a line, with comments.

# an IPv4 route without an IPv4 address
# from fe80::1                             the packet's source
# = Update(ae=4, …)                        a line for each value that it stands for, as repr writes it
# ! bad-update                             and for each problem
2a020018                                   header
060a0000 0123456789abcdef                  TLV 6
"""

from __future__ import annotations

from pathlib import Path

from via6.babel.tlv import Decoded
from via6.prefix import Address, format_address, parse_address

FOLDER = Path(__file__).parent / "golden" / "babel"


def to_text(about: str, source: Address, decoded: Decoded, packet: bytes) -> str:
    """The file for a packet."""
    lines = [f"# {about}", f"# from {format_address(source)}"]
    lines += [f"# = {value!r}" for value in decoded.tlvs]
    lines += [f"# ! {problem}" for problem in decoded.problems]
    lines.append(f"{_hex(packet[:4])}  # header")
    end = 4 + int.from_bytes(packet[2:4], "big")
    at = 4
    while at < len(packet):
        if at == end:
            lines.append("# trailer")
        size = 1 if packet[at] == 0 or at + 1 == len(packet) else 2 + packet[at + 1]
        lines.append(f"{_hex(packet[at : at + size])}  # TLV {packet[at]}")
        at += size
    return "\n".join(lines) + "\n"


def _hex(octets: bytes) -> str:
    return octets.hex(" ", -4)


def read(path: Path) -> tuple[str, Address, list[str], list[str], bytes]:
    """(what it is about, the source, reprs of its values, its problems, the packet)."""
    lines = path.read_text().splitlines()
    octets = "".join(line.partition("#")[0] for line in lines)
    values = [line.removeprefix("# = ") for line in lines if line.startswith("# = ")]
    problems = [line.removeprefix("# ! ") for line in lines if line.startswith("# ! ")]
    source = parse_address(lines[1].removeprefix("# from "))
    return lines[0].removeprefix("# "), source, values, problems, bytes.fromhex(octets)
