"""The rendered texts, asked of their targets: loaded by `ip -batch`, by BIRD and by systemd-networkd in a namespace,
each must give the kernel exactly the declared routes, no more, no fewer, no other.

networkd has no checker for its files (systemd-analyze verify reads units alone), so networkd itself runs: in a mount
namespace with its own /run (no bus, no udev) and a read-only /sys, which it takes for a container.
FreeBSD, OpenBSD, netplan and NetworkManager cannot be asked here; their texts are golden texts only.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import support
from via6.config import RouteSpec, parse
from via6.prefix import AF_INET6, format_address
from via6.render import Rendered, render

SAMPLE = support.ROOT / "tests" / "golden" / "render" / "routes.toml"
NETWORKD = "/lib/systemd/systemd-networkd"

pytestmark = pytest.mark.root

Shape = tuple[str, int, int, str, str, int, frozenset[tuple[str, str, int]]]


def declared() -> tuple[RouteSpec, ...]:
    config, problems = parse(SAMPLE.read_bytes(), "routes.toml")
    assert config, problems
    return config.routes


def shape_of(route: RouteSpec) -> Shape:
    """What the kernel should hold."""
    v6 = route.to.family == AF_INET6
    several = len(route.vias) > 1
    hops = frozenset(
        # The kernel finds the device of a next hop that names none: eth1 has the prefix.
        (format_address(v.address) if v.address else "", v.dev or "eth1", v.weight if several else 1)
        for v in route.vias
    )
    text = "default" if not route.to.length else str(route.to)
    if route.to.is_host:
        text = format_address(route.to.packed)
    src = format_address(route.src) if route.src else ""
    return text, route.table, route.metric or (1024 if v6 else 0), route.type, src, route.mtu, hops


def shape_in_kernel(entry: dict[str, Any]) -> Shape:
    """The same of an object of `ip -j -d route`."""

    def hop(of: dict[str, Any]) -> tuple[str, str, int]:
        return of.get("gateway") or of.get("via", {}).get("host", ""), of["dev"], of.get("weight", 1)

    kind = entry.get("type", "unicast")
    # IPv6 hangs routes that drop on lo.
    hops = [] if kind != "unicast" else [hop(each) for each in entry.get("nexthops", [entry])]
    mtu = next((m["mtu"] for m in entry.get("metrics", []) if "mtu" in m), 0)
    table = {"main": 254}.get(entry.get("table", "main")) or int(entry["table"])
    return entry["dst"], table, entry.get("metric", 0), kind, entry.get("prefsrc", ""), mtu, frozenset(hops)


def installed(net: support.Net, protocol: str) -> set[Shape]:
    found = []
    for family in ("-4", "-6"):
        found += net.json(family, "-d", "route", "show", "table", "all", "protocol", protocol)
    return {shape_in_kernel(entry) for entry in found}


def expected(rendered: Rendered) -> set[Shape]:
    refused = [r.route for r in rendered.refused]
    return {shape_of(route) for route in declared() if route not in refused}


def node(nets: support.Nets) -> support.Net:
    net, far = nets.new(), nets.new()
    for dev in ("eth1", "eth2", "eth2.100"):
        nets.veth(net, dev, far, dev)
    net.ip("addr add 2001:db8:1::2/64 dev eth1 nodad")
    net.ip("addr add 192.0.2.2/24 dev eth1")
    net.ip("addr add 10.0.8.42/32 dev lo")
    return net


def write(rendered: Rendered, folder: Path) -> None:
    for file in rendered.files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)


def settled(net: support.Net, protocol: str, rendered: Rendered) -> None:
    want = expected(rendered)
    try:
        support.wait_until(lambda: installed(net, protocol) == want, timeout=20, every=0.2)
    except AssertionError:
        assert installed(net, protocol) == want


def test_iproute2(nets: support.Nets, tmp_path: Path) -> None:
    net = node(nets)
    rendered = render("iproute2", declared())
    assert not rendered.refused
    write(rendered, tmp_path)
    net.ip("-batch", tmp_path / "via6.batch")
    assert installed(net, "static") == expected(rendered)
    again = net.ip("-force", "-batch", tmp_path / "via6.batch", check=False)
    assert "File exists" in again
    assert installed(net, "static") == expected(rendered)


needs_bird = pytest.mark.skipif(not shutil.which("bird"), reason="bird is not installed")


@needs_bird
def test_bird_parses_it(tmp_path: Path) -> None:
    write(render("bird", declared()), tmp_path)
    support.run("bird", "-p", "-c", tmp_path / "via6.conf")


@needs_bird
def test_bird_refuses_rather_than_misreads_a_device_named_like_a_keyword(tmp_path: Path) -> None:
    config, _ = parse(b'[[route]]\nto = "10/8"\nvia = "fe80::1%table"\n', "t")
    assert config
    write(render("bird", config.routes), tmp_path)
    assert support.run("bird", "-p", "-c", tmp_path / "via6.conf", check=False).returncode


@needs_bird
def test_bird(nets: support.Nets, tmp_path: Path) -> None:
    net = node(nets)
    rendered = render("bird", declared())
    assert [str(r.route.to) for r in rendered.refused] == ["10.0.0.0/8"]
    write(rendered, tmp_path)
    config = tmp_path / "bird.conf"
    config.write_text(f'router id 192.0.2.1;\ninclude "{tmp_path}/via6.conf";\n')
    log = (tmp_path / "log").open("w")
    with log:
        net.spawn("bird", "-f", "-c", config, "-s", tmp_path / "ctl", stdout=log)
        settled(net, "bird", rendered)


@pytest.mark.skipif(not Path(NETWORKD).exists(), reason="systemd-networkd is not installed")
def test_networkd(nets: support.Nets, tmp_path: Path) -> None:
    net = node(nets)
    rendered = render("networkd", declared())
    assert [str(r.route.to) for r in rendered.refused] == ["10.4.0.0/16", "10.9.0.0/16"]
    folder = tmp_path / "network"
    folder.mkdir()
    write(rendered, folder)
    addresses = {"eth1": "Address=2001:db8:1::2/64\nAddress=192.0.2.2/24\n"}
    for dev in ("eth1", "eth2", "eth2.100"):
        (folder / f"{dev}.network").write_text(
            f"[Match]\nName={dev}\n\n[Network]\nIPv6AcceptRA=no\n{addresses.get(dev, '')}"
        )
    # networkd drops its privileges before it reads.
    for path in (tmp_path.parent, tmp_path, folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    script = f"""
        set -e
        mount --bind {folder} /etc/systemd/network
        mount -t tmpfs none /run
        mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
        chown -R systemd-network /run/systemd/netif
        mount --bind /sys /sys
        mount -o remount,bind,ro /sys
        exec {NETWORKD}
    """
    log = (tmp_path / "log").open("w")
    with log:
        net.spawn("unshare", "-m", "sh", "-c", script, stdout=log)
        settled(net, "static", rendered)
    # The file for the loopback must not cost the node an address that another hand gave it.
    assert "10.0.8.42" in net.ip("-4 addr show dev lo")
    assert "Ignoring" not in (tmp_path / "log").read_text()
