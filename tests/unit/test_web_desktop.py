"""Which desktops may be shown: `[[desktop]]` of `via6 web`, and `desktop` of a host in a lab file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import ROOT
from via6.errors import Refusal
from via6.lab import desktop, labfile
from via6.lab.topology import MAX_DESKTOPS, Topology, load
from via6.web.desktop import Desktop
from via6.web.desktop_config import desktops

LAB = """
[router.r1]
lan = "10.1.0.0/24"
[router.r2]
lan = "10.2.0.0/24"
[host.h2]
router = "r2"
desktop = "vnc"
[[link]]
ends = ["r1", "r2"]
"""


RULE = " must be 1 to 40 of A-Z a-z 0-9 - _ ., a letter or digit first"
RDP = "desktop[0].kind: a browser can show VNC alone; an RDP client goes to the machine itself"


def read(text: str) -> tuple[Desktop, ...]:
    return desktops(tomllib.loads(text).get("desktop", []), "web.toml")


def faults(text: str) -> list[str]:
    with pytest.raises(Refusal) as caught:
        read(text)
    return [line.removeprefix("web.toml: ") for line in caught.value.message.split("\n")]


# --- via6 web --------------------------------------------------------------------------------------------------------


def test_desktops_of_a_configuration() -> None:
    assert read(
        """
        [[desktop]]
        name = "accounts"
        host = "10.4.0.20"
        [[desktop]]
        name = "lab-2.old"
        host = "desk.example.org"
        port = 5901
        kind = "vnc"
        node = "r4"
        near = "left"
        [[desktop]]
        name = "six"
        host = "2001:db8::1"
        """
    ) == (
        Desktop("accounts", "10.4.0.20", 5900),
        Desktop("lab-2.old", "desk.example.org", 5901, node="r4", near="left"),
        Desktop("six", "2001:db8::1"),
    )
    assert read("") == ()


def test_what_the_api_tells_of_a_desktop() -> None:
    told = Desktop("a", "10.4.0.20", 5901, node="", near="left").as_json()
    assert told == {"name": "a", "kind": "vnc", "node": None, "path": "/desktops/a"}, "no address and no port"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("desktop = 1", "desktop: write [[desktop]], with two pairs of brackets"),
        ("[desktop]\nname = 'a'", "desktop: write [[desktop]], with two pairs of brackets"),
        ("[[desktop]]\nname = 'a'", "desktop[0]: object missing required field `host`"),
        ("[[desktop]]\nname = 'a'\nhost = 7", "desktop[0].host: expected `str`, got `int`"),
        ("[[desktop]]\nname = 'a'\nhost = 'h'\nport = 0", "desktop[0].port: expected `int` >= 1"),
        ("[[desktop]]\nname = 'a'\nhost = 'h'\nports = [1]", "desktop[0]: object contains unknown field `ports`"),
        ("[[desktop]]\nname = '../x'\nhost = 'h'", "desktop[0].name: '../x'" + RULE),
        ("[[desktop]]\nname = 'a'\nhost = ''", "desktop[0].host: '' is neither an address nor a name"),
        ("[[desktop]]\nname = 'a'\nhost = 'x y'", "desktop[0].host: 'x y' is neither an address nor a name"),
        ("[[desktop]]\nname = 'a'\nhost = 'h'\nkind = 'rdp'", RDP),
        ("[[desktop]]\nname = 'a'\nhost = 'h'\nkind = 'spice'", "desktop[0].kind: unknown kind 'spice'; there is vnc"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(text: str, fault: str) -> None:
    assert faults(text) == [fault]


def test_all_mistakes_at_once() -> None:
    one = "[[desktop]]\nname = 'a'\nhost = 'h'\n"
    assert faults(one + one + "[[desktop]]\nname = ''\nhost = '-'\n") == [
        "desktop[1].name: a is there already",
        "desktop[2].name: ''" + RULE,
        "desktop[2].host: '-' is neither an address nor a name",
    ]
    assert "257 desktops; at most 256" in faults("[[desktop]]\n" * 257)[0]


LEAVES = st.none() | st.integers() | st.text(max_size=9)
KEYS = st.sampled_from(["name", "host", "port", "kind", "x"])


@given(st.recursive(LEAVES, lambda part: st.lists(part, max_size=3) | st.dictionaries(KEYS, part, max_size=5)))
def test_whatever_the_tables_hold(tables: Any) -> None:
    refused = ""
    found: tuple[Desktop, ...] = ()
    try:
        found = desktops(tables, "x")
    except Refusal as refusal:
        refused = refusal.message
    assert not refused or refused.startswith("x: ")
    assert all("/" not in one.name and one.host.isprintable() for one in found)


# --- labs ------------------------------------------------------------------------------------------------------------


def toml(text: str) -> Topology:
    return labfile.parse(text.encode(), "x.toml", "x")


def test_a_desktop_is_looked_at_from_behind_another_router() -> None:
    (one,) = desktop.listing(toml(LAB))
    assert one == desktop.Desktop("h2", "vnc", "10.2.0.10", "r1-h")
    assert one.at() == "vnc 10.2.0.10:5900"
    found = desktop.listing(load(str(ROOT / "examples/labs/desktop.toml")))
    assert [(one.name, one.near, one.at()) for one in found] == [
        ("h3", "h1", "vnc 10.3.0.10:5900, rdp 10.3.0.10:3389"),
        ("h4", "h1", "vnc 10.4.0.10:5900"),
    ]


def test_a_viewer_without_a_desktop_is_preferred() -> None:
    lab = toml(LAB + '[host.h1]\nrouter = "r1"\ndesktop = "rdp"\n[host.h1b]\nrouter = "r1"\n')
    assert [one.near for one in desktop.listing(lab)] == ["h1b", "h2"]


ALONE = "host.h2.desktop: nobody can look at it: there is no host behind another router with a way to it"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (LAB.replace('"vnc"', '"x11"'), "host.h2.desktop: unknown desktop 'x11'; there is vnc, rdp"),
        (LAB.replace('"vnc"', "true"), "host.h2.desktop: expected `str`, got `bool`"),
        (LAB.replace('lan = "10.1.0.0/24"', ""), ALONE),
        (LAB[: LAB.index("[[link]]")], ALONE),
        (LAB + "".join(f'[host.x{n}]\nrouter = "r2"\ndesktop = "vnc"\n' for n in range(MAX_DESKTOPS)),
         "host: 17 desktops; at most 16"),
    ],
)  # fmt: skip
def test_a_desktop_that_cannot_be(text: str, fault: str) -> None:
    with pytest.raises(Refusal) as caught:
        toml(text)
    assert caught.value.message == f"x.toml: {fault}"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(desktop, "_PATH", str(tmp_path))
    desktop.require(load(str(ROOT / "examples/labs/triangle.toml")))
    with pytest.raises(Refusal) as caught:
        desktop.require(load(str(ROOT / "examples/labs/desktop.toml")))
    assert caught.value.message == (
        "a desktop needs Xvnc, jwm, xterm, setpriv, unshare, mount, xrdp and openssl, not found here"
    )
    assert caught.value.remedy == (
        "apt-get install --no-install-recommends jwm mount openssl tigervnc-standalone-server util-linux xrdp xterm"
    )
