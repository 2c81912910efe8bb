"""RFC 8967 between via6 and the others: equal keys are heard, others are not; keys change while all of them run."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from typing import Any

import pytest

from interop.network import PATIENCE_S, PEERS, need_peers, network, running, settle
from support import in_sandbox
from via6.daemon import client
from via6.lab.namespaces import Lab

pytestmark = pytest.mark.root

ONE = "hmac-sha256 " + "0123456789abcdef" * 4
OTHER = "blake2s128 " + "fedcba9876543210" * 2
CENTRE = "r1"
MANY = 60


@pytest.fixture(autouse=True, scope="module")
def _peers() -> None:
    need_peers()


def star() -> Any:
    """via6 with the one key amid two of each other speaker: the first has the one key, the second the other."""
    kinds = [kind for kind in PEERS for _ in range(2)]
    links = [(CENTRE, f"r{number}") for number in range(2, 2 + len(kinds))]
    topology = network(links, costs=False)
    routers = [
        replace(router, software="via6", key=ONE)
        if router.name == CENTRE
        else replace(router, software=kinds[number], key=OTHER if number % 2 else ONE)
        for number, router in enumerate(topology.routers, -1)
    ]
    return replace(topology, routers=tuple(routers))


def change_keys(lab: Lab, *keys: str) -> None:
    """Puts these keys into the file of the centre and tells it so."""
    lines = "".join(f"k{number} {key}\n" for number, key in enumerate(keys))
    (lab.folder / f"{CENTRE}.key").write_text(lines)
    lab.daemons[CENTRE].kill(signal.SIGHUP)


def bad_macs(lab: Lab) -> tuple[int, int]:
    """(packets with a wrong MAC that the centre has counted, lines of its log about them)."""
    with lab.inside(CENTRE):
        lines = [line for some in client.ask({"show": "status"}) for line in some]
    log = (lab.folder / f"{CENTRE}.log").read_text()
    return json.loads(lines[0])["counters"].get("bad-mac", 0), log.count("bad mac in a packet from fe80::")


def test_wrong_keys_are_counted_and_now_and_then_said() -> None:
    """Four neighbours of other programs sign with another key, three times a second each."""

    def work() -> None:
        topology = star()
        others = [router.name for router in topology.routers if router.key == OTHER]
        with running(topology) as lab:
            settle(lab, "the one key", apart=others)
            began = time.monotonic()
            while bad_macs(lab)[0] < MANY and time.monotonic() < began + PATIENCE_S:
                time.sleep(0.1)
            counted, said = bad_macs(lab)
            assert counted >= MANY
            # Once per kind of fault and ten seconds; the daemon runs a little longer than this has waited.
            assert 1 <= said <= 2 + (time.monotonic() - lab.started_s) / 10
            settle(lab, "none of it was heard", apart=others)

    in_sandbox(work)


def test_keys_match_and_mismatch_and_change() -> None:
    def work() -> None:
        topology = star()
        having = {key: [r.name for r in topology.routers if r.key == key and r.name != CENTRE] for key in (ONE, OTHER)}
        assert len(having[ONE]) == len(having[OTHER]) == len(PEERS)
        with running(topology) as lab:
            settle(lab, "the one key", apart=having[OTHER])
            for number in (signal.SIGTERM, signal.SIGKILL):
                lab.stop_router(CENTRE, number)
                lab.start_router(CENTRE)  # its packet counter begins anew: it is challenged
                settle(lab, f"the one key after {number.name}", apart=having[OTHER])
            for leaf in having[ONE]:
                lab.stop_router(leaf, signal.SIGKILL)
                lab.start_router(leaf)
            settle(lab, "the one key after the others' restart", apart=having[OTHER])
            change_keys(lab, ONE, OTHER)
            settle(lab, "both keys")
            change_keys(lab, OTHER)
            settle(lab, "the other key", apart=having[ONE])

    in_sandbox(work)
