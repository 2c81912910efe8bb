"""MAC authentication of Babel packets (RFC 8967, RFC 9467): who may speak on a link.

Every router of a link knows the same keys. A packet carries, in its body, a packet counter (PC) and an index, the name
of the run of counters that it belongs to; and in its trailer one MAC per key over

    source address, source port, destination address, destination port | packet header and body

so that nobody without a key can write a packet, alter one, or send one as somebody else. What is left is the replay.
Within one index counters only rise, so a counter that was seen before is refused. A new index may be a neighbour that
has just started, or a packet recorded in an earlier life of it: it is *challenged* with a nonce, and only a packet that
carries the nonce back, under a good MAC, makes its index and counter the current ones. Nothing has to be stored across
restarts: a random index at each start is enough.

The sender has one counter for all it sends; the receiver judges unicast and multicast packets separately (RFC 9467
section 3.1), because some media hold multicast back while unicast overtakes. The destination is under the MAC, so no
packet can change sides. Each side remembers which of the last `WINDOW` counters it saw (section 3.2): packets in flight
may change places without being lost, none is taken twice.

Memory. A stranger without a key leaves no trace (RFC 8967 section 4.3). Who passes the MAC but has not yet answered a
challenge is one of at most `MAX_STRANGERS`, the oldest makes room; recorded packets of former routers come this far.
Who has answered is one of at most `MAX_PEERS`, and makes room only after `PEER_IDLE_S` of silence.

One thing the driver must know: counters are given by `sign`, so packets are to be signed in the order in which they
leave. A receiver of RFC 8967 alone (babeld 1.12) drops what was signed early and sent late.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from via6.babel.model import PORT, Arrival, Key
from via6.babel.tlv import (
    HEADER_OCTETS,
    MAGIC,
    MAX_INDEX,
    MAX_NONCE,
    TLV_CHALLENGE_REPLY,
    TLV_CHALLENGE_REQUEST,
    TLV_MAC,
    TLV_PAD1,
    TLV_PC,
    VERSION,
)
from via6.babel.writer import encode_challenge_reply, encode_challenge_request, encode_packet, encode_pc
from via6.prefix import Address

CHALLENGE_GAP_S: Final = 0.3
"""At most one Challenge Request and one Challenge Reply per neighbour in this time (RFC 8967 section 4.3.1): both
may be caused by a replayed packet."""
CHALLENGE_VALID_S: Final = 30.0
NONCE_OCTETS: Final = 16
INDEX_OCTETS: Final = 8
MAX_COUNTER: Final = 0xFFFFFFFF
WINDOW: Final = 64
MAX_STRANGERS: Final = 256
MAX_PEERS: Final = 1024
PEER_IDLE_S: Final = 300.0
MAX_TRAILER_TLVS: Final = 64
"""More of them in a trailer than any set of keys makes are not looked at."""

OF_INTEREST: Final = (TLV_PC, TLV_CHALLENGE_REQUEST, TLV_CHALLENGE_REPLY)

_ALL_SEEN: Final = (1 << WINDOW) - 1
_PORT: Final = PORT.to_bytes(2, "big")

_DIGEST_OCTETS: Final = {"hmac-sha256": 32, "blake2s128": 16}
_MAX_SECRET: Final = {"hmac-sha256": 64, "blake2s128": 32}


class Chance(Protocol):
    """Where nonces come from: `random.SystemRandom` in the daemon, a seeded generator in the simulator."""

    def randbytes(self, n: int, /) -> bytes: ...


class Answer(NamedTuple):
    """TLVs to be sent to `destination` at once: in a packet of their own or together with others, but by unicast."""

    destination: Address
    body: bytes


class Verdict(NamedTuple):
    """What became of a packet. `problem` is empty for a good one, else a word for counters: bad-magic, bad-version,
    truncated, no-mac, bad-mac, no-counter, challenged (its index is not known yet; ordinary when a neighbour starts),
    replay, too-many-peers. It is also set when the packet was accepted only because everything is (`accept_all`).
    `authenticated`: MAC and counter were good. `reply` is to be sent whatever the rest says. `proven`: with this packet
    the sender has answered a challenge; what both said before was probably dropped, so a Hello is due soon."""

    accepted: bool
    problem: str = ""
    authenticated: bool = False
    reply: tuple[Answer, ...] = ()
    proven: bool = False


_UNCHECKED: Final = Verdict(True)


def key_problem(key: Key) -> str:
    """What is wrong with a key, empty if it is good. It has at least one octet and at most 64 (HMAC-SHA256: longer ones
    would be hashed first, and babeld does not take them) or 32 (BLAKE2s, RFC 7693)."""
    longest = _MAX_SECRET.get(key.algorithm)
    if longest is None:
        return f"unknown algorithm {key.algorithm!r}; known are {', '.join(_MAX_SECRET)}"
    if not 1 <= len(key.secret) <= longest:
        return f"a key for {key.algorithm} has 1 to {longest} octets, this one has {len(key.secret)}"
    return ""


def pseudo_header(source: Address, port: int, destination: Address) -> bytes:
    """What is put before the packet under the MAC (RFC 8967 section 4.1); it is never sent."""
    return source + port.to_bytes(2, "big") + destination + _PORT


def mac_of(key: Key, covered: bytes) -> bytes:
    """The MAC of a pseudo-header and packet. Keys are those in which `key_problem` finds nothing."""
    if key.algorithm == "blake2s128":
        return hashlib.blake2s(covered, digest_size=16, key=key.secret).digest()
    return hmac.digest(key.secret, covered, "sha256")


class _Counters:
    """The counters seen of one kind of packet: the highest, and which of the `WINDOW` up to it (bit 0: the highest)."""

    __slots__ = ("highest", "seen")

    def __init__(self, highest: int) -> None:
        self.highest = highest
        self.seen = _ALL_SEEN  # what came before the challenge was answered is old, whether it was seen or not

    def take(self, counter: int) -> bool:
        """False: this one was seen before, or is too old to tell."""
        ahead = counter - self.highest
        if ahead > 0:
            self.seen = (self.seen << ahead | 1) & _ALL_SEEN if ahead < WINDOW else 1
            self.highest = counter
            return True
        bit = 1 << -ahead if ahead > -WINDOW else 0
        if not bit or self.seen & bit:
            return False
        self.seen |= bit
        return True


@dataclass(slots=True)
class _Peer:
    """What RFC 8967 section 3.2 adds to the neighbour table. `index` None: no challenge was answered yet."""

    heard: float
    index: bytes | None = None
    unicast: _Counters = field(default_factory=lambda: _Counters(MAX_COUNTER))
    multicast: _Counters = field(default_factory=lambda: _Counters(MAX_COUNTER))
    nonce: bytes = b""
    nonce_until: float = 0.0
    challenge_after: float = float("-inf")
    reply_after: float = float("-inf")


class LinkAuth:
    """Authentication on one link. Without keys it signs nothing and accepts everything.

    `index` is ours for the packet counters: 0 to 32 octets never used before with any of these keys, so random ones at
    each start. ValueError: a key or the index cannot be used (ask `key_problem` first)."""

    def __init__(self, keys: tuple[Key, ...], index: bytes, accept_all: bool, chance: Chance) -> None:
        if len(index) > MAX_INDEX:
            raise ValueError(f"an index has at most {MAX_INDEX} octets")
        self._index = index
        self._counter = 0
        self._chance = chance
        self._peers: dict[Address, _Peer] = {}  # the one heard last stands last
        self._strangers: dict[Address, _Peer] = {}
        self.keys = keys
        self.accept_all = accept_all
        self.change_keys(keys)

    def change_keys(self, keys: tuple[Key, ...], accept_all: bool | None = None) -> None:
        """From now on sign with these and accept these. Neighbours stay: to replace a key, first add the new one on
        every router, then take the old one away. `overhead` changes with it. ValueError: a key cannot be used."""
        for key in keys:
            if problem := key_problem(key):
                raise ValueError(f"key {key.name}: {problem}")
        self.keys = keys
        if accept_all is not None:
            self.accept_all = accept_all

    @property
    def overhead(self) -> int:
        """Octets to leave free in a packet for the PC TLV and the MACs."""
        if not self.keys:
            return 0
        index = max(len(self._index), INDEX_OCTETS)
        return 6 + index + sum(2 + _DIGEST_OCTETS[key.algorithm] for key in self.keys)

    def known(self, neighbour: Address) -> bool:
        """Whether it has answered a challenge: its signed packets are accepted as they come."""
        return neighbour in self._peers

    def forget(self, neighbour: Address) -> None:
        """The neighbour is gone; should it come back, it is challenged again (RFC 8967 section 4.4)."""
        self._peers.pop(neighbour, None)
        self._strangers.pop(neighbour, None)

    # --- sending --------------------------------------------------------------------------------------------------

    def sign(self, packet: bytes, source: Address, destination: Address) -> bytes:
        """The packet (header and body) with a PC TLV at the end of its body and a MAC TLV per key in its trailer (RFC
        8967 section 4.2). Each call uses up a counter: sign in the order of sending. When the counters of an
        index are used up, a fresh random index begins."""
        if not self.keys:
            return packet
        self._counter += 1
        if self._counter > MAX_COUNTER:
            self._counter = 1
            self._index = self._chance.randbytes(max(len(self._index), INDEX_OCTETS))
        signed = encode_packet(packet[HEADER_OCTETS:] + encode_pc(self._counter, self._index))
        covered = pseudo_header(source, PORT, destination) + signed
        return signed + b"".join([_mac_tlv(mac_of(key, covered)) for key in self.keys])

    # --- receiving ------------------------------------------------------------------------------------------------

    def check(self, arrival: Arrival, now: float) -> Verdict:
        """Judge a datagram before anything in it is believed (RFC 8967 section 4.3, the numbers below are its steps).
        Never raises."""
        if not self.keys:
            return _UNCHECKED
        problem = self._mac_problem(arrival)
        verdict = Verdict(False, problem) if problem else self._judge(arrival, now)
        if self.accept_all and not verdict.accepted:
            return verdict._replace(accepted=True)
        return verdict

    def _mac_problem(self, arrival: Arrival) -> str:
        """Step 1: one good MAC under one key is enough; each key is computed once, however many MACs there are."""
        data = arrival.data
        if problem := _header_problem(data):
            return problem
        end = _body_end(data)
        macs = _macs(data, end)
        if not macs:
            return "no-mac"
        covered = pseudo_header(arrival.source, arrival.port & 0xFFFF, arrival.destination) + data[:end]
        for key in self.keys:
            good = mac_of(key, covered)
            for mac in macs:
                if hmac.compare_digest(good, mac):
                    return ""
        return "bad-mac"

    def _judge(self, arrival: Arrival, now: float) -> Verdict:
        """Steps 2 to 6, for a packet written by one who has a key, now or at some time before."""
        unicast = arrival.destination[:1] != b"\xff"
        said = _preparse(arrival.data, _body_end(arrival.data))
        peer = self._peer(arrival.source, now)
        answer = b""
        if unicast and said.request is not None and now >= peer.reply_after:
            peer.reply_after = now + CHALLENGE_GAP_S
            answer = encode_challenge_reply(said.request)
        answered = unicast and bool(peer.nonce) and now < peer.nonce_until and peer.nonce in said.replies
        if answered:
            peer.nonce = b""
        problem, proven = "", False
        if said.index is None:
            problem = "no-counter"
        elif said.index == peer.index:
            # Also if this is an answer: one that was held back on its way must not take the counters back.
            if not (peer.unicast if unicast else peer.multicast).take(said.counter):
                problem = "replay"
        elif answered:
            problem = self._prove(arrival.source, peer, said.index, said.counter, now)
            proven = not problem
        else:
            problem = "challenged"
            answer += self._challenge(peer, now)
        if not problem:
            peer.heard = now
            self._peers[arrival.source] = self._peers.pop(arrival.source)
        reply = (Answer(arrival.source, answer),) if answer else ()
        return Verdict(not problem, problem, not problem, reply, proven)

    def _peer(self, address: Address, now: float) -> _Peer:
        """Step 2: from here on there may be state."""
        peer = self._peers.get(address) or self._strangers.get(address)
        if peer is None:
            if len(self._strangers) >= MAX_STRANGERS:
                del self._strangers[next(iter(self._strangers))]
            peer = self._strangers[address] = _Peer(now)
        return peer

    def _prove(self, address: Address, peer: _Peer, index: bytes, counter: int, now: float) -> str:
        """Step 4: the challenge is answered. Returns what is wrong: there may be no room for one more neighbour."""
        if address not in self._peers and len(self._peers) >= MAX_PEERS:
            oldest = next(iter(self._peers))
            if now - self._peers[oldest].heard < PEER_IDLE_S:
                return "too-many-peers"
            del self._peers[oldest]
        self._strangers.pop(address, None)
        self._peers[address] = peer
        peer.index, peer.unicast, peer.multicast = index, _Counters(counter), _Counters(counter)
        return ""

    def _challenge(self, peer: _Peer, now: float) -> bytes:
        """A Challenge Request (RFC 8967 section 4.3.1.1), empty if the last one is too young. While a nonce is valid
        and unanswered it is asked again, not replaced: on a slow link the answer would always come too late."""
        if now < peer.challenge_after:
            return b""
        peer.challenge_after = now + CHALLENGE_GAP_S
        if not peer.nonce or now >= peer.nonce_until:
            peer.nonce = self._chance.randbytes(NONCE_OCTETS)
            peer.nonce_until = now + CHALLENGE_VALID_S
        return encode_challenge_request(peer.nonce)


# --- octets ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Said:
    """What the TLVs of RFC 8967 in a body say. `index` None: no PC TLV."""

    counter: int = 0
    index: bytes | None = None
    request: bytes | None = None
    replies: list[bytes] = field(default_factory=list)


def _mac_tlv(mac: bytes) -> bytes:
    return bytes((TLV_MAC, len(mac))) + mac


def _header_problem(data: bytes) -> str:
    """Empty if these octets are a packet of Babel version 2 with all of its body."""
    if len(data) < HEADER_OCTETS:
        return "truncated"
    if data[0] != MAGIC:
        return "bad-magic"
    if data[1] != VERSION:
        return "bad-version"
    return "truncated" if _body_end(data) > len(data) else ""


def _body_end(data: bytes) -> int:
    """Where the body ends and the trailer begins."""
    return HEADER_OCTETS + (data[2] << 8 | data[3])


def _macs(data: bytes, at: int) -> list[bytes]:
    """The MACs of a trailer; other TLVs there are ignored, and so is what follows a TLV that does not fit."""
    found: list[bytes] = []
    size = len(data)
    for _ in range(MAX_TRAILER_TLVS):
        if at >= size:
            break
        if data[at] == TLV_PAD1:
            at += 1  # Pad1 has no length
            continue
        if at + 2 > size or at + 2 + data[at + 1] > size:
            break
        end = at + 2 + data[at + 1]
        if data[at] == TLV_MAC:
            found.append(data[at + 2 : end])
        at = end
    return found


def _preparse(data: bytes, size: int) -> _Said:
    """Step 3: the TLVs of RFC 8967 in the body, which ends at `size`. Of several PC TLVs the first counts, of several
    requests the first is answered; what is too short or too long is ignored."""
    said = _Said()
    at = HEADER_OCTETS
    counted = False
    while at < size:
        kind = data[at]
        if kind == TLV_PAD1:
            at += 1  # Pad1 has no length
            continue
        if at + 2 > size:
            break
        start = at + 2
        at = start + data[at + 1]
        if at > size:
            break
        if kind not in OF_INTEREST:
            continue
        octets = data[start:at]
        if kind == TLV_PC:
            if not counted and 4 <= len(octets) <= 4 + MAX_INDEX:
                said.counter, said.index = int.from_bytes(octets[:4], "big"), octets[4:]
            counted = True
        elif len(octets) <= MAX_NONCE:
            if kind == TLV_CHALLENGE_REPLY:
                said.replies.append(octets)
            elif said.request is None:
                said.request = octets
    return said
