"""`via6 lab test --software` as it is typed: software is dealt out, all pairs are reached, what is short is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from interop.network import need_peers
from support import via6

pytestmark = pytest.mark.root

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/labs"


@pytest.fixture(autouse=True, scope="module")
def _peers() -> None:
    need_peers()


def lab_test(*words: str) -> tuple[int, dict[str, Any], str]:
    code, out, err = via6("lab", "test", "-j", *words, timeout=120)
    return code, json.loads(out or "{}"), err


def test_three_kinds_on_ten_routers() -> None:
    words = ("--software", "via6,babeld,bird", "--seed", "4", str(EXAMPLES / "line10.toml"))
    code, report, err = lab_test(*words)
    assert (code, err, report["missing"], report["troubles"]) == (0, "", [], "")
    assert report["reachable"] == report["pairs"] == 90
    assert report["seconds"] > 0
    assert sorted(map(list(report["software"].values()).count, ("via6", "babeld", "bird"))) == [3, 3, 4]
    assert report["notes"] == ["software dealt with --seed 4"]


def test_software_of_each_router_in_the_file(tmp_path: Path) -> None:
    text = (EXAMPLES / "triangle.toml").read_text()
    for name, kind in (("r1", "babeld-13"), ("r2", "via6"), ("r3", "bird3")):
        text = text.replace(f"[router.{name}]\n", f'[router.{name}]\nsoftware = "{kind}"\n')
    file = tmp_path / "named.toml"
    file.write_text(text.replace("[lab]\n", "[lab]\nhello_interval_ms = 300\n"))
    code, report, err = lab_test(str(file))
    assert (code, err, report["missing"]) == (0, "", [])
    assert report["software"] == {"r1": "babeld-13", "r2": "via6", "r3": "bird3"}


def test_a_router_that_speaks_no_babel_is_named(tmp_path: Path) -> None:
    file = tmp_path / "short.toml"
    text = (EXAMPLES / "gap.toml").read_text()
    file.write_text(text.replace('software = "via6-static"', 'hello_interval_ms = 300\nsoftware = "babeld"'))
    code, report, _ = lab_test("--timeout", "4", str(file))
    assert (code, report["reachable"]) == (3, 0)
    assert [missing["stops_at"] for missing in report["missing"]] == ["left", "right"]


def test_a_seed_wants_software() -> None:
    code, _, err = lab_test("--seed", "1", str(EXAMPLES / "line10.toml"))
    assert (code, err.partition("\n")[0]) == (2, "via6: --seed deals out what --software names")
