"""`route -batch`: meaning, order, places of errors. The simulated kernel stands for Linux."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from via6.cli import batch
from via6.cli.words import Devices, parse_route
from via6.errors import FAILED, OK, Refusal
from via6.model import PROTO_KERNEL, PROTO_STATIC, Burst, NextHop, Plan, Route, RouteBlock
from via6.observe.names import Names
from via6.prefix import parse_address, parse_prefix
from via6.sim.kernel import SimKernel


def kernel() -> SimKernel:
    made = SimKernel()
    for name, number in (("eth0", 1), ("eth1", 2)):
        index = made.node.add_link(name, lladdr=bytes([2, 0, 0, 0, 0, number]))
        made.node.set_up(index, True)
        made.node.add_address(index, parse_address(f"192.0.{number}.1"), 24)
    return made


def helpers(of: SimKernel, held: frozenset[bytes] = frozenset()) -> batch.Helpers:
    devices = Devices(of.dump(frozenset({"links"})).by_name)

    def guard(_op: str, route: Route) -> None:
        raise Refusal(f"{route.prefix} is held")

    return batch.Helpers(
        parse=lambda op, words, family: parse_route(op, words, Names(), devices, family),
        guard=guard,
        held=held,
        explain=lambda _op, _route, failure: failure.text,
        sent=lambda _op, _template, _destinations: None,
    )


@contextmanager
def piped(text: str) -> Iterator[int]:
    """A descriptor from which the text can be read."""
    reader = os.memfd_create("batch")
    try:
        os.write(reader, text.encode())
        os.lseek(reader, 0, os.SEEK_SET)
        yield reader
    finally:
        os.close(reader)


def run(text: str, of: SimKernel, *, force: bool = False, size: int = batch.CHUNK, held: frozenset[bytes] = frozenset(),
        family: int = 0) -> int:  # fmt: skip
    with piped(text) as descriptor:
        return batch.Batch("F", of, helpers(of, held), family, force).run(batch.pieces(descriptor, size))


def routes(of: SimKernel) -> set[Route]:
    return {r for r in of.dump().routes if r.protocol != PROTO_KERNEL}


def hop(via: str, ifindex: int) -> tuple[NextHop, ...]:
    return (NextHop(parse_address(via), ifindex),)


def static(prefix: str, hops: tuple[NextHop, ...]) -> Route:
    return Route(parse_prefix(prefix), hops, protocol=PROTO_STATIC)


def test_every_spelling_of_a_line_means_its_route() -> None:
    of = kernel()
    eth0 = of.dump().by_name["eth0"].ifindex
    text = """
# a comment, an empty line, and then
route add 10.0.0.0/16 via inet6 fe80::1 dev eth0
route add 10.1.0.0/16 via inet6 fe80::1 dev eth0   # the same meaning
-4 route add 10.2.0.0/16 via inet6 fe80::1 dev eth0
ro a 10.3.0.0/16   via inet6 fe80::1  dev eth0
route add 10.4.0.0/16 \\
  via inet6 fe80::1 \\
  dev eth0
route add to unicast 10.5.0.0/16 via fe80::1%eth0
route add via fe80::1 dev eth0 10.6.0.0/16
route add 10.7/16 via fe80::1 dev "eth0"
route add 10.8.0.0/16 via inet6 fe80::1 dev eth0"""
    assert run(text, of) == OK
    assert routes(of) == {static(f"10.{n}.0.0/16", hop("fe80::1", eth0)) for n in range(9)}


def test_types_and_both_families() -> None:
    of = kernel()
    added = ("blackhole 10.0.0.0/8", "blackhole 11.0.0.0/8", "12.0.0.1 dev eth0",
             "2001:db8::/32 via fe80::1 dev eth0", "2001:db8:1::/48 via fe80::1 dev eth0")  # fmt: skip
    assert run("".join(f"route add {words}\n" for words in added), of) == OK
    assert {(str(r.prefix), r.type) for r in routes(of)} == {
        ("10.0.0.0/8", "blackhole"),
        ("11.0.0.0/8", "blackhole"),
        ("12.0.0.1/32", "unicast"),
        ("2001:db8::/32", "unicast"),
        ("2001:db8:1::/48", "unicast"),
    }
    assert (
        run("route del 10.0.0.0/8\nroute del 11.0.0.0/8\nroute delete 2001:db8::/32\nroute d 2001:db8:1::/48", of) == OK
    )
    assert {str(r.prefix) for r in routes(of)} == {"12.0.0.1/32"}


@pytest.mark.parametrize("size", [1, 7, 64, batch.CHUNK])
def test_pieces_keep_lines_and_numbers(size: int) -> None:
    text = "one\ntwo \\\nmore \\\nand more\nfour # no\n\nlast"
    with piped(text) as descriptor:
        numbered = [
            (first + at, line.split())
            for first, lines in batch.pieces(descriptor, size)
            for at, line in enumerate(lines)
            if line.strip()
        ]
    assert numbered == [(1, ["one"]), (2, ["two", "more", "and", "more"]), (5, ["four"]), (7, ["last"])]


LINES = st.lists(
    st.builds(
        "route {} {} {}".format,
        st.sampled_from(["add", "replace", "replace", "del"]),
        st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "10/8", "10.1.1.1"]),
        st.sampled_from([
            "via fe80::1 dev eth0", "via fe80::2 dev eth0", "via 192.0.1.9", "via 192.0.2.9 metric 5", "dev eth1",
            "via 10.1.0.7",
        ]),
    ),
    max_size=40,
)  # fmt: skip


@given(LINES, st.integers(20, 400))
def test_a_batch_leaves_what_its_lines_one_by_one_leave(lines: list[str], size: int) -> None:
    together, single = kernel(), kernel()
    failed = run("\n".join(lines), together, force=True, size=size)
    refused = False
    parse = helpers(single).parse
    for line in lines:
        op, words, family = batch.heading(line.split(), 0)
        op = {"del": "delete"}.get(op, op)
        route = parse(op, words, family)
        done = single.apply(Plan((Burst(op, RouteBlock(route, (route.prefix.packed,))),)))
        refused = refused or bool(done.failures)
    assert routes(together) == routes(single)
    assert failed == (FAILED if refused else OK)


def refusal(text: str, of: SimKernel, **options: object) -> Refusal:
    with pytest.raises(Refusal) as caught:
        run(text, of, **options)  # type: ignore[arg-type]
    return caught.value


GOOD = "route add 10.0.0.0/16 via fe80::1 dev eth0\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("route add 10.1.0.1/16 via fe80::1 dev eth0", "F:2: '10.1.0.1/16' has host bits set"),
        ("route add 10.1.0.0/16 via fe80::1 dev eth9", "F:2: there is no device 'eth9'"),
        ("link set eth0 up", "F:2: 'link set' is no route command"),
        ("route flush table main", "F:2: 'route flush' is not for a batch"),
        ("route", "F:2: 'route ' is not for a batch"),
        ('route add 10.1.0.0/16 dev "eth0', "F:2: No closing quotation"),
        ("route add", "F:2: no destination"),
        ("route add 10.1.0.0/33 via fe80::1 dev eth0", "F:2: '10.1.0.0/33': the length"),
    ],
)
def test_a_wrong_line_is_named_and_those_before_it_count(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    of = kernel()
    text = f"{GOOD}{line}\nroute add 10.3.0.0/16 via fe80::1 dev eth0\n"
    assert words in str(refusal(text, of))
    assert [str(r.prefix) for r in routes(of)] == ["10.0.0.0/16"]
    of = kernel()
    assert run(text, of, force=True) == FAILED
    assert {str(r.prefix) for r in routes(of)} == {"10.0.0.0/16", "10.3.0.0/16"}
    assert f"via6: {words}" in capsys.readouterr().err


def test_what_the_kernel_refuses_is_named_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    of = kernel()
    answer = refusal(GOOD + GOOD + "route add 10.9.0.0/16 via fe80::1 dev eth0\n", of)
    assert answer.message == "F: stopped at line 2: those before were carried out, those behind were not"
    assert [str(r.prefix) for r in routes(of)] == ["10.0.0.0/16"]
    assert "via6: F:2: 10.0.0.0/16: File exists (EEXIST)" in capsys.readouterr().err
    many = "\n" * batch.ONE_BY_ONE + "".join(f"route del 10.{n}.0.0/16\n" for n in range(100, 140))
    answer = refusal(many, of)
    assert f"refused 40 of the lines up to {batch.ONE_BY_ONE + 40} (the first 20 are shown)" in answer.message
    assert capsys.readouterr().err.count("\n") == 20
    assert run(many, of, force=True) == FAILED
    assert capsys.readouterr().err.count("\n") == 40


def test_what_the_daemon_holds_is_asked_for_first() -> None:
    of = kernel()
    held = frozenset({parse_address("10.5.0.0")})
    text = GOOD + "route add 10.6.0.0/16 via fe80::1 dev eth0\nroute replace 10.5.0.0/16 via fe80::1 dev eth0\n"
    assert str(refusal(text, of, held=held)) == "F:3: 10.5.0.0/16 is held"
    assert {str(r.prefix) for r in routes(of)} == {"10.0.0.0/16", "10.6.0.0/16"}


def test_lost_answers_end_the_run() -> None:
    of = kernel()
    of.lose_ack()
    assert "answers were lost" in str(refusal(GOOD, of))


def test_a_family_said_before_the_verb() -> None:
    of = kernel()
    assert run("route add default via fe80::1 dev eth0", of, family=10) == OK
    assert [str(r.prefix) for r in routes(of)] == ["::/0"]
    assert "is no IPv6 prefix" in str(refusal(GOOD * 2, of, family=10))
