"""The renderers against golden texts (UPDATE=1 rewrites them; review the difference), and the rules they all keep.
What the targets make of the texts is asked in tests/netns/test_render.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support import via6
from via6.config import Config, parse
from via6.render import ALIASES, SYSTEMS, Rendered, render

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "render"


def routes(text: str | bytes) -> Config:
    config, problems = parse(text.encode() if isinstance(text, str) else text, "t.toml")
    assert config, problems
    return config


def one(system: str, body: str) -> Rendered:
    return render(system, routes(f"[[route]]\n{body}").routes)


def text(rendered: Rendered) -> str:
    return "".join(file.text for file in rendered.files)


def said(rendered: Rendered) -> list[str]:
    """The lines that are no comments."""
    return [line for line in text(rendered).splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("system", SYSTEMS)
def test_golden(system: str) -> None:
    rendered = render(system, routes((GOLDEN / "routes.toml").read_bytes()).routes)
    lines = [f"# ==> {file.name} <==\n{file.text}" for file in rendered.files]
    lines += [f"# refused {r.route.place}: {r.route.to}: {r.reason}\n#   {r.remedy}\n" for r in rendered.refused]
    path = GOLDEN / f"{system}.txt"
    if os.environ.get("UPDATE"):
        path.write_text("".join(lines))
    assert path.read_text() == "".join(lines)


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_route_is_said_or_refused_by_name(system: str) -> None:
    declared = routes((GOLDEN / "routes.toml").read_bytes()).routes
    for route in declared:
        rendered = render(system, [route])
        assert bool(said(rendered)) or rendered.refused
        for refused in rendered.refused:
            assert refused.route == route
            assert refused.reason
            assert refused.remedy
            assert str(route.to) in text(rendered) or not rendered.files


@pytest.mark.parametrize("system", SYSTEMS)
def test_strange_device_names_never_reach_a_target(system: str) -> None:
    for name in ('a"b', "a;b", "a#b", "a$b", "*", "a'b", "-j", "a@b", "a`b"):
        route = routes(f"[[route]]\nto='10/8'\nvia='fe80::1'\ndev={name!r}" if "'" not in name else
                       f'[[route]]\nto="10/8"\nvia="fe80::1"\ndev="{name}"').routes[0]  # fmt: skip
        rendered = render(system, [route])
        assert len(rendered.refused) == 1
        assert "10.0.0.0/8" not in "".join(said(rendered))


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_routes(system: str) -> None:
    rendered = render(system, ())
    assert not rendered.refused


def test_iproute2_never_writes_default() -> None:
    # iproute2 6.1: `default via inet6 X src A` fails, 0.0.0.0/0 does not.
    assert said(one("iproute2", "to='default'\nvia='fe80::1%e'\nsrc='10.0.0.1'")) == [
        "route add 0.0.0.0/0 proto static src 10.0.0.1 via inet6 fe80::1 dev e"
    ]


def test_bsd_refusals_and_forms() -> None:
    for system in ("freebsd", "openbsd"):
        for body in ("metric=1", "table=5", "src='10.0.0.1'"):
            rendered = one(system, f"to='10/8'\nvia='fe80::1%em0'\n{body}")
            assert len(rendered.refused) == 1, (system, body)
            assert not said(rendered)
        assert one(system, "to='10/8'\nvia=['fe80::1%em0','fe80::2%em0']").refused
        assert one(system, "to='10/8'\ntype='prohibit'").refused
    assert said(one("freebsd", "to='10/8'\nvia='fe80::1%vtnet0'"))[0] == (
        "route add -net 10.0.0.0/8 -inet6 fe80::1%vtnet0"
    )
    openbsd = one("openbsd", "to='192.168.0.0/16'\nvia='2a0a:e5c1:100::1'")
    assert said(openbsd) == ["route add 192.168.0.0/16 2a0a:e5c1:100::1"]
    assert "NOT\n# promised" in text(openbsd)
    assert "promised" not in text(one("openbsd", "to='192.168.0.0/16'\nvia='192.0.2.1'"))
    assert one("openbsd", "to='10/8'\ndev='em0'").refused


def test_managers_say_what_to_do_instead() -> None:
    body = "to='10/8'\nvia='fe80::1%eth1'"
    (refused,) = one("netplan", body).refused
    assert "/etc/systemd/network/10-netplan-eth1.network.d/" in refused.remedy
    (refused,) = one("nm", body).refused
    assert "ip route replace 10.0.0.0/8 proto static via inet6 fe80::1 dev eth1" in refused.remedy
    same = "to='2001:db8::/32'\nvia='fe80::1%eth1'"
    assert not one("netplan", same).refused
    assert not one("nm", same).refused


def test_bird_takes_one_route_per_destination_the_best() -> None:
    both = "to='10/8'\nvia='fe80::1%a'\nmetric=9\n[[route]]\nto='10/8'\nvia='fe80::2%b'\nmetric=3"
    rendered = one("bird", both)
    assert [r.route.metric for r in rendered.refused] == [9]
    assert "krt_metric = 3" in text(rendered)
    assert "krt_metric = 9" not in text(rendered)


# --- the verb ------------------------------------------------------------------------------------------------------

GOOD = "[[route]]\nto='10/8'\nvia='fe80::1%eth1'\n[[route]]\nto='10.5/16'\ntype='blackhole'\n"


def test_verb_prints_and_fails_on_refusal(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(GOOD)
    assert via6("render", "iproute2", file)[0] == 0
    code, out, err = via6("render", "netplan", file)
    assert code == 1
    assert f"{file}:1: route[0]: 10.0.0.0/8: netplan cannot store" in err
    assert "# NOT HERE: 10.0.0.0/8" in out
    assert via6("render", "plan9", file)[0] == 2
    code, out, _ = via6("render", "-j", "nm", file)
    assert (code, '"to": "10.0.0.0/8"' in out) == (1, True)


def test_verb_refuses_a_bad_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[[route]]\nto='10.0.0.1/8'\nvia='x'\n")
    code, out, err = via6("render", "iproute2", file)
    assert (code, out) == (1, "")
    assert "host bits" in err
    assert "has 2 mistakes: nothing was done" in err


def test_verb_writes_files_but_no_foreign_ones(tmp_path: Path) -> None:
    file, out = tmp_path / "a.toml", tmp_path / "out"
    file.write_text(GOOD)
    for _ in range(2):  # what via6 wrote, via6 overwrites
        assert via6("render", "systemd-networkd", "-o", out, file)[0] == 0
    assert "Gateway=fe80::1" in (out / "eth1.network.d" / "via6.conf").read_text()
    (out / "90-via6-lo.network").write_text("[Match]\n")
    code, _, err = via6("render", "networkd", "-o", out, file)
    assert code == 1
    assert "was not written by via6" in err
    code, _, err = via6("render", "netplan", "-o", tmp_path / "np", file)
    assert (code, (tmp_path / "np").exists()) == (1, False)
    assert "nothing was written" in err


def test_aliases() -> None:
    assert {SYSTEMS[name] for name in ALIASES.values()} <= set(SYSTEMS.values())
