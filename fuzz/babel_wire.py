"""Coverage-guided fuzzing of the Babel decoder, for as long as one likes. Needs atheris, which nothing else here does:

    pip install atheris
    python fuzz/babel_wire.py -max_total_time=600

Words behind it are libFuzzer's; a folder among them is kept as the corpus. What is found is written to ./crash-*, and
is seen again by `python fuzz/babel_wire.py crash-…`. The golden packets are the seeds.

Looked for: an exception; a value that its readers could not rely on (an unmasked prefix, a finite metric without a next
hop, …); a packet that we would not read again as we read it. tests/unit/test_babel_wire.py looks for the same on every
commit, with Hypothesis.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

with atheris.instrument_imports(include=["via6.babel", "via6.prefix"]):
    import babelfile
    from via6.babel import wire
    from via6.babel.model import INFINITY

SOURCE = bytes.fromhex("fe800000000000000000000000000001")


def is_sound(update: wire.Update) -> bool:
    """What the route table relies on."""
    width = {0: 0, 1: 4, 2: 16, 3: 16, 4: 4}[update.ae]
    value = int.from_bytes(update.prefix, "big")
    behind = width * 8 - update.length
    if len(update.prefix) != width or behind < 0 or value & ((1 << behind) - 1):
        return False
    if update.metric == INFINITY:
        return update.next_hop is None
    good_id = update.router_id is not None and update.router_id not in (bytes(8), b"\xff" * 8)
    hop = len(update.next_hop or b"")
    return good_id and update.interval_cs > 0 and hop == (4 if update.ae == wire.AE_IPV4 else 16)


def again(updates: list[wire.Update]) -> list[wire.Update]:
    """The Updates, written into packets of our own and read back."""
    found: list[wire.Update] = []
    writer = wire.Writer(300)
    packets = []
    for update in updates:
        if not writer.update(*update):
            packets.append(writer.take())
            assert writer.update(*update), "does not fit into an empty packet"
    for packet in [*packets, writer.take()]:
        tlvs, _, problems = wire.decode(packet, SOURCE)
        assert not problems, problems
        found += [tlv for tlv in tlvs if isinstance(tlv, wire.Update)]
    return found


def without_router(update: wire.Update) -> wire.Update:
    """A retraction's router-id means nothing."""
    return update._replace(router_id=None) if update.metric == INFINITY else update


def one_input(octets: bytes) -> None:
    """A packet as it is, and its octets as a body."""
    for packet in (octets, wire.encode_packet(octets[:0xFFFF])):
        tlvs, trailer, problems = wire.decode(packet, SOURCE)
        assert len(tlvs) + len(problems) <= max(len(packet), 1)
        assert packet.endswith(trailer)
        updates = [tlv for tlv in tlvs if isinstance(tlv, wire.Update)]
        assert all(is_sound(update) for update in updates), updates
        assert [*map(without_router, again(updates))] == [*map(without_router, updates)]


def main() -> int:
    """libFuzzer with the golden packets as seeds, in a child, because it ends its process without cleaning up."""
    with tempfile.TemporaryDirectory(prefix="via6-fuzz-") as seeds:
        for path in babelfile.FOLDER.glob("*.hex"):
            Path(seeds, path.stem).write_bytes(babelfile.read(path)[4])
        child = os.fork()
        if not child:
            replay = any(Path(word).is_file() for word in sys.argv[1:])
            atheris.Setup([*sys.argv, *([] if replay else [seeds])], one_input)
            atheris.Fuzz()
        while True:
            try:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            except KeyboardInterrupt:  # the child has it, too, and says what it did
                continue


if __name__ == "__main__":
    sys.exit(main())
