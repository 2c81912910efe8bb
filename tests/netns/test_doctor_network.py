"""Faults between nodes, in labs that are up: each made in just one way, seen as just one cause, mended as the finding
says, and gone. One lab has static routes; in the other via6 stands beside babeld and BIRD."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interop.network import need_peers
from support import PREFIX, leftover_namespaces, run, via6, wait_until
from via6.lab import state

pytestmark = pytest.mark.root

MIXED = """
[lab]
name = "NAME"
software = "via6"
[router.r1]
lan = "10.1.0.0/24"
[router.r2]
lan = "10.2.0.0/24"
[router.r3]
lan = "10.3.0.0/24"
software = "babeld"
[router.r4]
lan = "10.4.0.0/24"
software = "bird"
[[link]]
ends = ["r1", "r2"]
[[link]]
ends = ["r2", "r3"]
[[link]]
ends = ["r3", "r4"]
[[link]]
ends = ["r4", "r1"]
"""

LINE = """
[lab]
name = "NAME"
software = "static"
[router.r1]
lan = "10.1.0.0/24"
[router.r2]
lan = "10.2.0.0/24"
[router.r3]
lan = "10.3.0.0/24"
[[link]]
ends = ["r1", "r2"]
[[link]]
ends = ["r2", "r3"]
"""


class Lab:
    """A lab that is up, and what the doctor says of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def inside(self, node: str, *words: str, **more: Any) -> str:
        return run("ip", "netns", "exec", self.netns(node), *words, **more).stdout

    def show(self, node: str, what: str) -> list[dict[str, Any]]:
        code, out, err = via6(f"show {what} -j", netns=self.netns(node))
        assert code == 0, err
        rows: list[dict[str, Any]] = json.loads(out)
        return rows

    def netns(self, node: str) -> str:
        there = state.read(self.name)
        assert there is not None
        return there.nodes[node]

    def all(self, *words: str) -> list[dict[str, Any]]:
        return self._doctor("--lab", self.name, *words)

    def one(self, node: str, *words: str) -> list[dict[str, Any]]:
        return self._doctor(*words, netns=self.netns(node))

    def _doctor(self, *words: str, netns: str | None = None) -> list[dict[str, Any]]:
        code, out, err = via6("doctor", "-j", *words, netns=netns)
        assert code in (0, 3), err
        found: list[dict[str, Any]] = json.loads(out)
        assert (code == 3) is any(one["severity"] != "info" for one in found)
        return found

    def mend(self, finding: dict[str, Any]) -> None:
        """Runs the remedy as it is printed; where it begins with the name of a node, there."""
        for line in finding["remedy"].splitlines():
            if not line.startswith("#"):
                subprocess.run(["sh", "-c", line], check=True, timeout=30)


def roots(found: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(one["code"], one["node"]) for one in found if not one["depends_on"]}


def up(tmp: Path, text: str, name: str) -> Iterator[Lab]:
    file = tmp / f"{name}.toml"
    file.write_text(text.replace("NAME", name))
    try:
        code, _, err = via6("lab", "up", str(file))
        assert (code, err) == (0, "")
        yield Lab(name)
    finally:
        with state.lock():
            for one in state.read_all():
                if one.name == name:
                    state.remove(one)
        assert not [n for n in leftover_namespaces() if n.startswith(name)]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from up(tmp_path_factory.mktemp("line"), LINE, f"{PREFIX}l")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    need_peers()
    for lab in up(tmp_path_factory.mktemp("mixed"), MIXED, f"{PREFIX}m"):
        wait_until(lambda lab=lab: settled(lab), 60, every=0.5)
        yield lab


def settled(lab: Lab) -> bool:
    """Every host is reached from r1 and r3, and nothing is found."""
    hosts = [f"10.{n}.0.10" for n in range(1, 5)]
    return all(lab.one(node, "--to", host) == [] for host in hosts for node in ("r1", "r3")) and lab.all() == []


# --- nothing is wrong ----------------------------------------------------------------------------------------------


def test_routers_of_three_kinds_are_well(mixed: Lab) -> None:
    assert mixed.all("--to", "10.3.0.10") == []
    for node in ("r1", "r2", "r3", "r4", "r1-h"):
        assert mixed.one(node) == []
        assert mixed.one(node, "--to", "10.3.0.10") == []
        assert mixed.one(node, "--to", "10.4.0.1") == []


def test_on_paper_it_is_well_too(mixed: Lab, tmp_path: Path) -> None:
    assert via6("snapshot", "--lab", mixed.name, "-o", f"{tmp_path}/s/")[0] == 0
    code, out, _ = via6("doctor", "--snapshots", f"{tmp_path}/s/", "-j")
    assert (code, json.loads(out)) == (0, [])
    code, out, _ = via6("doctor", "--snapshots", f"{tmp_path}/s/", "--to", "10.3.0.10", "-j")
    assert (code, json.loads(out)) == (0, [])


def test_static_routes_are_well(line: Lab) -> None:
    assert line.all() == []
    for node in ("r1", "r2", "r3"):
        assert line.one(node, "--to", "10.3.0.10") == []


# --- links ---------------------------------------------------------------------------------------------------------


def test_two_ends_of_a_link_with_different_mtus(mixed: Lab) -> None:
    wait_until(lambda: "fe80::2" in mixed.inside("r3", "ip", "route"), timeout=60, every=0.5, what="a way by r2")
    mixed.inside("r2", "ip", "link", "set", "eth2", "mtu", "1400")  # to r3, which runs babeld
    (one,) = mixed.one("r3")
    assert one["code"] == "mtu-mismatch"
    (one,) = mixed.all()
    assert (one["code"], one["node"], one["fixable"]) == ("mtu-mismatch", "r3", True)
    mixed.mend(one)
    assert mixed.all() == []
    for node, dev in (("r2", "eth2"), ("r3", one["subject"])):
        mixed.inside(node, "ip", "link", "set", dev, "mtu", "1500")
    assert mixed.all() == []
    mixed.inside("r2", "ip", "link", "set", "eth1", "mtu", "1400")  # to r1: which finds it alone
    (one,) = mixed.one("r1")
    assert (one["code"], one["subject"]) == ("mtu-mismatch", "eth1")
    mixed.mend(one)
    assert mixed.one("r1") == []
    for node in ("r1", "r2"):
        mixed.inside(node, "ip", "link", "set", "eth1", "mtu", "1500")
    assert mixed.all() == []


# --- Babel of others -----------------------------------------------------------------------------------------------


def test_a_babeld_whose_firewall_lets_nothing_in(mixed: Lab) -> None:
    rules = "table inet f { chain c { type filter hook input priority 0; udp dport 6696 drop; }; }"
    mixed.inside("r3", "nft", rules)

    def deaf() -> bool:
        return any(row["txcost"] >= 65535 and row["rxcost"] < 65535 for row in mixed.show("r2", "neighbour"))

    wait_until(deaf, timeout=60, every=0.5)
    (one,) = mixed.one("r2")
    assert (one["code"], one["subject"]) == ("babel-one-way", "eth2 fe80::3")
    assert roots(mixed.all()) == {("firewall-babel", "r3")}
    mixed.inside("r3", "nft", "delete", "table", "inet", "f")
    wait_until(lambda: mixed.all() == [], timeout=60, every=1)


# --- ways ----------------------------------------------------------------------------------------------------------


def test_no_way_back(line: Lab, tmp_path: Path) -> None:
    route = line.inside("r3", "ip", "route", "show", "10.1.0.0/24").split()
    line.inside("r3", "ip", "route", "del", "10.1.0.0/24")
    (one,) = line.all()
    assert (one["code"], one["node"], one["subject"]) == ("no-way-back", "r3", "10.1.0.0/24")
    assert one["title"].startswith(
        "no way back to 10.1.0.0/24 (r1, r1-h): packets from there arrive, and r3 has no route"
    )
    assert via6("snapshot", "--lab", line.name, "-o", f"{tmp_path}/s/")[0] == 0
    code, out, _ = via6("doctor", "--snapshots", f"{tmp_path}/s/", "--to", "10.3.0.10", "-j")
    assert code == 3
    assert roots(json.loads(out)) == {("no-way-back", "r3")}
    words = next(w for w in one["remedy"].splitlines() if not w.startswith("#"))
    subprocess.run(["sh", "-c", words], check=True)
    assert line.all() == []
    assert line.inside("r3", "ip", "route", "show", "10.1.0.0/24").split()[:6] == route[:6]


def test_no_way_back_to_one_of_its_addresses(line: Lab) -> None:
    """Seen from r1 alone: r3 answers one address and not the other."""
    line.inside("r1", "ip", "addr", "add", "10.99.0.1/32", "dev", "lo")
    line.inside("r2", "ip", "route", "add", "10.99.0.1", "via", "inet6", "fe80::1", "dev", "eth1")
    (one,) = line.one("r1", "--to", "10.3.0.10")
    assert (one["code"], one["subject"]) == ("no-way-back", "10.99.0.1/32")
    line.inside("r3", "ip", "route", "add", "10.99.0.1", "via", "inet6", "fe80::2", "dev", "eth1")
    assert line.one("r1", "--to", "10.3.0.10") == []
    assert line.all() == []
    for node, words in (
        ("r1", "addr del 10.99.0.1/32 dev lo"),
        ("r2", "route del 10.99.0.1"),
        ("r3", "route del 10.99.0.1"),
    ):
        line.inside(node, "ip", *words.split())


def test_a_loop(line: Lab) -> None:
    line.inside("r2", "ip", "route", "replace", "10.3.0.0/24", "via", "inet6", "fe80::1", "dev", "eth1")
    assert roots(line.all()) == {("loop", "r2")}
    line.inside("r2", "ip", "route", "replace", "10.3.0.0/24", "via", "inet6", "fe80::3", "dev", "eth2")
    assert line.all() == []


def test_large_packets_vanish_on_the_way(line: Lab) -> None:
    for node, dev in (("r2", "eth2"), ("r3", "eth1")):
        line.inside(node, "ip", "link", "set", dev, "mtu", "1400")
    assert line.one("r1", "--to", "10.3.0.10") == []  # r2 says so, and all is well
    line.inside("r1", "ip", "route", "flush", "cache")
    rules = "table ip f { chain c { type filter hook output priority 0; icmp type destination-unreachable drop; }; }"
    line.inside("r2", "nft", rules)
    (one,) = line.one("r1", "--to", "10.3.0.10")
    assert (one["code"], one["subject"], one["severity"]) == ("pmtud-black-hole", "10.3.0.10", "warning")
    assert "1400 octets" in one["title"]
    assert "behind hop 1 (" in one["title"]
    (whole,) = line.all("--to", "10.3.0.10")
    assert (whole["code"], whole["node"]) == ("pmtud-black-hole", "r2")
    assert "r2 filters: nft ip f c: icmp type destination-unreachable drop" in whole["evidence"]
    line.mend(one)
    assert line.one("r1", "--to", "10.3.0.10") == []
    line.inside("r1", "ip", "route", "del", "10.3.0.10/32")
    assert {one["code"] for one in line.one("r1", "--to", "10.3.0.10")} == {"pmtud-black-hole"}
    line.inside("r2", "nft", "delete", "table", "ip", "f")
    assert line.one("r1", "--to", "10.3.0.10") == []
    for node, dev in (("r2", "eth2"), ("r3", "eth1")):
        line.inside(node, "ip", "link", "set", dev, "mtu", "1500")
    assert line.all() == []


def test_one_network_at_two_routers(mixed: Lab) -> None:
    """r2's new network is one that r1 has: seen on all nodes' word, and as a hint by a node that only hears of it."""
    mixed.inside("r2", "ip", "addr", "add", "10.1.0.1/24", "dev", "lan")
    wait_until(lambda: any(row["rivals"] for row in mixed.show("r1", "interface")), timeout=20, every=0.2)
    assert ("exported-twice", "r1") in roots(mixed.all())
    mixed.inside("r2", "ip", "addr", "del", "10.1.0.1/24", "dev", "lan")
    wait_until(lambda: mixed.all() == [], timeout=60, every=1)


def test_the_node_that_discards_is_named_from_afar(mixed: Lab) -> None:
    """r1 is asked alone; what r2 does is known of its daemon."""
    wait_until(lambda: "fe80::2" in mixed.inside("r1", "ip", "route", "show", "10.2.0.0/24"), timeout=60, every=0.5)
    mixed.inside("r2", "ip", "route", "add", "blackhole", "10.2.0.10")
    (one,) = mixed.one("r1", "--to", "10.2.0.10")
    assert (one["code"], one["subject"]) == ("no-way", "10.2.0.10")
    assert "(hop 1) discards packets to it" in one["title"]
    mixed.inside("r2", "ip", "route", "del", "blackhole", "10.2.0.10")
    assert mixed.one("r1", "--to", "10.2.0.10") == []
