"""A gateway in a real network: 0.0.0.0/0 while there is an uplink, and nftables as it was when via6 has left."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from host_support import ping, places, speaking
from support import ROOT, Net, Nets, link_local, wait_until
from via6.config_babel import GatewaySpec
from via6.daemon.gateway import Gateway
from via6.errors import Refusal
from via6.kernel.linux import LinuxKernel
from via6.view import View

pytestmark = pytest.mark.root

PARTS = frozenset({"links", "addresses", "routes4", "nexthops"})
FAR = "198.51.100.1"


@pytest.fixture
def gw(nets: Nets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Net, Net]:
    """A gateway with its default route by up0, and the provider."""
    monkeypatch.setenv("VIA6_STATE", str(tmp_path / "state"))
    gateway, isp = nets.new(), nets.new()
    nets.veth(gateway, "up0", isp, "eth0")
    gateway.ip("addr add 192.0.2.2/24 dev up0")
    isp.ip("addr add 192.0.2.1/24 dev eth0")
    isp.ip(f"addr add {FAR}/32 dev lo")
    gateway.ip("route add default via 192.0.2.1")
    return gateway, isp


@contextmanager
def tables(net: Net) -> Iterator[list[str]]:
    said = json.loads(net.run("nft", "-j", "list", "tables").stdout)
    yield [entry["table"]["name"] for entry in said["nftables"] if "table" in entry]


def has_table(net: Net) -> bool:
    with tables(net) as names:
        return "via6" in names


def rules(net: Net) -> str:
    return net.run("nft", "list", "table", "ip", "via6").stdout


def view() -> View:
    with LinuxKernel() as kernel:
        return View(kernel.dump(PARTS))


def test_the_table_follows_the_uplink(gw: tuple[Net, Net]) -> None:
    net, _ = gw
    with net.inside():
        gateway = Gateway(GatewaySpec(masquerade=True))
        try:
            assert gateway.settle(view())
            assert gateway.devices() == {"up0"}
            assert 'oifname "up0"' in rules(net)
            assert "via 192.0.2.1 dev up0" in gateway.events()[0].text

            # The uplink's route goes without a word, with its address: that notification says to look.
            with LinuxKernel() as kernel:
                watch = kernel.watch()
                seen = View(kernel.dump(PARTS))
                net.ip("addr del 192.0.2.2/24 dev up0")
                assert any(gateway.undermined(event, seen) for event in watch.read())
                watch.close()
            assert not gateway.settle(view())
            assert not has_table(net)
            assert "no IPv4 uplink" in gateway.events()[0].text

            # Another uplink, with a name that needs quotes.
            net.ip("link add name up.1 type veth peer name x")
            net.ip("link set up.1 up")
            net.ip("link set x up")
            net.ip("route add default dev up.1")
            assert gateway.settle(view())
            assert 'oifname "up.1"' in rules(net)

            # A firewall loads its rules anew; one that adds a table of its own is no trouble.
            net.run("nft", "add", "table", "ip", "other")
            gateway.disturbed()
            assert gateway.events()[1:] == []
            net.run("nft", "flush", "ruleset")
            assert gateway.fileno() >= 0
            gateway.disturbed()
            assert 'oifname "up.1"' in rules(net)
            assert "it is back" in gateway.events()[-1].text
            net.run("nft", "add", "table", "ip", "other")
            gateway.reload(GatewaySpec(masquerade=False))
            assert gateway.settle(view())
            assert not has_table(net)
        finally:
            gateway.close()
    with tables(net) as names:
        assert names == ["other"]


def test_after_a_kill_the_next_run_tidies_up(gw: tuple[Net, Net]) -> None:
    net, _ = gw
    with net.inside():
        gateway = Gateway(GatewaySpec(masquerade=True))
        assert gateway.settle(view())
        gateway._masquerade._watch.close()  # type: ignore[union-attr]  # as the kernel does for a killed process
        Gateway(None)
    assert not has_table(net)


def test_without_nft(gw: tuple[Net, Net], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net, _ = gw
    monkeypatch.setattr("via6.daemon.gateway._nft", lambda: "")
    with net.inside():
        with pytest.raises(Refusal, match="needs the program nft") as caught:
            Gateway(GatewaySpec(masquerade=True))
        assert "apt install nftables" in caught.value.remedy
        gateway = Gateway(GatewaySpec())
        assert gateway.settle(view())
        gateway.close()


def test_an_nft_that_refuses(gw: tuple[Net, Net], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the translation that is wanted nothing is announced; it is told once."""
    net, _ = gw
    with net.inside():
        gateway = Gateway(GatewaySpec(masquerade=True))
        monkeypatch.setattr("via6.daemon.gateway.ruleset", lambda devices: "nonsense\n")
        assert not gateway.settle(view())
        assert not gateway.settle(view())
        assert [event.kind for event in gateway.events()] == ["gateway-nft"]
        monkeypatch.undo()
        assert gateway.settle(view())
        gateway.close()
    assert not has_table(net)


def test_a_router_behind_the_gateway(gw: tuple[Net, Net], nets: Nets, tmp_path: Path) -> None:
    """The provider knows nothing of 10.0.0.2: only translated packets come back."""
    net, isp = gw
    router = nets.new()
    nets.veth(net, "in0", router, "eth0")
    link_local(net, "in0")
    link_local(router)
    text = '[babel]\ninterfaces = ["in0"]\nhello_interval_ms = 200\n[gateway]\nmasquerade = true\nuplink = "up*"\n'
    (tmp_path / "gw.toml").write_text(text)
    with (
        speaking(router, tmp_path, "up", "eth0", "--address", "10.0.0.2", "--export", "10.0.0.2/32") as _,
        speaking(net, tmp_path, "run", str(tmp_path / "gw.toml")) as daemon,
    ):
        wait_until(lambda: "via inet6" in router.ip("-4 route show default type unicast"), 15, what="a default route")
        assert has_table(net)
        wait_until(lambda: router.call(ping, FAR), 10, what="the world answers")
        # The gateway's own packets keep their source.
        assert net.call(ping, FAR) == 1

        isp.ip("link set eth0 down")
        wait_until(lambda: "via" not in router.ip("-4 route show default type unicast"), 10, what="withdrawn")
        wait_until(lambda: not has_table(net), what="no table")
        isp.ip("link set eth0 up")
        wait_until(lambda: router.call(ping, FAR), 20, what="the world answers again")
        assert daemon.stop() == 0
    assert not has_table(net)


def test_with_the_capabilities_of_the_unit(gw: tuple[Net, Net], nets: Nets, tmp_path: Path) -> None:
    """packaging/via6.service lets it keep two: they suffice for all that a gateway does, and for leaving."""
    net, _ = gw
    router = nets.new()
    nets.veth(net, "in0", router, "eth0")
    link_local(net, "in0")
    link_local(router)
    unit = (ROOT / "packaging/via6.service").read_text()
    (kept,) = re.findall(r"(?m)^CapabilityBoundingSet=(.*)$", unit)
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in kept.split())
    text = (
        '[node]\naddress = "10.0.0.1"\n[babel]\ninterfaces = ["in0"]\nhello_interval_ms = 200\n'
        '[gateway]\nmasquerade = true\n[[host]]\naddress = "10.0.8.42"\ninterface = "in0"\nvia = "fe80::42"\n'
    )
    (tmp_path / "gw.toml").write_text(text)
    words = [
        "setpriv",
        f"--bounding-set=-all,{kept}",
        "--inh-caps=-all",
        "--no-new-privs",
        sys.executable,
        "-m",
        "via6",
    ]
    process = net.spawn(*words, "run", tmp_path / "gw.toml", env={**os.environ, **places(net, tmp_path)})
    try:
        wait_until(lambda: has_table(net), 10, what="the table")
        assert "10.0.0.1/32" in net.ip("addr show dev lo")
        wait_until(lambda: net.run("cat", "/proc/sys/net/ipv4/conf/in0/forwarding").stdout.strip() == "1", 10)
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in said) == (0, False), said
    assert "not permitted" not in said.lower(), said
    assert not has_table(net)
    assert "10.0.0.1" not in net.ip("addr show dev lo")
    assert net.run("cat", "/proc/sys/net/ipv4/conf/in0/forwarding").stdout.strip() == "0"
