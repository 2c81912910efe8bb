"""`via6 doctor` on WireGuard (wireguard-go where the kernel has none): AllowedIPs, Babel, a peer that is silent."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from doctor_support import batch, look, reaches, roots, told, type_in, via6_doctor
from support import Net, Nets, run, via6, wait_until

pytestmark = pytest.mark.root


@dataclass(frozen=True)
class End:
    """A node, its WireGuard device, and the key of its peer."""

    net: Net
    device: str
    peer: str


@pytest.fixture
def ends(nets: Nets) -> Iterator[tuple[End, End]]:
    """Two nodes, with a route each into a WireGuard device to the other one."""
    a, b = nets.pair()
    batch(a, "addr add 2001:db8::1/64 dev eth0 nodad", "addr add 10.1.0.1/32 dev lo")
    batch(b, "addr add 2001:db8::2/64 dev eth0 nodad", "addr add 10.3.0.1/32 dev lo")
    names = [f"dw{side}{os.getpid()}" for side in "ab"]
    env = {name: value for name, value in os.environ.items() if name != "WG_PROCESS_FOREGROUND"}
    public = []
    for net, name, own in ((a, names[0], "fe80::a"), (b, names[1], "fe80::b")):
        net.run("wireguard-go", name, env=env)
        key = run("wg", "genkey").stdout
        public.append(run("wg", "pubkey", input=key).stdout.strip())
        net.run("wg", "set", name, "listen-port", "51820", "private-key", "/dev/stdin", input=key)
        batch(net, f"link set {name} up", f"addr add {own}/64 dev {name} nodad")
    for net, name, key, end, allowed in (
        (a, names[0], public[1], "[2001:db8::2]:51820", "fe80::b/128,10.3.0.0/24"),
        (b, names[1], public[0], "[2001:db8::1]:51820", "fe80::a/128,10.1.0.0/24"),
    ):
        net.run("wg", "set", name, "peer", key, "endpoint", end, "allowed-ips", allowed)
    batch(a, f"route add 10.3.0.0/24 via inet6 fe80::b dev {names[0]}")
    batch(b, f"route add 10.1.0.0/24 via inet6 fe80::a dev {names[1]}")
    yield End(a, names[0], public[1]), End(b, names[1], public[0])
    for net, name in ((a, names[0]), (b, names[1])):
        net.ip("link del", name)
        socket = Path(f"/var/run/wireguard/{name}.sock")
        wait_until(lambda socket=socket: not socket.exists(), what="wireguard-go ends")  # type: ignore[misc]


@pytest.fixture
def tunnel(ends: tuple[End, End]) -> tuple[Net, str, str]:
    """(a node with a route to 10.3.0.1 into a WireGuard device, its device, the key of its peer)."""
    return ends[0].net, ends[0].device, ends[0].peer


def test_allowed_ips(tunnel: tuple[Net, str, str], tmp_path: Path) -> None:
    a, device, peer = tunnel
    assert reaches(a, "10.3.0.1")
    assert told(look(a)) == []
    a.run("wg", "set", device, "peer", peer, "allowed-ips", "fe80::b/128")
    assert not reaches(a, "10.3.0.1")
    found = look(a)
    assert roots(found) == {"allowed-ips-gap"}, told(found)
    assert via6_doctor(a, tmp_path, "--fix", "--yes")[0] == 0
    assert reaches(a, "10.3.0.1")
    assert told(look(a)) == []
    code, out, err = via6_doctor(a, tmp_path, "--undo")
    assert (code, err) == (0, "")
    assert out.startswith("back: wg set ")
    [again] = look(a)
    type_in(a, again)
    assert told(look(a)) == []
    assert via6_doctor(a, tmp_path, "--fix", "--yes") == (0, "nothing is wrong\n", "")


def test_another_hand_on_the_peer_is_left_alone(tunnel: tuple[Net, str, str], tmp_path: Path) -> None:
    a, device, peer = tunnel
    a.run("wg", "set", device, "peer", peer, "allowed-ips", "fe80::b/128")
    assert via6_doctor(a, tmp_path, "--fix", "--yes")[0] == 0
    a.run("wg", "set", device, "peer", peer, "allowed-ips", "fe80::b/128,10.0.0.0/8")
    code, out, err = via6_doctor(a, tmp_path, "--undo")
    assert (code, out) == (0, "")
    assert "left alone: wg show" in err
    assert "10.0.0.0/8" in a.run("wg", "show", device, "allowed-ips").stdout


def test_a_peer_that_does_not_answer(ends: tuple[End, End]) -> None:
    """The endpoint is wrong: packets go out, and there never is a handshake."""
    (here, _) = ends
    allowed = here.net.run("wg", "show", here.device, "allowed-ips").stdout.split("\t")[1].strip().replace(" ", ",")

    def peer(endpoint: str) -> None:
        here.net.run("wg", "set", here.device, "peer", here.peer, "remove")
        here.net.run("wg", "set", here.device, "peer", here.peer, "endpoint", endpoint, "allowed-ips", allowed)

    assert told(look(here.net)) == []
    peer("[2001:db8::2]:51821")
    [found] = look(here.net)
    assert (found.code, found.places) == ("wireguard-silent", (("node", here.device),))
    assert "never" in found.title
    peer("[2001:db8::2]:51820")
    assert told(look(here.net)) == []


def test_babel_over_wireguard(ends: tuple[End, End], tmp_path: Path) -> None:
    here, there = ends
    places = {
        end: {"VIA6_STATE": str(tmp_path / end.device), "VIA6_SOCKET": str(tmp_path / f"s{end.device}")} for end in ends
    }

    def codes(end: End, *words: str) -> list[tuple[str, str]]:
        code, out, err = via6("doctor", "-j", *words, netns=end.net, env=places[end])
        assert code in (0, 3), err
        return [(one["code"], one["subject"]) for one in json.loads(out) if not one["depends_on"]]

    for end in ends:
        end.net.ip("route flush proto boot")
        end.net.run("wg", "set", end.device, "peer", end.peer, "allowed-ips", "0.0.0.0/0,::/0")
        end.net.spawn(
            sys.executable, "-m", "via6", "up", end.device, "--export", "connected", "--hello-interval", "200",
            env={**os.environ, **places[end]},
        )  # fmt: skip
    wait_until(lambda: "10.3.0.1" in here.net.ip("route show proto 46"), 20, what="a route")
    wait_until(lambda: "10.1.0.1" in there.net.ip("route show proto 46"), 20, what="a route")
    assert (codes(here), codes(there), codes(here, "--to", "10.3.0.1")) == ([], [], [])
    # With routes and without: what the device drops is named.
    here.net.run("wg", "set", here.device, "peer", here.peer, "allowed-ips", "10.9.0.0/16")
    assert codes(here) == [("allowed-ips-gap", f"{here.device} Babel")]
    wait_until(lambda: "10.3.0.1" not in here.net.ip("route show type unicast"), 20, what="the route goes")
    assert codes(here) == [("allowed-ips-gap", f"{here.device} Babel")]
    assert via6("doctor --fix --yes", netns=here.net, env=places[here])[0] == 0
    wait_until(lambda: "10.3.0.1" in here.net.ip("route show proto 46"), 20, what="the route comes back")
    wait_until(lambda: (codes(here), codes(there)) == ([], []), 20, what="all is well")
    there.net.run("wg", "set", there.device, "peer", there.peer, "remove")
    assert ("wireguard-peers", f"{there.device} Babel") in codes(there)
