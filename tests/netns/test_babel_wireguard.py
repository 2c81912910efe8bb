"""Babel over WireGuard (wireguard-go where the kernel has none): the lines that via6 prints make it work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from host_support import neighbours, ping, speaking
from support import Net, Nets, run, wait_until
from via6.collect.wireguard import babel_findings
from via6.kernel.linux import LinuxKernel
from via6.model import Link
from via6.observe.wg_babel import Finding

pytestmark = pytest.mark.root
_numbers = count(1)


def make(net: Net, name: str) -> None:
    """A WireGuard device, with the key in `private`."""
    if "Error" in net.ip("link add", name, "type wireguard", check=False):
        env = {k: v for k, v in os.environ.items() if k not in ("WG_PROCESS_FOREGROUND", "LOG_LEVEL")}
        net.run("wireguard-go", name, env=env)


def key(net: Net, name: str) -> str:
    private = run("wg", "genkey").stdout
    net.run("wg", "set", name, "private-key", "/dev/stdin", "listen-port", "51820", input=private)
    return run("wg", "pubkey", input=private).stdout.strip()


@pytest.fixture
def ends(nets: Nets) -> Iterator[tuple[tuple[Net, str], tuple[Net, str]]]:
    """Two nodes, joined by IPv6 alone, with a device each that knows the other one's IPv6 address and nothing else."""
    a, b = nets.pair()
    number = next(_numbers)
    names = [f"wga{os.getpid()}-{number}"[:15], f"wgb{os.getpid()}-{number}"[:15]]
    both = tuple(zip((a, b), names, strict=True))
    try:
        keys = []
        for index, (net, name) in enumerate(both, 1):
            net.ip(f"addr add 2001:db8::{index}/64 dev eth0 nodad")
            make(net, name)
            keys.append(key(net, name))
            net.ip(f"addr add 2001:db8:1::{index}/64 dev {name} nodad")
        for index, (net, name) in enumerate(both, 1):
            peer = ["peer", keys[2 - index], "endpoint", f"[2001:db8::{3 - index}]:51820"]
            net.run("wg", "set", name, *peer, "allowed-ips", f"2001:db8:1::{3 - index}/128")
            net.ip(f"link set {name} up")
            net.ip(f"-6 addr flush dev {name} scope link")
        yield both  # type: ignore[misc]
    finally:
        for net, name in both:
            net.ip(f"link del {name}", check=False)
        wait_until(lambda: not any(Path(f"/var/run/wireguard/{name}.sock").exists() for name in names))


def findings(net: Net, name: str) -> tuple[tuple[Finding, ...], str]:
    with net.inside():
        with LinuxKernel() as kernel:
            node = kernel.dump(frozenset({"links", "addresses"}))
        return babel_findings(node.by_name[name], node.addresses)


def test_the_lines_make_it_work(ends: tuple[tuple[Net, str], tuple[Net, str]], tmp_path: Path) -> None:
    (a, wg_a), (b, wg_b) = ends
    quick = ("--hello-interval", "200")
    with (
        speaking(a, tmp_path, "up", wg_a, "--address", "10.0.0.1", "--export", "10.0.0.1/32", *quick),
        speaking(b, tmp_path, "up", wg_b, "--address", "10.0.0.2", "--export", "10.0.0.2/32", *quick),
    ):
        for net, name in ends:
            found, problem = findings(net, name)
            assert ([f.kind for f in found], problem) == (["no-link-local", "babel-dropped", "traffic-dropped"], "")
        assert neighbours(a, tmp_path).count("fe80::") == 0
        for net, name in ends:
            for finding in findings(net, name)[0]:
                for line in finding.lines:
                    net.run("sh", "-c", line)
            assert findings(net, name) == ((), "")
        wait_until(lambda: "10.0.0.2" in a.ip("-4 route show type unicast"), 15, what="the route")
        wait_until(lambda: a.call(ping, "10.0.0.2"), 10, what="an answer")


def test_a_second_peer_is_found(ends: tuple[tuple[Net, str], tuple[Net, str]]) -> None:
    (a, name), _ = ends
    second = run("wg", "pubkey", input=run("wg", "genkey").stdout).stdout.strip()
    a.run("wg", "set", name, "peer", second, "allowed-ips", "10.9.9.9/32")
    found, _ = findings(a, name)
    assert [f.kind for f in found] == ["many-peers", "no-link-local"]


def test_what_is_no_wireguard_and_what_cannot_be_asked(nets: Nets) -> None:
    net, _ = nets.pair()
    assert findings(net, "eth0") == ((), "")
    with net.inside():
        found, problem = babel_findings(Link(9, "wg-gone", kind="wireguard"), ())
    assert (found, "could not be checked" in problem) == ((), True)
