"""`via6 verify` as a user types it, on a lab that is up and on the snapshots of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import PREFIX, leftover_namespaces, run, via6
from via6.lab import state

RING = """
[lab]
name = "NAME"
software = "SOFTWARE"
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
[[link]]
ends = ["r3", "r1"]
cost = 5
"""

pytestmark = pytest.mark.root


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """A ring of three with static routes; r1 and r3 reach each other by r2."""
    name = f"{PREFIX}v"
    file = tmp_path / "v.toml"
    file.write_text(RING.replace("NAME", name).replace("SOFTWARE", "static"))
    try:
        code, _, err = via6("lab", "up", str(file))
        assert (code, err) == (0, "")
        yield name
    finally:
        with state.lock():
            for one in state.read_all():
                if one.name == name:
                    state.remove(one)
        assert not leftover_namespaces()


def verify(*words: str) -> tuple[int, dict[str, Any]]:
    code, out, err = via6("verify", "-j", *words)
    assert code in (0, 3), err
    made: dict[str, Any] = json.loads(out)
    return code, made


def inside(lab: str, node: str, *words: str) -> None:
    run("ip", "netns", "exec", state.read(lab).nodes[node], *words)  # type: ignore[union-attr]


def test_a_lab_before_and_after_its_faults(lab: str, tmp_path: Path) -> None:
    before, after = str(tmp_path / "before/"), str(tmp_path / "after/")
    assert via6("snapshot", "--lab", lab, "-o", before + "/")[0] == 0
    code, made = verify("--lab", lab)
    assert (code, made["problems"]) == (0, [])
    assert made["pairs"] == made["arriving"] > 0
    assert verify(before) == (0, made)
    rules = tmp_path / "rules"
    rules.write_text("reach r1-h r3-h via r2\nreach 10.1.0.0/24 10.2.0.0/24\n")
    assert verify(before, "--expect", str(rules))[0] == 0
    rules.write_text("isolate r1-h 10.3.0.0/24\n")
    code, made = verify(before, "--expect", str(rules))
    assert code == 3
    assert {p["kind"] for p in made["problems"]} == {"line 1: isolate r1-h 10.3.0.0/24"}
    assert made["problems"][0]["path"][:3] == ["r1-h", "r1", "r2"]

    inside(lab, "r2", "ip", "route", "del", "10.3.0.0/24")
    inside(lab, "r3", "sysctl", "-qw", "net.ipv4.conf.eth1.forwarding=0")
    assert via6("snapshot", "--lab", lab, "-o", after + "/")[0] == 0
    code, made = verify(after)
    assert code == 3
    told = {(p["disposition"], p["node"], p["prefix"]) for p in made["problems"]}
    assert ("NO_ROUTE", "r2", "10.3.0.0/24") in told
    assert all({"disposition", "node", "prefix", "packet", "path"} <= p.keys() for p in made["problems"])
    code, out, _ = via6("verify", after)
    assert code == 3
    assert "NO_ROUTE at r2 for 10.3.0.0/24" in out
    assert "r1 eth1 > eth1 r2" in out
    code, made = verify("diff", before, after)
    assert code == 3
    assert {c["prefix"] for c in made["changes"]} == {"10.3.0.0/24"}
    assert verify("diff", before, before)[0] == 0
    code, out, _ = via6("verify", before, "--fail", "link", "r1-r2")
    assert code == 3
    assert "note: no Babel state of r1, r2, r3" in out


def test_what_it_refuses(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("reach a\n\nisolate x y\n")
    snapshot = tmp_path / "one.json"
    assert via6("snapshot", "--name", "one", "-o", str(snapshot))[0] == 0
    code, _, err = via6("verify", str(snapshot), "--expect", str(rules))
    assert code == 2
    assert f"{rules}:1: write reach A B" in err
    assert f"{rules}:3: there is no node 'x'" in err
    for words in (("verify",), ("verify", "diff", str(snapshot)), ("verify", "--fail", "cable", str(snapshot))):
        assert via6(*words)[0] == 2
    assert via6("verify", str(tmp_path / "none"))[0] == 1
    assert via6("verify", str(snapshot), "--fail", "node", "r7")[0] == 1
