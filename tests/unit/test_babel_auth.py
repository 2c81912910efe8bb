"""MAC authentication of Babel packets (RFC 8967, 9467): who is believed, who is challenged, and what it may cost."""

from __future__ import annotations

import hashlib
import random
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from via6.babel import auth
from via6.babel.auth import Answer, LinkAuth, Verdict, key_problem
from via6.babel.model import GROUP, PORT, Arrival, Key

ALICE = bytes.fromhex("fe80000000000000000000000000000a")
BOB = bytes.fromhex("fe80000000000000000000000000000b")
HELLO = bytes.fromhex("2a020008 0406 0000 0007 0064")

HMAC = Key("summer", "hmac-sha256", bytes(range(32)))
BLAKE = Key("winter", "blake2s128", b"snow")

# Packets of other speakers, as they came off a link: (who, key, source, destination, packet).
BABELD_KEY = bytes.fromhex("00112233445566778899aabbccddeeff" * 2)
BIRD_KEY = b"0123456789abcdef0123456789abcdef"
CAPTURED = [
    ("babeld 1.12.1", Key("k", "hmac-sha256", BABELD_KEY), "fe80000000000000e0c30afffe95ab9f",
     "fe80000000000000dc29cafffed9e2c6",
     ("2a0200181208b919517cb9c5b520110c00000003c970203e7515b6a1"
     "1020ab6f9fd0e0e191fe1032212b3f984fac08a021e7f1962a446491db8d3e7a9b46")),
    ("babeld 1.12.1", Key("k", "hmac-sha256", BABELD_KEY), "fe80000000000000e0c30afffe95ab9f", GROUP.hex(),
     ("2a020029060a00007669613661757468080d0400180001900001ffffcb0071110c00000005c970203e7515b6a1"
     "1020cee1a697075338286446b5addbb9f00677fbfaba734d5e2ac02be390c41a3041")),
    ("babeld 1.12.1", Key("k", "blake2s128", BABELD_KEY), "fe8000000000000070d4ecfffedae6e5",
     "fe80000000000000d839b6fffece9975",
     "2a0200181208db28a41641a50713110c000000030cfdaca459d8535f1010c4d0f60675d293b52b52811e667eeee9"),
    ("BIRD 2.0.12", Key("k", "hmac-sha256", BIRD_KEY), "fe80000000000000e4cdbbfffea0d265", GROUP.hex(),
     ("2a02002e04060000000200641124000000034e337f8090a8bdffe69e41033d1d84a2b0b8d8e27f88073e79b846333e03a342"
     "1020e4e1e1018b5d2a3d365e6cb5afcd097da7f7fc7803e92c57d9259b9ecc408dcc")),
    ("BIRD 2.0.12", Key("k", "blake2s128", BIRD_KEY), "fe8000000000000028d931fffe28fb33", GROUP.hex(),
     ("2a02002e04060000000200641124000000046b957393408889ac7a037797339be0a3934a8d265be283d44c6942a66717a086"
     "10102261e090e07b7c62f61228c61ee715b5")),
]  # fmt: skip


def naive_hmac(secret: bytes, text: bytes) -> bytes:
    """RFC 2104 as it is written down."""
    padded = secret.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(octet ^ 0x36 for octet in padded) + text).digest()
    return hashlib.sha256(bytes(octet ^ 0x5C for octet in padded) + inner).digest()


def speaker(*keys: Key, seed: int = 1, accept_all: bool = False) -> LinkAuth:
    return LinkAuth(keys or (HMAC,), seed.to_bytes(8, "big"), accept_all, random.Random(seed))


def packet(*tlvs: bytes) -> bytes:
    body = b"".join(tlvs)
    return struct.pack("!BBH", 42, 2, len(body)) + body


def tlvs(data: bytes) -> list[tuple[int, bytes]]:
    """Those of a body or a trailer, which must be whole."""
    found = []
    while data:
        found.append((data[0], data[2 : 2 + data[1]]))
        assert len(data) >= 2 + data[1]
        data = data[2 + data[1] :]
    return found


def arrival(data: bytes, source: bytes = ALICE, destination: bytes = GROUP, port: int = PORT) -> Arrival:
    return Arrival(1, source, data, destination, port)


def deliver(
    sender: LinkAuth, receiver: LinkAuth, now: float, data: bytes = HELLO, source: bytes = ALICE, to: bytes = GROUP
) -> Verdict:
    return receiver.check(arrival(sender.sign(data, source, to), source, to), now)


def meet(one: LinkAuth, other: LinkAuth, now: float = 0.0, address: bytes = ALICE, there: bytes = BOB) -> None:
    """One has a packet for the other; both answer until nobody has anything more to say."""
    queue: list[tuple[LinkAuth, LinkAuth, bytes, bytes, bytes]] = [(one, other, address, GROUP, HELLO)]
    for _ in range(8):
        if not queue:
            return
        sender, receiver, source, destination, data = queue.pop(0)
        verdict = deliver(sender, receiver, now, data, source, destination)
        for answer in verdict.reply:
            mine = there if source == address else address
            queue.append((receiver, sender, mine, answer.destination, packet(answer.body)))
    raise AssertionError("they never come to an end")


# --- the MAC ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "source", "destination", "data"), [line[1:] for line in CAPTURED])
def test_packets_of_other_speakers_pass(key: Key, source: str, destination: str, data: str) -> None:
    octets, there = bytes.fromhex(data), bytes.fromhex(destination)
    assert speaker(key).check(arrival(octets, bytes.fromhex(source), there), 0).problem == "challenged"
    other = Key("k", key.algorithm, key.secret[:-1])
    assert speaker(other).check(arrival(octets, bytes.fromhex(source), there), 0).problem == "bad-mac"
    assert speaker(key).check(arrival(octets, ALICE, there), 0).problem == "bad-mac"
    assert speaker(key).check(arrival(octets, bytes.fromhex(source), BOB), 0).problem == "bad-mac"
    assert speaker(key).check(arrival(octets, bytes.fromhex(source), there, 6697), 0).problem == "bad-mac"


def test_what_is_signed() -> None:
    """PC in the body, a MAC per key behind it, over pseudo-header, header and body."""
    signed = speaker(HMAC, BLAKE, seed=5).sign(HELLO, ALICE, GROUP)
    end = 4 + int.from_bytes(signed[2:4], "big")
    assert tlvs(signed[4:end]) == [(4, HELLO[6:]), (17, struct.pack("!IQ", 1, 5))]
    covered = ALICE + b"\x1a\x28" + GROUP + b"\x1a\x28" + signed[:end]
    assert tlvs(signed[end:]) == [
        (16, naive_hmac(HMAC.secret, covered)),
        (16, hashlib.blake2s(covered, digest_size=16, key=b"snow").digest()),
    ]


@pytest.mark.parametrize("keys", [(), (HMAC,), (BLAKE,), (HMAC, BLAKE, HMAC)])
def test_overhead_is_what_signing_adds(keys: tuple[Key, ...]) -> None:
    sender = LinkAuth(keys, bytes(8), False, random.Random(1))
    assert len(sender.sign(HELLO, ALICE, GROUP)) - len(HELLO) == sender.overhead


def test_without_keys_nothing_is_signed_and_all_accepted() -> None:
    plain = LinkAuth((), bytes(8), False, random.Random(1))
    assert plain.sign(HELLO, ALICE, GROUP) == HELLO
    assert plain.check(arrival(HELLO), 0) == Verdict(True)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "truncated"),
        (b"\x2a\x02\x00", "truncated"),
        (b"\x2a\x02\x00\x09" + HELLO[4:], "truncated"),
        (b"\x2b" + HELLO[1:], "bad-magic"),
        (b"\x2a\x03" + HELLO[2:], "bad-version"),
        (HELLO, "no-mac"),
        (HELLO + b"\x10", "no-mac"),
        (HELLO + b"\x10\x20" + bytes(31), "no-mac"),
        (HELLO + b"\x11\x04" + bytes(4), "no-mac"),
        (HELLO + bytes(200) + b"\x10\x20" + bytes(32), "no-mac"),
        (HELLO + b"\x10\x00", "bad-mac"),
        (HELLO + b"\x10\x20" + bytes(32), "bad-mac"),
        (HELLO + b"\x10\x02\x00\x00" * 400, "bad-mac"),
    ],
)
def test_unsigned_and_broken_packets(data: bytes, problem: str) -> None:
    receiver = speaker(HMAC, BLAKE)
    assert receiver.check(arrival(data), 0) == Verdict(False, problem)
    assert not receiver._peers
    assert not receiver._strangers


def test_a_mac_in_the_body_does_not_count() -> None:
    covered = ALICE + b"\x1a\x28" + GROUP + b"\x1a\x28"
    inner = packet(b"\x10\x20" + bytes(32))
    assert speaker().check(arrival(inner), 0).problem == "no-mac"
    assert speaker().check(arrival(HELLO + b"\x10\x20" + naive_hmac(HMAC.secret, covered + HELLO)), 0).problem == (
        "no-counter"
    )


def test_other_things_in_a_trailer_are_stepped_over() -> None:
    sender, receiver = speaker(seed=1), speaker(seed=2)
    meet(sender, receiver)
    signed = sender.sign(HELLO, ALICE, GROUP)
    end = len(signed) - 34
    littered = signed[:end] + b"\0\0\x01\x02ab\x63\x01x\x10\x03abc" + signed[end:] + b"\x63\xff"
    assert receiver.check(arrival(littered), 1).accepted


def test_keys_that_cannot_be_used() -> None:
    assert key_problem(Key("k", "hmac-sha256", bytes(64))) == ""
    assert key_problem(Key("k", "blake2s128", bytes(32))) == ""
    bad = [
        Key("k", "hmac-sha256", bytes(65)), Key("k", "hmac-sha256", b""), Key("k", "blake2s128", bytes(33)),
        Key("k", "md5", b"x"),
    ]  # fmt: skip
    for key in bad:
        assert key_problem(key)
        with pytest.raises(ValueError, match="key k:"):
            speaker(key)
    with pytest.raises(ValueError, match="32 octets"):
        LinkAuth((HMAC,), bytes(33), False, random.Random(1))


# --- challenges -------------------------------------------------------------------------------------------------------


def test_two_that_meet_believe_each_other_after_one_exchange() -> None:
    one, other = speaker(seed=1), speaker(seed=2)
    first = deliver(one, other, 0)
    assert (first.accepted, first.authenticated, first.problem) == (False, False, "challenged")
    ((destination, body),) = first.reply
    assert destination == ALICE
    ((kind, nonce),) = tlvs(body)
    assert (kind, len(nonce)) == (18, 16)
    second = deliver(other, one, 0, packet(body), BOB, ALICE)
    assert second.problem == "challenged"
    assert [kind for kind, _ in tlvs(second.reply[0].body)] == [19, 18], "reply and own challenge in one packet"
    assert tlvs(second.reply[0].body)[0][1] == nonce
    third = deliver(one, other, 0, packet(second.reply[0].body), ALICE, BOB)
    assert third.accepted
    assert third.authenticated
    assert third.proven
    assert not third.problem
    assert other.known(ALICE)
    fourth = deliver(other, one, 0, packet(third.reply[0].body), BOB, ALICE)
    assert fourth == Verdict(True, "", True, (), True)
    assert not one._strangers
    assert not other._strangers
    assert deliver(one, other, 0.01).accepted
    assert deliver(other, one, 0.01, source=BOB).accepted


def challenge(receiver: LinkAuth, sender: LinkAuth, now: float) -> bytes:
    """The nonce that a Hello provokes, empty if none."""
    verdict = deliver(sender, receiver, now)
    assert verdict.problem == "challenged"
    return tlvs(verdict.reply[0].body)[-1][1] if verdict.reply else b""


def test_challenges_are_rare_and_expire() -> None:
    sender, receiver = speaker(seed=1), speaker(seed=2)
    nonce = challenge(receiver, sender, 100.0)
    assert challenge(receiver, sender, 100.29) == b""
    assert challenge(receiver, sender, 100.31) == nonce, "the same question: an answer under way is still good"
    late = packet(b"\x13\x10" + nonce)
    assert deliver(sender, receiver, 130.1, late, to=BOB).problem == "challenged"
    assert challenge(receiver, sender, 131.0) not in (b"", nonce)


def test_other_neighbours_have_challenges_of_their_own() -> None:
    sender, receiver = speaker(seed=1), speaker(seed=2)
    nonce = challenge(receiver, sender, 0)
    ((_, body),) = deliver(sender, receiver, 0, source=BOB).reply
    assert tlvs(body)[0][1] not in (b"", nonce)


@pytest.mark.parametrize("nonce", [b"", bytes(16), bytes(15)])
def test_wrong_answers(nonce: bytes) -> None:
    sender, receiver = speaker(seed=1), speaker(seed=2)
    answer = packet(bytes((19, len(nonce))) + nonce)
    assert not deliver(sender, receiver, 0, answer, to=BOB).accepted, "before there was a challenge"
    challenge(receiver, sender, 0)
    assert not deliver(sender, receiver, 0, answer, to=BOB).accepted
    assert not receiver.known(ALICE)


def test_an_answered_challenge_is_over() -> None:
    """Neither its nonce nor an empty one lets an earlier life of the neighbour in."""
    old, sender, receiver = speaker(seed=9), speaker(seed=1), speaker(seed=2)
    nonce = challenge(receiver, old, 0)
    held = old.sign(packet(b"\x13\x10" + nonce), ALICE, BOB)
    assert deliver(sender, receiver, 1, packet(b"\x13\x10" + nonce), to=BOB).proven
    assert receiver.check(arrival(held, ALICE, BOB), 2).problem == "challenged"
    answered = challenge(receiver, old, 3)
    assert deliver(sender, receiver, 3, packet(b"\x13\x10" + answered), to=BOB) == Verdict(True, "", True)
    assert deliver(old, receiver, 4, packet(b"\x13\x00"), to=BOB).problem == "challenged"


def test_answers_are_unicast() -> None:
    sender, receiver = speaker(seed=1), speaker(seed=2)
    answer = packet(b"\x13\x10" + challenge(receiver, sender, 0))
    assert not deliver(sender, receiver, 0, answer, to=GROUP).accepted
    assert deliver(sender, receiver, 0, answer, to=BOB).accepted
    assert deliver(sender, receiver, 0, packet(b"\x12\x04abcd"), to=GROUP).reply == ()


def test_challenges_are_answered_once_in_300_ms() -> None:
    sender, receiver = speaker(seed=1), speaker(seed=2)
    meet(sender, receiver)
    asked = packet(b"\x12\x04abcd")
    assert deliver(sender, receiver, 9.0, asked, to=BOB).reply == (Answer(ALICE, b"\x13\x04abcd"),)
    assert deliver(sender, receiver, 9.29, asked, to=BOB).reply == ()
    assert deliver(sender, receiver, 9.31, asked, to=BOB).reply != ()
    assert deliver(sender, receiver, 20, packet(b"\x12\xc1" + bytes(193)), to=BOB).reply == (), "192 octets at most"


def test_a_restarted_neighbour_is_challenged_and_its_old_life_is_over() -> None:
    sender, receiver = speaker(seed=1), speaker(seed=2)
    meet(sender, receiver)
    recorded = sender.sign(HELLO, ALICE, GROUP)
    reborn = speaker(seed=3)
    meet(reborn, receiver, 1)
    assert deliver(reborn, receiver, 1).accepted
    assert receiver.check(arrival(recorded), 2).problem == "challenged"
    assert deliver(reborn, receiver, 2).accepted, "a replay does not unseat the living"


def test_an_answer_held_back_does_not_take_the_counters_back() -> None:
    """The challenge was provoked by a replay; the honest answer is delayed while the neighbour goes on speaking."""
    old, sender, receiver = speaker(seed=9), speaker(seed=1), speaker(seed=2)
    meet(sender, receiver)
    nonce = challenge(receiver, old, 1)
    held = sender.sign(packet(b"\x13\x10" + nonce), ALICE, BOB)
    heard = [sender.sign(HELLO, ALICE, GROUP) for _ in range(3)]
    assert all(receiver.check(arrival(data), 2).accepted for data in heard)
    receiver.check(arrival(held, ALICE, BOB), 3)
    assert [receiver.check(arrival(data), 4).problem for data in heard] == ["replay"] * 3
    assert deliver(sender, receiver, 5).accepted


def test_a_forgotten_neighbour_is_challenged_again() -> None:
    sender, receiver = speaker(seed=1), speaker(seed=2)
    meet(sender, receiver)
    recorded = sender.sign(HELLO, ALICE, GROUP)
    assert receiver.check(arrival(recorded), 1).accepted
    receiver.forget(ALICE)
    receiver.forget(BOB)
    assert not receiver.known(ALICE)
    assert receiver.check(arrival(recorded), 2).problem == "challenged"
    meet(sender, receiver, 3)
    assert deliver(sender, receiver, 3).accepted


# --- counters ---------------------------------------------------------------------------------------------------------


def test_a_replay_is_refused() -> None:
    sender, receiver = speaker(seed=1), speaker(seed=2)
    meet(sender, receiver)
    for destination in (GROUP, BOB):
        data = sender.sign(HELLO, ALICE, destination)
        assert receiver.check(arrival(data, ALICE, destination), 1).accepted
        assert receiver.check(arrival(data, ALICE, destination), 1) == Verdict(False, "replay")


def test_unicast_may_overtake_multicast_by_far() -> None:
    """RFC 9467 section 3.1: a station asleep gets its multicast late."""
    sender, receiver = speaker(seed=1), speaker(seed=2)
    meet(sender, receiver)
    late = sender.sign(HELLO, ALICE, GROUP)
    for _ in range(3 * auth.WINDOW):
        assert deliver(sender, receiver, 1, to=BOB).accepted
    assert receiver.check(arrival(late), 1).accepted
    assert not receiver.check(arrival(late), 1).accepted


def test_one_counter_for_all_that_is_sent() -> None:
    """A receiver of RFC 8967 alone keeps one for both kinds."""
    sender = speaker()
    signed = [sender.sign(HELLO, ALICE, destination) for destination in (GROUP, BOB, GROUP)]
    assert [int.from_bytes(data[14:18], "big") for data in signed] == [1, 2, 3]


@given(st.lists(st.integers(0, 400) | st.integers(180, 230), max_size=120))
@example([1, 64, 65, 1, 2])
@example([300, 236, 237, 299, 300])
def test_counters_against_a_plain_memory(counters: list[int]) -> None:
    """Whatever the order: what is new and not too old is taken once, everything else never."""
    kept, taken, highest = auth._Counters(100), set[int](), 100
    for counter in counters:
        fresh = counter > 100 and counter not in taken and counter > highest - auth.WINDOW
        assert kept.take(counter) == fresh
        if fresh:
            taken.add(counter)
            highest = max(highest, counter)


def test_a_counter_at_its_end() -> None:
    sender, receiver = speaker(seed=1), speaker(seed=2)
    meet(sender, receiver)
    sender._counter = auth.MAX_COUNTER - 1
    assert deliver(sender, receiver, 1).accepted, "a jump over almost all counters costs nothing"
    assert deliver(sender, receiver, 2).problem == "challenged", "a new index"
    assert len(sender.sign(HELLO, ALICE, GROUP)) - len(HELLO) == sender.overhead
    meet(sender, receiver, 3)
    assert deliver(sender, receiver, 3).accepted


def signed_body(body: bytes, destination: bytes = GROUP, key: Key = HMAC) -> Arrival:
    """A packet by one who has the key and no manners."""
    data = packet(body)
    mac = naive_hmac(key.secret, ALICE + b"\x1a\x28" + destination + b"\x1a\x28" + data)
    return arrival(data + b"\x10\x20" + mac, ALICE, destination)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "no-counter"),
        (b"\x11", "no-counter"),
        (b"\x11\x03\0\0\1", "no-counter"),
        (b"\x11\x0c\0\0\0\1", "no-counter"),
        (b"\x11\x25" + bytes(37), "no-counter"),
        (b"\x11\x03\0\0\1\x11\x04\0\0\0\1", "no-counter"),
        (b"\0" * 30 + b"\x11\x04\0\0\0\1", "challenged"),
        (b"\x11\x24" + bytes(36), "challenged"),
        (b"\x01\x02\x11\x04\x11\x04\0\0\0\1", "challenged"),
    ],
)
def test_counters_that_are_none(body: bytes, problem: str) -> None:
    assert speaker().check(signed_body(body), 0).problem == problem


def test_of_several_counters_the_first_counts() -> None:
    receiver = speaker()
    verdict = receiver.check(signed_body(b"\x11\x05\0\0\0\5A"), 0)
    nonce = tlvs(verdict.reply[0].body)[0][1]
    two = b"\x11\x05\0\0\0\6A\x11\x05\0\0\0\x7fB\x13\x10" + nonce
    assert receiver.check(signed_body(two, BOB), 0).accepted
    assert receiver.check(signed_body(b"\x11\x05\0\0\0\7A\x11\x05\0\0\0\1A"), 0).accepted
    assert receiver.check(signed_body(b"\x11\x05\0\0\0\7A\x11\x05\0\0\0\x09A"), 0).problem == "replay"


def test_an_empty_index_is_one() -> None:
    receiver = speaker()
    verdict = receiver.check(signed_body(b"\x11\x04\0\0\0\5"), 0)
    answer = b"\x11\x04\0\0\0\6\x13\x10" + tlvs(verdict.reply[0].body)[0][1]
    assert receiver.check(signed_body(answer, BOB), 0).accepted
    assert receiver.check(signed_body(b"\x11\x04\0\0\0\7"), 0).accepted


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mine", "theirs"), [((HMAC, BLAKE), (BLAKE,)), ((BLAKE,), (HMAC, BLAKE))])
def test_one_common_key_is_enough(mine: tuple[Key, ...], theirs: tuple[Key, ...]) -> None:
    sender, receiver = speaker(*mine, seed=1), speaker(*theirs, seed=2)
    meet(sender, receiver)
    assert deliver(sender, receiver, 1).accepted
    assert deliver(receiver, sender, 1, source=BOB).accepted


def test_the_same_secret_in_another_algorithm_is_another_key() -> None:
    assert (
        deliver(speaker(Key("k", "blake2s128", b"x")), speaker(Key("k", "hmac-sha256", b"x")), 0).problem == "bad-mac"
    )


def test_keys_change_and_nobody_notices() -> None:
    """Add the new key everywhere, then take the old one away: not a packet is lost on the way, nor challenged."""
    one, other = speaker(HMAC, seed=1), speaker(HMAC, seed=2)
    meet(one, other)
    steps = [(one, (HMAC, BLAKE)), (other, (HMAC, BLAKE)), (one, (BLAKE,)), (other, (BLAKE,))]
    for now, (who, keys) in enumerate(steps):
        who.change_keys(keys)
        assert deliver(one, other, now) == Verdict(True, "", True)
        assert deliver(other, one, now, source=BOB) == Verdict(True, "", True)
    assert deliver(speaker(HMAC), other, 9).problem == "bad-mac"


def test_a_key_that_comes_back_does_not_bring_replays_back() -> None:
    sender, receiver = speaker(HMAC, seed=1), speaker(HMAC, seed=2)
    meet(sender, receiver)
    recorded = sender.sign(HELLO, ALICE, GROUP)
    assert receiver.check(arrival(recorded), 1).accepted
    receiver.change_keys((BLAKE,))
    assert receiver.check(arrival(recorded), 2).problem == "bad-mac"
    receiver.change_keys((HMAC,))
    assert receiver.check(arrival(recorded), 3).problem == "replay"


def test_bad_keys_change_nothing() -> None:
    receiver = speaker(HMAC)
    with pytest.raises(ValueError, match="octets"):
        receiver.change_keys((BLAKE, Key("k", "hmac-sha256", b"")), True)
    assert receiver.keys == (HMAC,)
    assert not receiver.accept_all


def test_accepting_all_still_tells_and_still_challenges() -> None:
    """The way to bring keys into a running network: sign, believe everybody, and be ready for the day when not."""
    sender, receiver = speaker(seed=1), speaker(seed=2, accept_all=True)
    assert receiver.check(arrival(HELLO), 0) == Verdict(True, "no-mac", False)
    assert deliver(speaker(BLAKE), receiver, 0) == Verdict(True, "bad-mac", False)
    assert not receiver._strangers, "the unsigned leave no trace here either"
    first = deliver(sender, receiver, 0)
    assert (first.accepted, first.authenticated, first.problem) == (True, False, "challenged")
    meet(sender, receiver, 1)
    assert deliver(sender, receiver, 1) == Verdict(True, "", True)
    receiver.change_keys((HMAC,), False)
    assert deliver(sender, receiver, 2) == Verdict(True, "", True), "strict from one packet to the next"
    assert receiver.check(arrival(HELLO), 2) == Verdict(False, "no-mac")


# --- floods -----------------------------------------------------------------------------------------------------------


def addresses(count: int) -> list[bytes]:
    return [b"\xfe\x80" + bytes(10) + number.to_bytes(4, "big") for number in range(0x10000, 0x10000 + count)]


def test_strangers_without_a_key_leave_no_trace() -> None:
    receiver, forger = speaker(seed=2), speaker(BLAKE)
    for address in addresses(500):
        assert deliver(forger, receiver, 0, source=address) == Verdict(False, "bad-mac")
        receiver.check(arrival(HELLO, address), 0)
    assert not receiver._strangers
    assert not receiver._peers


def test_recorded_packets_of_many_make_room_for_each_other() -> None:
    receiver, sender = speaker(seed=2), speaker(seed=1)
    meet(sender, receiver)
    for address in addresses(auth.MAX_STRANGERS + 100):
        deliver(speaker(seed=3), receiver, 0, source=address)
    assert len(receiver._strangers) == auth.MAX_STRANGERS
    assert deliver(sender, receiver, 1).accepted
    newcomer = speaker(seed=4)
    meet(newcomer, receiver, 2, address=BOB, there=ALICE)
    assert deliver(newcomer, receiver, 3, source=BOB).accepted


def test_neighbours_make_room_only_when_they_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_PEERS", 3)
    receiver = speaker(seed=2)
    crowd = {address: speaker(seed=index + 10) for index, address in enumerate(addresses(4))}
    *first, last = crowd
    for address in first:
        meet(crowd[address], receiver, 0, address=address)
    meet(crowd[last], receiver, 1, address=last)
    assert not receiver.known(last)
    for address in first:
        assert deliver(crowd[address], receiver, 2, source=address).accepted
    meet(crowd[last], receiver, auth.PEER_IDLE_S + 1, address=last)
    assert not receiver.known(last), "nobody was silent for so long"
    assert deliver(crowd[first[0]], receiver, 3, source=first[0]).accepted
    then = auth.PEER_IDLE_S + 3
    meet(crowd[last], receiver, then, address=last)
    assert [receiver.known(address) for address in crowd] == [True, False, True, True], "the longest silent one went"


# --- octets from anywhere ---------------------------------------------------------------------------------------------


@given(st.data())
def test_nothing_raises_and_nothing_changed_is_believed(data: st.DataObject) -> None:
    sender, receiver = speaker(HMAC, BLAKE, seed=1), speaker(HMAC, BLAKE, seed=2)
    meet(sender, receiver)
    whole = sender.sign(HELLO, ALICE, GROUP)
    end = 4 + int.from_bytes(whole[2:4], "big")
    octets = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(octets[: data.draw(st.integers(0, len(octets)))]) + data.draw(st.binary(max_size=20))
    verdict = receiver.check(arrival(damaged), 1)
    assert verdict.accepted == (not verdict.problem)
    if verdict.accepted:
        assert damaged[:end] == whole[:end]
    if damaged == whole:
        assert verdict.accepted


@given(st.binary(max_size=120), st.booleans())
def test_nothing_that_a_key_holder_writes_raises(body: bytes, unicast: bool) -> None:
    receiver = speaker()
    for _ in range(2):
        verdict = receiver.check(signed_body(body, BOB if unicast else GROUP), 0)
        assert not verdict.accepted
        assert all(len(answer.body) <= 220 for answer in verdict.reply)


@given(st.binary(max_size=60), st.integers(-1, 0x1FFFF), st.binary(max_size=20))
def test_nothing_from_a_stranger_raises(data: bytes, port: int, source: bytes) -> None:
    assert not speaker().check(arrival(data, source, b"", port), 0).accepted
