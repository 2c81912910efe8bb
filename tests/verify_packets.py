"""A UDP packet for every ordered pair of addresses of a lab, and which of them arrive."""

from __future__ import annotations

import contextlib
import socket
import time

from via6.lab.namespaces import Lab
from via6.observe.node import Node
from via6.prefix import Address, format_address

PORT = 33600

Pair = tuple[str, Address, str, Address]


def pairs(nodes: list[Node]) -> list[Pair]:
    """(sender, its address, receiver, its address): every address of every node to every other node's."""
    own = [
        (node.name, entry.address)
        for node in nodes
        for entry in node.kernel.addresses
        if len(entry.address) == 4 and entry.address[0] != 127
    ]
    return [(a, source, b, to) for a, source in own for b, to in own if a != b]


def send(lab: Lab, wanted: list[Pair], expected: set[int]) -> set[int]:
    """The numbers of the pairs whose packet arrived at the node it was for."""
    receivers: dict[str, socket.socket] = {}
    arrived: set[int] = set()
    for node in lab.topology.nodes:
        with lab.inside(node):
            receivers[node] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            receivers[node].setsockopt(socket.SOL_SOCKET, 33, 4 << 20)
            receivers[node].bind(("0.0.0.0", PORT))

    def read() -> None:
        for node, one in receivers.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    number = int(one.recv(64))
                    if wanted[number][2] == node:
                        arrived.add(number)

    senders: dict[tuple[str, Address], socket.socket] = {}
    for number, (node, source, _, to) in enumerate(wanted):
        if (node, source) not in senders:
            with lab.inside(node):
                one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                one.bind((format_address(source), 0))
                senders[node, source] = one
        for attempt in range(2):  # the first may tell of an error that an earlier packet met
            try:
                senders[node, source].sendto(b"%d" % number, (format_address(to), PORT))
                break
            except OSError:
                if attempt:
                    break
        if number % 16 == 0:
            read()
    begun = time.monotonic()
    while time.monotonic() < begun + (0.3 if expected <= arrived else 2.5):
        read()
        time.sleep(0.01)
    for one in (*receivers.values(), *senders.values()):
        one.close()
    return arrived
