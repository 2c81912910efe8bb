"""Probes, daemons and the own table as one trace: who is believed, and what is said where they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from via6.cli.trace import is_good
from via6.observe.trace.merge import merge
from via6.observe.trace.model import DAEMON, DISPOSITIONS, PROBE, TABLE, TCP, UDP, Flow, Hop, Trace
from via6.observe.trace.probe import DUMMY, Answer, Extensions, Interface
from via6.observe.trace.report import MEANINGS, as_json, lines
from via6.prefix import parse_address

HERE = parse_address("10.0.1.1")
THERE = parse_address("10.0.3.10")
FLOW = Flow(THERE, HERE)


def via(number: int) -> bytes:
    return parse_address(f"fe80::{number:x}")


def daemons(*names: str, ends: str = "ACCEPTED", why: str = "") -> list[Hop]:
    """A chain of nodes that all run via6; eth1 leads back, eth2 on."""
    hops = []
    for at, name in enumerate(names):
        last = at == len(names) - 1
        on = not last or ends in ("UNKNOWN", "EXITS_NETWORK")
        hop = Hop(name, "eth1" if at else "", f"10.0.3.0/24 via {name}", seen=frozenset({DAEMON}))
        hop = replace(hop, next_hop=via(at + 1), out_device="eth2") if on else hop
        hops.append(replace(hop, ends=ends, why=why) if last else hop)
    return hops


def home(*names: str, ends: str = "ACCEPTED") -> list[Hop]:
    """The way back, over the same links."""
    return [replace(hop, in_device="eth2" if at else "", out_device="eth1" if hop.out_device else "")
            for at, hop in enumerate(daemons(*names, ends=ends))]  # fmt: skip


FIRST = Hop("r1", "", "10.0.3.0/24 via inet6 fe80::1 dev eth2", via(1), "eth2", seen=frozenset({TABLE}))


def answers(count: int, end: str = "reached", **more: object) -> list[Answer]:
    """Routers up to `count`, which is the destination if `end` is `reached`; eight silent ones if it is `silent`."""
    found = [Answer(ttl, "hop", DUMMY, 1.0 * ttl, 11) for ttl in range(1, count + (end != "reached"))]
    far = Answer(64)
    if end == "reached":
        found.append(Answer(count, "reached", THERE, 9.0, ttl_back=64 - count + 1))
        far = replace(found[-1], ttl=64)
    elif end == "silent":
        found += [Answer(ttl) for ttl in range(count + 1, count + 9)]
    elif end == "round":
        far = Answer(64, "hop", DUMMY, 9.0, 11)
    else:
        found.append(Answer(count + 1, "unreachable", DUMMY, 2.0, 3, int(end)))
        far = replace(found[-1], ttl=64)
    return [*found, far]


def made(
    first: Hop = FIRST, probes: Sequence[Answer] = (), there: Sequence[Hop] = (), back: Sequence[Hop] = ()
) -> Trace:
    """Merged, and shown both ways: every trace can be."""
    trace = merge(FLOW, first, probes, there, back)
    assert trace.disposition in DISPOSITIONS
    text = "\n".join(lines(trace))
    assert text.endswith(trace.disposition)
    assert json.loads(json.dumps(as_json(trace)))["disposition"] == trace.disposition
    ends = [hop.ends for hop in trace.hops if hop.ends]
    assert ends in ([], [trace.disposition])
    return trace


def test_every_disposition_has_its_words() -> None:
    assert tuple(MEANINGS) == DISPOSITIONS


def test_all_witnesses_agree() -> None:
    trace = made(probes=answers(3), there=daemons("r1", "r2", "r3", "h"), back=home("h", "r3", "r2", "r1"))
    assert [hop.node for hop in trace.hops] == ["r1", "r2", "r3", "h"]
    assert [hop.icmp_source for hop in trace.hops] == [None, DUMMY, DUMMY, THERE]
    assert trace.hops[1].rtt_ms == 1.0
    assert trace.hops[0].seen == {TABLE, DAEMON}
    assert trace.hops[1].seen == {DAEMON, PROBE}
    assert trace.hops[0].route == FIRST.route
    assert trace.back is not None
    assert (trace.disposition, trace.back.disposition, trace.asymmetric, trace.remarks) == (
        "ACCEPTED", "ACCEPTED", False, (),
    )  # fmt: skip
    assert is_good(trace, True)


def test_nobody_runs_via6() -> None:
    trace = made(probes=answers(4))
    assert [hop.node for hop in trace.hops] == ["r1", "", "", "", ""]
    assert "fe80::1 dev eth2 of r1, no via6 answers there" in trace.hops[1].notes[0]
    assert trace.hops[2].notes == ()
    assert trace.back is not None
    assert (trace.back.disposition, trace.back.hops) == ("ACCEPTED", ())
    assert "lets expect 4 hops, 4 there" in trace.back.remarks[0]
    assert is_good(trace, True)


def test_the_chain_of_daemons_ends_at_a_stranger_and_probes_go_on() -> None:
    chain = daemons("r1", "r2", ends="UNKNOWN", why="no via6 at fe80::2 dev eth2")
    trace = made(probes=answers(4), there=chain)
    assert [hop.node for hop in trace.hops] == ["r1", "r2", "", "", ""]
    assert "fe80::2 dev eth2 of r2" in trace.hops[2].notes[0]
    assert trace.disposition == "ACCEPTED"
    lost = made(probes=answers(1, "silent"), there=chain)
    assert (lost.disposition, lost.hops[1].why) == (
        "UNKNOWN", "nothing answers behind r2; no via6 at fe80::2 dev eth2"
    )  # fmt: skip
    assert len(lost.hops) == 3
    assert not is_good(lost, True)


def test_extensions_name_a_hop() -> None:
    probes = answers(2)
    told = Extensions((Interface(0, 3, None, "ge-0/0/1", 9000), Interface(2, 7, mtu=1400), Interface(3, 0, via(8))),
                      "core1", via(9))  # fmt: skip
    probes[0] = replace(probes[0], extensions=told)
    hop = made(probes=probes).hops[1]
    assert (hop.node, hop.in_device, hop.out_device, hop.mtu) == ("core1", "ge-0/0/1", "if7", 1400)
    assert hop.next_hop == via(8)
    assert "its address is fe80::9" in hop.notes
    known = made(probes=probes, there=daemons("r1", "r2", "h")).hops[1]
    assert (known.node, known.in_device) == ("r2", "eth1")
    assert "it calls itself core1 in ICMP" in known.notes


@pytest.mark.parametrize(
    ("ends", "code"), [("NO_ROUTE", 0), ("NULL_ROUTED", 13), ("NEIGHBOR_UNREACHABLE", 1), ("NULL_ROUTED", 9)]
)
def test_a_router_refuses(ends: str, code: int) -> None:
    alone = made(probes=answers(1, str(code)))
    assert (alone.disposition, alone.hops[2].ends, len(alone.hops)) == (ends, ends, 3)
    assert "says 192.0.0.8" in alone.hops[2].why
    both = made(probes=answers(1, str(code)), there=daemons("r1", "r2", "r3", ends="NULL_ROUTED", why="a blackhole"))
    assert (both.disposition, both.hops[2].node) == ("NULL_ROUTED", "r3")
    assert both.hops[2].why.startswith("a blackhole; ")
    assert not is_good(both, True)


def test_a_packet_filter_that_rejects() -> None:
    trace = made(probes=answers(1, "13"), there=daemons("r1", "r2", "r3", "h"), back=home("h", "r3", "r2", "r1"))
    assert trace.disposition == "NULL_ROUTED"
    assert trace.hops[2].why.startswith("administratively prohibited")


def test_which_router_a_packet_filter_is_at() -> None:
    """It looks behind the hop limit: the probe for r3 is refused by r2."""
    probes = answers(1, "13")
    probes = [replace(one, ttl_back=64) for one in probes]
    trace = made(probes=probes, there=daemons("r1", "r2", "r3", "h"), back=home("h", "r3", "r2", "r1"))
    assert [hop.node for hop in trace.hops if hop.ends] == ["r2"]
    assert trace.hops[2].icmp_source is None
    probes[1:] = [replace(one, ttl_back=63) for one in probes[1:]]
    trace = made(probes=probes, there=daemons("r1", "r2", "r3", "h"), back=home("h", "r3", "r2", "r1"))
    assert [hop.node for hop in trace.hops if hop.ends] == ["r3"]
    named = [replace(one, source=via(1)[:4], ttl_back=0) for one in probes]
    trace = made(probes=named)
    assert ([hop.ends for hop in trace.hops], len(trace.hops)) == (["", "NULL_ROUTED"], 2)


def test_daemons_know_a_black_hole() -> None:
    chain = daemons("r1", "r2", "r3", ends="NULL_ROUTED", why="blackhole 10.0.3.0/24")
    trace = made(probes=answers(1, "silent"), there=chain)
    assert (trace.disposition, trace.hops[-1].why, trace.hops[-1].node) == (
        "NULL_ROUTED",
        "blackhole 10.0.3.0/24",
        "r3",
    )


def test_a_packet_filter_that_drops() -> None:
    trace = made(probes=answers(1, "silent"), there=daemons("r1", "r2", "r3", "h"), back=home("h", "r3", "r2", "r1"))
    assert trace.disposition == "UNKNOWN"
    assert trace.hops[1].ends == "UNKNOWN"
    assert any("a packet filter at r2 or at r3?" in remark for remark in trace.remarks)
    assert not is_good(trace, True)


def test_no_way_back() -> None:
    back = daemons("h", "r3", ends="NO_ROUTE", why="no route to 10.0.1.1")
    trace = made(probes=answers(1, "silent"), there=daemons("r1", "r2", "r3", "h"), back=back)
    assert trace.disposition == "ACCEPTED"
    assert trace.back is not None
    assert (trace.back.disposition, trace.back.hops[-1].node) == ("NO_ROUTE", "r3")
    assert any("does not come back" in remark for remark in trace.remarks)
    assert not is_good(trace, True)


def test_a_way_back_that_nobody_knows_is_not_called_lost() -> None:
    back = home("h", "r3", ends="UNKNOWN")
    trace = made(probes=answers(1, "silent"), there=daemons("r1", "r2", "r3", "h"), back=back)
    assert (trace.disposition, trace.hops[1].ends) == ("UNKNOWN", "UNKNOWN")
    assert any("a packet filter at r2 or at r3, or something on the way back" in remark for remark in trace.remarks)


def test_a_host_without_via6_on_the_last_link() -> None:
    there = daemons("r1", "r2", ends="DELIVERED_TO_SUBNET")
    there[-1] = replace(there[-1], out_device="lan")
    back = home("r2", "r1")
    trace = made(probes=answers(2), there=there, back=back)
    assert [hop.node for hop in trace.hops] == ["r1", "r2", ""]
    assert trace.disposition == "ACCEPTED"
    assert not trace.asymmetric
    silent = made(probes=answers(1, "silent"), there=there, back=back)
    assert silent.disposition == "DELIVERED_TO_SUBNET"
    assert any("does not answer" in remark for remark in silent.remarks)
    assert not is_good(silent, True)
    assert is_good(made(there=there, back=back), False)


def test_the_other_way_back_is_marked() -> None:
    trace = made(probes=answers(2), there=daemons("r1", "r2", "h"), back=home("h", "r3", "r1"))
    assert trace.asymmetric
    assert "the ways differ: r2 only there, r3 only back" in trace.remarks
    partly = made(probes=answers(2), there=daemons("r1", "r2", "h"), back=home("h", "r3", ends="UNKNOWN"))
    assert partly.asymmetric
    unknown = made(probes=answers(3), there=daemons("r1", ends="UNKNOWN"), back=home("h", ends="UNKNOWN"))
    assert not unknown.asymmetric
    back = [replace(h, in_device="eth9") if h.node == "r2" else h for h in home("h", "r2", "r1")]
    links = made(probes=answers(2), there=daemons("r1", "r2", "h"), back=back)
    assert not links.asymmetric
    assert any("another link at r2" in remark for remark in links.remarks)


def test_a_packet_that_passes_this_node_is_not_asymmetric_for_where_it_came_from() -> None:
    trace = made(replace(FIRST, in_device="eth1"), there=daemons("r1", "r2", "h"), back=home("h", "r2", "r1", "r0"))
    assert not trace.asymmetric
    trace = made(replace(FIRST, in_device="eth1"), there=daemons("r1", "r2", "h"), back=home("h", "r3", "r1", "r0"))
    assert trace.asymmetric


def test_loops() -> None:
    alone = made(probes=answers(30, "round"))
    assert alone.disposition == "LOOP"
    told = made(probes=answers(30, "round"), there=daemons("r1", "r2", "r3", "r2", ends="LOOP", why="r2 came before"))
    assert (told.disposition, len(told.hops)) == ("LOOP", 4)


def test_a_router_that_answers_again_and_again() -> None:
    """Its neighbour in the loop is silent, so the probe that was to arrive has no answer either."""
    one = parse_address("10.9.1.1")
    probes = [Answer(1, "hop", parse_address("10.9.2.1"), 1.0, 11)]
    probes += [Answer(ttl, "hop", one, 1.0, 11) if ttl % 2 == 0 else Answer(ttl) for ttl in range(2, 31)]
    trace = made(probes=[*probes, Answer(64)])
    assert (trace.disposition, len(trace.hops), trace.hops[4].why) == (
        "LOOP", 5, "it is hop 2 again: the packet goes round",
    )  # fmt: skip
    behind_nat = [Answer(ttl, "hop", one, 1.0, 11) for ttl in range(1, 6)] + [Answer(ttl) for ttl in range(6, 14)]
    assert made(probes=[*behind_nat, Answer(64)]).disposition == "UNKNOWN"


def test_the_probes_are_right() -> None:
    trace = made(probes=answers(3), there=daemons("r1", "r2", ends="NO_ROUTE", why="no route"))
    assert trace.disposition == "ACCEPTED"
    assert any(note.startswith("contradicted") for note in trace.hops[1].notes)
    assert any("r2 says NO_ROUTE (no route), yet" in remark for remark in trace.remarks)
    back = daemons("h", "r2", ends="NO_ROUTE")
    trace = made(probes=answers(2), there=daemons("r1", "r2", "h"), back=back)
    assert trace.back is not None
    assert trace.back.disposition == "ACCEPTED"
    assert any("yet an answer came back" in remark for remark in trace.back.remarks)


def test_this_node_discards_it() -> None:
    first = Hop("r1", route="blackhole 10.0.3.0/24", ends="NULL_ROUTED", why="a black hole", seen=frozenset({TABLE}))
    trace = made(first, [*(Answer(ttl, refused="Invalid argument") for ttl in range(1, 9)), Answer(64)])
    assert (trace.disposition, trace.hops[0].why) == ("NULL_ROUTED", "a black hole")
    assert len(trace.hops) == 1


def test_this_node_does_not_send() -> None:
    trace = made(probes=[*(Answer(ttl, refused="Operation not permitted") for ttl in range(1, 9)),
                         Answer(64, refused="Operation not permitted")])  # fmt: skip
    assert (trace.disposition, len(trace.hops)) == ("NULL_ROUTED", 1)
    assert "packet filter on output" in trace.hops[0].why
    own = [Answer(1, "unreachable", HERE, 3000.0, 3, 1), Answer(64, "unreachable", HERE, 3000.0, 3, 1)]
    trace = made(probes=own)
    assert (trace.disposition, len(trace.hops)) == ("NEIGHBOR_UNREACHABLE", 1)


def test_an_open_udp_port_is_silent() -> None:
    flow = replace(FLOW, proto=UDP, sport=4000, dport=53)
    there, back = daemons("r1", "r2", "h"), home("h", "r2", "r1")
    trace = merge(flow, FIRST, answers(1, "silent"), there, back)
    assert (trace.disposition, trace.hops[2].ends, is_good(trace, True)) == ("UNKNOWN", "UNKNOWN", False)
    assert trace.hops[2].why == "no answer: an open UDP port gives none, nor does a packet filter at r2 or h"
    assert merge(flow, FIRST, answers(0, "silent"), there, back).disposition == "UNKNOWN"


def test_silent_routers_in_the_middle() -> None:
    probes = answers(4)
    probes[1] = Answer(2)
    trace = made(probes=probes)
    assert trace.disposition == "ACCEPTED"
    assert "no answer to the probes: lost, filtered, or rationed" in trace.hops[2].notes


def test_a_destination_that_rations_its_answers() -> None:
    probes = answers(6)
    probes[2:5] = [Answer(3), Answer(4), Answer(5)]
    trace = made(probes=probes, there=daemons("r1", "r2", "r3", "h"))
    assert (trace.disposition, [hop.node for hop in trace.hops]) == ("ACCEPTED", ["r1", "r2", "r3", "h"])
    assert trace.hops[3].icmp_source == THERE
    assert len(made(probes=probes).hops) == 7


def test_only_the_far_probe_arrives() -> None:
    """Routers that send no ICMP errors at all."""
    trace = made(probes=[*(Answer(ttl) for ttl in range(1, 31)), Answer(64, "reached", THERE, 3.0)])
    assert trace.disposition == "ACCEPTED"
    assert any("which hops lie behind r1 is not known" in remark for remark in trace.remarks)
    assert [(hop.icmp_source, hop.rtt_ms) for hop in trace.hops] == [(None, None), (THERE, 3.0)]


def test_the_destination_has_a_hop_of_its_own() -> None:
    """The probes with small hop limits end before it: none of the routers that answered them is the destination."""
    probes = [*answers(2, "silent")[:2], Answer(64, "reached", THERE, 3.0)]
    trace = made(probes=probes)
    assert [(hop.icmp_source, hop.ends) for hop in trace.hops[1:]] == [(DUMMY, ""), (DUMMY, ""), (THERE, "ACCEPTED")]
    there = daemons("r1", "r2", "r3", "r4", "h")
    trace = made(probes=probes, there=there)
    assert [hop.node for hop in trace.hops] == ["r1", "r2", "r3", "r4", "h"]
    assert (trace.hops[4].icmp_source, trace.hops[4].ends, trace.remarks) == (THERE, "ACCEPTED", ())
    there = daemons("r1", "r2", "r3", ends="DELIVERED_TO_SUBNET")
    trace = made(probes=probes, there=there)
    assert [(hop.node, hop.ends) for hop in trace.hops] == [("r1", ""), ("r2", ""), ("r3", ""), ("", "ACCEPTED")]
    assert trace.remarks == ()


def test_a_refusal_of_the_far_probe_alone() -> None:
    """Errors of a router without a route are rationed, too, so that to a nearer probe may be missing."""
    for back, hops in ((64, ["", "NO_ROUTE"]), (63, ["", "", "NO_ROUTE"]), (61, ["", "", "", "", "NO_ROUTE"])):
        near = Answer(1, "hop", DUMMY, 1.0, 11, ttl_back=64)
        silent = [Answer(ttl) for ttl in range(2, 6)]
        trace = made(probes=[near, *silent, Answer(64, "unreachable", DUMMY, 2.0, 3, 0, ttl_back=back)])
        assert [hop.ends for hop in trace.hops] == hops
        assert trace.hops[-1].icmp_source == DUMMY
    # Without TTLs, as ordinary users have it: behind the last one, but if that has an address.
    trace = made(probes=[replace(near, ttl_back=0), *silent, Answer(64, "unreachable", DUMMY, 2.0, 3, 0)])
    assert [hop.ends for hop in trace.hops] == ["", "", "NO_ROUTE"]
    one = via(1)[:4]
    trace = made(probes=[replace(near, source=one, ttl_back=0), *silent, Answer(64, "unreachable", one, 2.0, 3, 0)])
    assert [hop.ends for hop in trace.hops] == ["", "NO_ROUTE"]
    there = daemons("r1", "r2", "r3", ends="NO_ROUTE", why="no route")
    trace = made(probes=[near, *silent, Answer(64, "unreachable", DUMMY, 2.0, 3, 0)], there=there)
    assert [hop.ends for hop in trace.hops] == ["", "", "NO_ROUTE"]


def test_a_refusal_in_the_name_of_another() -> None:
    """A packet filter resets a connection as if the destination did."""
    flow = replace(FLOW, proto=TCP, sport=4000, dport=22)
    probes = [replace(one, ttl_back=64 - at, code=0x14) for at, one in enumerate(answers(3))]
    there = daemons("r1", "r2", "r3", "h")
    assert merge(flow, FIRST, probes, there, ()).remarks == ()
    probes[2:] = [replace(one, ttl_back=63) for one in probes[2:]]
    assert any(
        "a packet filter there in the name of 10.0.3.10?" in r for r in merge(flow, FIRST, probes, there, ()).remarks
    )
    # The way back is a shorter one, as daemons say, or as the link by which the answer came in shows.
    assert merge(flow, FIRST, probes, there, home("h", "r2", "r1")).remarks == ("the ways differ: r3 only there",)
    aside = [*probes[:2], *(replace(one, device="eth9") for one in probes[2:])]
    assert not any("in the name" in r for r in merge(flow, FIRST, aside, there, ()).remarks)
    probes[2:] = [replace(one, code=0x12) for one in probes[2:]]
    assert merge(flow, FIRST, probes, there, ()).remarks == (), "a connection that is taken"


def test_the_way_back_from_the_last_node_that_speaks() -> None:
    chain = daemons("r1", "r2", ends="UNKNOWN", why="no via6 runs at next hop fe80::2 on eth2")
    back = [replace(hop, in_device="eth2") for hop in home("r2", "r1")]
    trace = made(probes=answers(4), there=chain, back=back)
    assert trace.back is not None
    assert [hop.node for hop in trace.back.hops] == ["", "r2", "r1"]
    assert trace.back.hops[0].notes == ("10.0.3.10, and what lies between it and r2: not known",)
    assert trace.back.remarks == (
        "from r2 on this holds for an answer that comes in by eth2. Its TTL of 61 lets expect 4 hops, 4 there",
    )
    assert (trace.back.disposition, trace.asymmetric) == ("ACCEPTED", False)
    assert "fe80::2 dev eth2 of r2, no via6 runs there" in trace.hops[2].notes[0]
    # It is not said to arrive where nobody has seen it arrive.
    trace = made(probes=answers(2, "silent"), there=chain, back=back)
    assert trace.back is not None
    assert (trace.back.disposition, [hop.ends for hop in trace.back.hops]) == ("UNKNOWN", ["", "", ""])
    lost = [replace(back[0], ends="NULL_ROUTED", why="a blackhole")]
    trace = made(probes=answers(0, "silent"), there=chain, back=lost)
    assert trace.back is not None
    assert (trace.disposition, trace.back.disposition) == ("UNKNOWN", "NULL_ROUTED")
    assert any("an answer is lost on its way" in remark for remark in trace.remarks)
    assert not is_good(trace, True)


def by(device: str, probes: Sequence[Answer]) -> list[Answer]:
    """The answer of the destination came in there."""
    return [replace(one, device=device) if one.kind == "reached" else one for one in probes]


def test_where_the_answer_came_in() -> None:
    """It is known without any daemon, and it is right whatever daemons say."""
    alone = made(probes=by("eth2", answers(3)))
    assert alone.back is not None
    told = [(hop.node, hop.in_device, hop.ends) for hop in alone.back.hops]
    assert told == [("", "", ""), ("r1", "eth2", "ACCEPTED")]
    assert not alone.asymmetric
    alone = made(probes=by("eth3", answers(3)))
    assert (alone.asymmetric, alone.remarks[0]) == (
        True, "the answer came in by eth3, and the packet left by eth2: another way",
    )  # fmt: skip
    there, back = daemons("r1", "r2", "h"), home("h", "r2", "r1")
    trace = made(probes=by("eth2", answers(2)), there=there, back=back)
    assert (trace.asymmetric, trace.remarks, trace.back and trace.back.remarks) == (False, (), ())
    trace = made(probes=by("eth3", answers(2)), there=there, back=back)
    assert trace.back is not None
    assert trace.back.hops[-1].in_device == "eth3"
    assert trace.back.remarks == ("the answer came in by eth3, daemons say eth2: it changed, or another way is used",)


def test_a_way_back_from_the_last_node_that_speaks_is_refuted_by_the_answer() -> None:
    chain = daemons("r1", "r2", ends="UNKNOWN", why="no via6 runs at next hop fe80::2 on eth2")
    back = [replace(hop, in_device="eth2") for hop in home("r2", "r1")]
    for presumed in (back, [replace(back[0], ends="UNKNOWN")]):
        good = made(probes=by("eth2", answers(4)), there=chain, back=presumed).back
        assert good is not None
        assert [(hop.node, hop.in_device) for hop in good.hops] == [("", ""), ("r2", "eth2"), ("r1", "eth2")]
        assert good.hops[-1].ends == "ACCEPTED"
        trace = made(probes=by("eth3", answers(4)), there=chain, back=presumed)
        assert trace.back is not None
        assert [(hop.node, hop.in_device) for hop in trace.back.hops] == [("", ""), ("r1", "eth3")]
        assert trace.asymmetric
        near = [replace(one, ttl_back=63) if one.kind == "reached" else one for one in answers(4)]
        trace = made(probes=near, there=chain, back=presumed)
        assert trace.back is not None
        assert [hop.node for hop in trace.back.hops] == (["", "r2", "r1"] if len(presumed) == 2 else ["", "r2"])
        near = [replace(one, ttl_back=64) if one.kind == "reached" else one for one in answers(4)]
        trace = made(probes=near, there=chain, back=presumed)
        assert trace.back is not None
        assert (trace.back.hops, len(trace.back.remarks)) == ((), 1)
        assert "Its TTL of 64 lets expect 1 hop, 4 there" in trace.back.remarks[0]


def test_a_way_back_with_a_gap_before_this_node() -> None:
    """The far end runs via6, and a router without it is on the way back alone; or none is, by the TTL."""
    there, back = daemons("r1", "h"), home("h", ends="UNKNOWN")
    for ttl, nodes in ((63, ["h", "", "r1"]), (64, ["h", "r1"])):
        probes = [replace(one, ttl_back=ttl) for one in by("eth7", answers(1))]
        trace = made(probes=probes, there=there, back=back)
        assert trace.back is not None
        assert [hop.node for hop in trace.back.hops] == nodes
        assert (trace.back.hops[-1].in_device, trace.back.hops[-1].ends) == ("eth7", "ACCEPTED")
        assert trace.asymmetric == (ttl == 63)


def test_hops_behind_the_end_are_told_as_such() -> None:
    trace = made(probes=answers(1, "13"), there=daemons("r1", "r2", "r3", "r4", "h"))
    assert [hop.ends for hop in trace.hops] == ["", "", "NULL_ROUTED", "", ""]
    assert all("does not come here" in hop.notes[-1] for hop in trace.hops[3:])


def test_a_link_that_carries_less() -> None:
    there = [replace(hop, mtu=mtu) for hop, mtu in zip(daemons("r1", "r2", "h"), (1500, 1280, 0), strict=True)]
    trace = made(replace(FIRST, mtu=1500), answers(2), there)
    assert trace.remarks == ("the MTU on the way there falls from 1500 to 1280 at r2 eth2",)


def test_a_router_without_an_address_has_a_number() -> None:
    trace = made(probes=answers(2, "silent"))
    assert trace.hops[2].why == "nothing answers behind hop 2"
    probes = [replace(one, source=via(1)[:4]) if one.source else one for one in answers(2, "silent")]
    assert made(probes=probes).hops[2].why == "nothing answers behind hop 2 (254.128.0.0)"


def test_nothing_is_known() -> None:
    assert made(probes=answers(0, "silent")).disposition == "UNKNOWN"
    assert made().disposition == "UNKNOWN"


KINDS = st.sampled_from(("hop", "reached", "unreachable", "silent", "refused"))


@st.composite
def any_answer(draw: st.DrawFn, ttl: int) -> Answer:
    kind = draw(KINDS)
    if kind in ("silent", "refused"):
        return Answer(ttl, refused="Invalid argument" if kind == "refused" else "")
    source = THERE if kind == "reached" else draw(st.sampled_from((DUMMY, HERE, THERE, via(3)[:4])))
    number = 11 if kind == "hop" else 3
    return Answer(ttl, kind, source, 1.0, number, draw(st.integers(0, 15)), 0, draw(st.integers(0, 255)))


@st.composite
def any_hop(draw: st.DrawFn) -> Hop:
    name = draw(st.sampled_from(("", "r1", "r2", "r3")))
    device = st.sampled_from(("", "eth1", "eth2"))
    ends = draw(st.sampled_from(("", "", "", *DISPOSITIONS)))
    return Hop(name, draw(device), "", draw(st.sampled_from((None, via(1)))), draw(device), ends=ends)


@settings(max_examples=400)
@given(st.data())
def test_whatever_the_witnesses_say_there_is_a_trace(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 10))
    probes = [data.draw(any_answer(ttl)) for ttl in (*range(1, count + 1), 64)] if count else []
    there, back = (data.draw(st.lists(any_hop(), max_size=6)) for _ in range(2))
    first = replace(FIRST, ends=data.draw(st.sampled_from(("", "NO_ROUTE", "DELIVERED_TO_SUBNET"))))
    trace = made(first, probes, there, back)
    assert trace.hops
    if any(answer.kind == "reached" for answer in probes):
        assert trace.disposition == "ACCEPTED"
        assert trace.back is not None
        assert trace.back.disposition == "ACCEPTED"
    assert is_good(trace, True) <= (trace.disposition == "ACCEPTED")
