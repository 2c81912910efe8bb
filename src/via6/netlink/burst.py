"""Many routes at once, in both directions, at the speed of memcpy.

Out: routes of one block differ in the destination's octets only. With HEAD all octets before them and TAIL all
behind, a burst is `HEAD + (TAIL + HEAD).join(destinations) + TAIL`: no Python per route. Every message of a step
carries the step's number as its sequence number, and a refusal brings its message back, so the refused route is
known without a table of what was sent.

In: a dump of a full table repeats few shapes. IPv4 routes begin with RTA_TABLE and RTA_DST in all kernels, so the
destination stands at a fixed place and cuts a message into (head, destination, tail). Each distinct (head, tail) is
decoded once, as a template, and the destinations go to its block. Where one shape follows itself, a run of messages is
cut by struct in C; where shapes alternate, as a route and its standing backup do, each is one look into a dict.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from via6.model import Route, RouteBlock
from via6.netlink.route import DESTINATION_AT, FLAGS, RTA_DST, RTM_DELROUTE, RTM_NEWROUTE, decode_route, encode_route
from via6.netlink.wire import ATTR, HEADER, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, U16, align, message
from via6.prefix import AF_INET, Address

DUMP_DST_AT: Final = 16 + 12 + 8 + 4  # header, rtmsg, RTA_TABLE, header of RTA_DST
DST_HEADER: Final = ATTR.pack(8, RTA_DST)
_NEWROUTE: Final = U16.pack(RTM_NEWROUTE)
_RUN: Final = 16  # messages that are tried at once at first; twice as many each time that they were alike
_LONGEST_RUN: Final = 4096
_LENGTH: Final = struct.Struct("=I")


def split(op: str, template: Route, seq: int) -> tuple[bytes, bytes]:
    """HEAD and TAIL of a route message for `op` (add, replace, append, delete)."""
    kind = RTM_DELROUTE if op == "delete" else RTM_NEWROUTE
    whole = message(kind, NLM_F_REQUEST | FLAGS[op], encode_route(template), seq)
    end = DESTINATION_AT + len(template.prefix.packed)
    return whole[:DESTINATION_AT], whole[end:]


def with_flags(head: bytes, extra: int, seq: int) -> bytes:
    """The same head with more flags and another sequence number: for the message that closes a window."""
    length, kind, flags, _seq, portid = HEADER.unpack_from(head)
    return HEADER.pack(length, kind, flags | extra, seq, portid) + head[16:]


def build(head: bytes, tail: bytes, destinations: Sequence[Address]) -> bytes:
    """The messages for all destinations, one after the other."""
    return head + (tail + head).join(destinations) + tail


def destination_of(request: bytes) -> Address | None:
    """The destination in a message of ours that came back in an error, or None if it is not one."""
    if len(request) < DESTINATION_AT:
        return None
    length, kind = ATTR.unpack_from(request, DESTINATION_AT - 4)
    end = DESTINATION_AT - 4 + length
    return request[DESTINATION_AT:end] if kind == RTA_DST and length in (8, 20) and len(request) >= end else None


class DumpReader:
    """Feeds on the datagrams of one route dump. `done` is set by NLMSG_DONE or an error; `interrupted` when the
    table changed under the dump; `problems` counts what could not be decoded, `problem` is the first; `last` is the
    closing message."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[bytes, bytes], list[Address]] = {}
        self._templates: dict[tuple[bytes, bytes], Route] = {}
        self._run_length = _RUN
        self.problems = 0
        self.problem = ""
        self.done = False
        self.interrupted = False
        self.last = b""

    def feed(self, data: bytes) -> None:
        """One datagram."""
        offset, end = 0, len(data)
        blocks, length_at = self._blocks, _LENGTH.unpack_from
        before: list[Address] | None = None
        while offset + 16 <= end:
            (length,) = length_at(data, offset)
            if length < 16 or offset + length > end:
                self._note("message longer than its datagram")
                return
            at = offset + DUMP_DST_AT
            # What is known by its head is a route, with its destination in this place.
            block = blocks.get((data[offset:at], data[at + 4 : offset + length]))
            if block is not None and block is not before:
                block.append(data[at : at + 4])
                before, offset = block, offset + length
            else:
                before, offset = None, self._unknown(data, offset, length)

    def _unknown(self, data: bytes, offset: int, length: int) -> int:
        """A message, or several, of which nothing is known yet, or the same as before; returns the offset behind."""
        _, kind, flags, _seq, _portid = HEADER.unpack_from(data, offset)
        if flags & NLM_F_DUMP_INTR:
            self.interrupted = True
        if kind == RTM_NEWROUTE:
            return self._run(data, offset, length)
        if kind in (NLMSG_DONE, NLMSG_ERROR):
            self.done = True
            self.last = data[offset : offset + length]
        return offset + align(length)

    def _note(self, problem: str) -> None:
        self.problems += 1
        self.problem = self.problem or problem

    def _run(self, data: bytes, offset: int, length: int) -> int:
        """Messages of this length that follow each other; returns the offset behind them."""
        at = offset + DUMP_DST_AT
        fits = length % 4 == 0 and length > DUMP_DST_AT + 4 and data[offset + 16] == AF_INET
        if not fits or data[at - 4 : at] != DST_HEADER:
            return self._single(data, offset, length)
        count = min((len(data) - offset) // length, self._run_length)
        rows = struct.iter_unpack(
            f"{DUMP_DST_AT}s4s{length - DUMP_DST_AT - 4}s", memoryview(data)[offset : offset + count * length]
        )
        heads, destinations, tails = zip(*rows, strict=True)
        head, tail = heads[0], tails[0]
        if heads.count(head) == count and tails.count(tail) == count:
            self._block(head, destinations[0], tail).extend(destinations)
            self._run_length = min(2 * self._run_length, _LONGEST_RUN)
            return offset + count * length
        self._run_length = _RUN
        taken = 0
        size = data[offset : offset + 4]
        for head, destination, tail in zip(heads, destinations, tails, strict=True):
            # A message of another length ends the run; another attribute in the destination's place ends it, too.
            if head[:4] != size or head[4:6] != _NEWROUTE or head[-4:] != DST_HEADER or head[16] != AF_INET:
                break
            block = self._blocks.get((head, tail))
            if block is None:
                block = self._block(head, destination, tail)
            block.append(destination)
            taken += 1
        return offset + taken * length if taken else self._single(data, offset, length)

    def _block(self, head: bytes, destination: Address, tail: bytes) -> list[Address]:
        key = (head, tail)
        found = self._blocks.get(key)
        if found is not None:
            return found
        flags = HEADER.unpack_from(head)[2]
        if flags & NLM_F_DUMP_INTR:
            self.interrupted = True
        route, problem = decode_route((head + destination + tail)[16:])
        if route is None:
            self._note(problem)
            return []  # counted, not kept
        self._templates[key] = route.as_template()
        return self._blocks.setdefault(key, [])

    def _single(self, data: bytes, offset: int, length: int) -> int:
        route, problem = decode_route(data[offset + 16 : offset + length])
        if route is None:
            self._note(problem)
        else:
            template = route.as_template()
            key = (b"", repr(template).encode())
            self._templates[key] = template
            self._blocks.setdefault(key, []).append(route.prefix.packed)
        return offset + align(length)

    def blocks(self) -> tuple[RouteBlock, ...]:
        """What was read so far, one block per template."""
        merged: dict[Route, list[Address]] = {}
        for key, destinations in self._blocks.items():
            template = self._templates[key]
            if template in merged:
                merged[template] += destinations
            else:
                merged[template] = destinations
        return tuple(RouteBlock(t, d) for t, d in merged.items())
