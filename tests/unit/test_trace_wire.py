"""Questions and answers of a trace as octets: what is said is read again, and what is not said cannot hurt."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import ROOT
from via6.babel.model import Key
from via6.observe.trace.model import DAEMON, DISPOSITIONS, Flow, Hop
from via6.observe.trace.wire import LONGEST, MAX_INDEX, Answer, Ends, Question, body_end, decode, encode, sign, signed
from via6.prefix import parse_address

NONCE = b"12345678"
FLOW = Flow(parse_address("10.0.3.10"), parse_address("10.0.1.1"), 17, 4660, 22136)
HERE, THERE = parse_address("fe80::1"), parse_address("fe80::2")
ENDS = Ends(HERE, 40000, THERE, 8046)

four, sixteen = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)
nonces = st.binary(min_size=8, max_size=8)
words = st.text(st.characters(categories=("L", "N", "P", "Zs"), include_characters=" "), max_size=16).filter(
    lambda text: text.isprintable()
)
indices = st.integers(0, MAX_INDEX)
octets = st.integers(0, 255)
ports = st.integers(0, 65535)
flows = st.builds(Flow, four, four, octets, ports, ports)
hops = st.builds(
    Hop, node=words, in_device=words, route=words, next_hop=st.none() | four | sixteen, out_device=words,
    mtu=st.integers(0, 2**32 - 1), ends=st.sampled_from(("", *DISPOSITIONS)), why=words,
    seen=st.just(frozenset({DAEMON})),
)  # fmt: skip
questions = st.builds(Question, nonces, flows, indices, st.booleans(), st.booleans())
answers = st.builds(Answer, nonces, hops, indices, st.booleans(), st.booleans(), st.booleans())
secrets = {"hmac-sha256": 64, "blake2s128": 32}
keys = st.sampled_from(sorted(secrets)).flatmap(
    lambda name: st.builds(Key, st.just("k"), st.just(name), st.binary(min_size=1, max_size=secrets[name]))
)


@given(questions | answers)
def test_what_is_said_is_read(said: Question | Answer) -> None:
    data = encode(said)
    assert len(data) <= LONGEST
    assert decode(data) == (said, "")
    assert decode(data + b"\x10\x02ab") == (said, ""), "MACs are none of the decoder's"


def test_the_octets_are_those_of_the_document() -> None:
    question = Question(NONCE, FLOW, 3, want_back=True)
    head = bytes.fromhex("7636 01 01 0010 0000") + NONCE
    assert encode(question) == head + bytes.fromhex("02 03 11 00 1234 5678 0a000101 0a00030a")
    hop = Hop("r1", "eth1", "10.0.0.0/8 dev x", THERE, "x", mtu=1500, ends="ACCEPTED", why="so")
    answer = Answer(NONCE, hop, 4, back=True, leg_back=False, end=True)
    body = bytes.fromhex("05 04 01 00 000005dc 10") + THERE + b"\2r1\4eth1\1x\x10" + b"10.0.0.0/8 dev x" + b"\2so"
    assert encode(answer) == b"v6\1\2" + len(body).to_bytes(2, "big") + b"\0\0" + NONCE + body


def test_the_numbers_of_dispositions_are_those_of_the_document() -> None:
    text = (ROOT / "docs/trace-protocol.md").read_text()
    told = re.findall(r"(\d) +([A-Z_]+)", " ".join(text.partition("- Disposition: ")[2].split())[:300])
    assert told == [(str(number), word) for number, word in enumerate(DISPOSITIONS, 1)]


@given(st.binary(max_size=1400) | (questions | answers).map(encode), st.data())
def test_garbage_is_answered(data: bytes, draw: st.DataObject) -> None:
    """Octets at random, and good datagrams with octets changed and ends cut off."""
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 3))):
        if changed:
            changed[draw.draw(st.integers(0, len(changed) - 1))] = draw.draw(octets)
    data = bytes(changed[: draw.draw(st.integers(0, len(changed)))])
    said, problem = decode(data)
    assert (said is None) == bool(problem)
    signed(data, ENDS, [Key("k", "hmac-sha256", b"x")])
    if isinstance(said, Answer):
        assert said.hop.ends in ("", *DISPOSITIONS)
        assert all(text.isprintable() for text in (said.hop.node, said.hop.route, said.hop.why, said.hop.in_device))
        assert len(encode(said)) <= LONGEST, "it can be passed on"


def test_texts_are_cut_and_cleaned() -> None:
    hop = Hop("n" * 100, "d" * 100, "ü" * 200, THERE, "\x1b[2Jeth1", why="\x9b31m\n\u202eevil")
    data = encode(Answer(NONCE, hop))
    answer, _ = decode(data)
    assert isinstance(answer, Answer)
    assert len(answer.hop.node.encode()) == 64
    assert answer.hop.node.endswith("n…")
    assert len(answer.hop.route.encode()) <= 255
    assert answer.hop.route.endswith("ü…")
    assert "\x1b" not in answer.hop.out_device
    assert answer.hop.why == "�31m��evil"


def test_the_largest_answer_with_all_macs_fits() -> None:
    wide = Hop("n" * 64, "i" * 64, "r" * 999, THERE, "o" * 64, mtu=2**32 - 1, ends="UNKNOWN", why="w" * 999)
    data = sign(encode(Answer(NONCE, wide, 63)), ENDS, [Key(str(n), "hmac-sha256", bytes([n])) for n in range(1, 9)])
    assert len(data) <= LONGEST
    assert body_end(data) == len(data) - 8 * 34


@pytest.mark.parametrize(
    "data",
    [
        b"", b"v6", encode(Question(NONCE, FLOW))[:-1], encode(Question(NONCE, FLOW, 64)),
        b"v6\2" + encode(Question(NONCE, FLOW))[3:], b"*\2" + encode(Question(NONCE, FLOW))[2:],
        b"v6\1\3" + encode(Question(NONCE, FLOW))[4:], encode(Answer(NONCE, Hop(), 64)),
        encode(Question(NONCE, FLOW)) + bytes(LONGEST),
    ],
)  # fmt: skip
def test_what_is_not_read(data: bytes) -> None:
    assert decode(data)[0] is None


def test_an_unknown_disposition_is_unknown() -> None:
    data = bytearray(encode(Answer(NONCE, Hop(ends="ACCEPTED"))))
    data[18] = 99
    answer, _ = decode(bytes(data))
    assert isinstance(answer, Answer)
    assert answer.hop.ends == "UNKNOWN"


# --- MACs ----------------------------------------------------------------------------------------------------------


@given(questions | answers, keys, keys)
def test_macs(said: Question | Answer, one: Key, other: Key) -> None:
    data = encode(said)
    both = sign(data, ENDS, [one, other])
    assert signed(both, ENDS, [one])
    assert signed(both, ENDS, [other])
    assert decode(both) == (said, "")
    assert not signed(data, ENDS, [one])
    assert not signed(both, ENDS, [Key("k", "hmac-sha256", b"neither of these")])
    for ends in (
        Ends(THERE, 40000, THERE, 8046), Ends(HERE, 40001, THERE, 8046), Ends(HERE, 40000, HERE, 8046),
        Ends(HERE, 40000, THERE, 8047),
    ):  # fmt: skip
        assert not signed(both, ends, [one, other]), "a datagram of somebody else, or to somebody else"


@given(questions | answers, st.data())
def test_each_octet_is_under_the_mac(said: Question | Answer, draw: st.DataObject) -> None:
    key = Key("k", "blake2s128", b"secret")
    data = bytearray(sign(encode(said), ENDS, [key]))
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] ^= draw.draw(st.integers(1, 255))
    assert not signed(bytes(data), ENDS, [key])
