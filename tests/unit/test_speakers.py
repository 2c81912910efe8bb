"""How software is dealt out over a lab, and what each program is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from via6 import config
from via6.config_babel import parse_keys
from via6.errors import Refusal
from via6.lab import labfile, speakers
from via6.lab.topology import SOFTWARE, SPEAKERS, Topology, with_software

KEY = "0123456789abcdef" * 4
LAB = f"""
[lab]
hello_interval_ms = 500
key = "hmac-sha256 {KEY}"
[router.r1]
lan = "10.0.1.0/24"
address = "10.255.0.1"
[router.r2]
key = "blake2s128 {KEY[:32]}"
[router.r3]
key = "none"
[[link]]
ends = ["r1", "r2"]
[[link]]
ends = ["r1", "r3"]
cost = 3
"""


def lab(text: str = LAB) -> Topology:
    return labfile.parse(text.encode(), "x.toml", "x")


def many(count: int) -> Topology:
    return lab("".join(f"[router.r{number}]\n" for number in range(count)))


def dealt(topology: Topology) -> list[str]:
    return [router.software for router in topology.routers]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 25])
@pytest.mark.parametrize("seed", range(8))
def test_each_kind_is_used_and_none_much_more_than_another(count: int, seed: int) -> None:
    kinds = ("via6", "babeld", "bird")
    found = Counter(dealt(with_software(many(count), kinds, seed)))
    assert len(found) == min(count, 3)
    assert max(found.values()) - min(found.values()) <= 1


def test_the_seed_decides() -> None:
    deals = {seed: dealt(with_software(many(9), ("via6", "babeld", "bird"), seed)) for seed in range(20)}
    assert len({tuple(deal) for deal in deals.values()}) > 15
    assert deals[3] == dealt(with_software(many(9), ("via6", "babeld", "bird"), 3))
    assert dealt(with_software(many(3), ("static",))) == ["static"] * 3
    with pytest.raises(Refusal, match="unknown software 'frr'"):
        with_software(many(3), ("via6", "frr"))


def test_keys_and_intervals_of_a_lab() -> None:
    assert [(router.key.split(" ")[0], router.hello_interval_ms) for router in lab().routers] == [
        ("hmac-sha256", 500), ("blake2s128", 500), ("", 500),
    ]  # fmt: skip
    for key, fault in (("md5 00", "algorithms are hmac-sha256, blake2s128"), ("hmac-sha256 xy", "not hexadecimal")):
        with pytest.raises(Refusal, match=rf"router.a.key: .*{fault}"):
            lab(f'[router.a]\nkey = "{key}"')
        with pytest.raises(Refusal, match=r"lab\.key: "):
            lab(f'[lab]\nkey = "{key}"\n[router.a]')
    with pytest.raises(Refusal, match=r"lab.hello_interval_ms: 50 or more"):
        lab("[lab]\nhello_interval_ms = 49\n[router.a]")


def test_babeld() -> None:
    assert speakers.babeld_config(lab(), lab().router["r1"]).splitlines() == [
        f"key id lab type hmac-sha256 value {KEY}",
        "smoothing-half-life 0",
        "interface eth1 type wired rxcost 96 key lab hello-interval 0.5 update-interval 2.0",
        "interface eth2 type wired rxcost 288 key lab hello-interval 0.5 update-interval 2.0",
        "redistribute ip 10.0.1.0/24 eq 24 allow",
        "redistribute local ip 10.255.0.1/32 eq 32 allow",
        "redistribute local deny",
        "redistribute deny",
    ]
    plain = lab("[router.a]\n[router.b]\n[[link]]\nends = ['a', 'b']\ncost = 60000")
    assert speakers.babeld_config(plain, plain.router["a"]).splitlines() == [
        "interface eth1 type wired rxcost 8192", "redistribute local deny", "redistribute deny",
    ]  # fmt: skip


def test_bird() -> None:
    text = speakers.bird_config(lab(), lab().router["r2"])
    octets = ":".join(KEY[at : at + 2] for at in range(0, 32, 2))
    assert (
        '  interface "eth1" { type wired; rxcost 96; hello interval 500 ms; update interval 2000 ms;'
        f" authentication mac; password hex:{octets} {{ algorithm blake2s128; }}; }};\n"
    ) in text
    assert "router id 3221225986;" in text
    assert speakers.control_program("/x/bird-3") == "/x/birdc-3"


def test_what_via6_is_told_it_understands() -> None:
    key_file = Path("/run/r1.key")
    topology = lab()
    found, problems = config.parse(speakers.via6_config(topology, topology.router["r1"], key_file).encode(), "r1.toml")
    assert found is not None
    assert [problem for problem in problems if problem.severity == "error"] == []
    assert found.babel is not None
    assert (found.node.name, found.babel.key_files) == ("r1", (str(key_file),))
    assert [spec.cost for _, spec in found.babel.interface] == [96, 288]
    assert (found.babel.common.hello_interval_ms, found.babel.common.update_interval_ms) == (500, 2000)
    keys, faults = parse_keys(speakers.via6_key_file(topology.router["r1"]).encode(), "r1.key")
    assert ([key.secret.hex() for key in keys], faults) == ([KEY], [])
    assert speakers.via6_words(topology, topology.router["r2"], key_file) == [
        "up", "eth1", "--export", "connected", "--hello-interval", "500", "--update-interval", "2000",
        "--key", str(key_file),
    ]  # fmt: skip
    assert found.trace.asks_on("lan")
    silent = replace(topology, trace_on_lans=False)
    found, _ = config.parse(speakers.via6_config(silent, silent.router["r1"], key_file).encode(), "r1.toml")
    assert found is not None
    assert not found.trace.asks_on("lan")
    assert "--trace-on lan" in " ".join(speakers.via6_words(topology, topology.router["r1"], key_file))
    assert "--trace-on" not in speakers.via6_words(silent, silent.router["r1"], key_file)


def test_a_program_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(speakers, "_SYSTEM_PATHS", str(tmp_path))
    monkeypatch.setattr(speakers, "_PEERS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    speakers.program.cache_clear()
    try:
        speakers.require(SOFTWARE.keys() - speakers._CANDIDATES.keys())
        with pytest.raises(Refusal, match="there is no babeld on this machine"):
            speakers.require({"via6", "babeld"})
        old = tmp_path / "bird"
        old.write_text("#!/bin/sh\necho BIRD version 2.0.12\n")
        old.chmod(0o755)
        with pytest.raises(Refusal, match=r"there is no BIRD 2.13 or newer on this machine \(.*/bird is 2.0.12, which"):
            speakers.require({"bird"})
        old.write_text("#!/bin/sh\necho BIRD version 2.17.5\n")
        assert speakers.program("bird") == str(old)
    finally:
        speakers.program.cache_clear()
    assert SOFTWARE.keys() > SPEAKERS
