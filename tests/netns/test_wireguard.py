"""The network that via6 grew from (examples/wireguard): an IPv4 route by an IPv6 next hop, through WireGuard and on a
plain link, with pings over it; and the `wg set` line that `via6 route add` prints does what it promises."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from support import PREFIX, ROOT, Net, Nets, remove, run, via6, wait_until
from via6.collect.probe import Ping, ping_many
from via6.config import ViaSpec, parse
from via6.prefix import format_address, parse_address, parse_prefix

HERE = ROOT / "examples/wireguard"
SEED = HERE / "seed.sh"
NEXT_HOP = "2a0a:e5c1:137::22"
DIAMOND, SERVER, HOST = "192.0.2.10", "10.1.2.3", "10.0.8.42"

root = pytest.mark.root
_numbers = count(1)


def ping(source: Net, target: str, timeout_s: float) -> Ping:
    def send() -> Ping:
        return ping_many([parse_address(target)], timeout_s=timeout_s)[0]

    return source.call(send)  # type: ignore[no-any-return]


def no_answer(source: Net, target: str) -> None:
    assert ping(source, target, 0.3).received == 0


def answer(source: Net, target: str) -> None:
    found = ping(source, target, 5)
    assert found.received == 1, f"{source} -> {target}: {found.why}"


class Seed:
    """One such network with names of its own: wireguard-go's sockets lie in one folder for all network namespaces."""

    def __init__(self, **env: str) -> None:
        number = next(_numbers)
        self.wg, self.wg_router = f"wgu{os.getpid()}-{number}", f"wgr{os.getpid()}-{number}"
        names = f"{PREFIX}seed{number}-"
        self.env = {
            **os.environ,
            "SEED_NS": names,
            "SEED_WG": self.wg,
            "SEED_WG_ROUTER": self.wg_router,
            "VIA6": f"{sys.executable} -m via6",
            **env,
        }
        self.nodes = [Net(names + node) for node in ("diamond", "isp", "router", "server", "host")]
        self.diamond, self.isp, self.router, self.server, self.host = self.nodes

    def script(self, verb: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(SEED, verb, check=check, env=self.env)

    def close(self) -> None:
        try:
            self.script("down")
            assert self.left() == []
        finally:
            for node in self.nodes:
                remove(node)

    def left(self) -> list[str]:
        """Namespaces and sockets that are there."""
        sockets = [Path(f"/var/run/wireguard/{name}.sock") for name in (self.wg, self.wg_router)]
        return [str(path) for path in (*(n.path for n in self.nodes), *sockets) if path.exists()]

    def ways_back(self) -> None:
        for words in (f"{DIAMOND}/32 via 2a0a:e5c1:137::42", f"{HOST}/32 via fe80::42 dev host"):
            assert via6(f"route add {words}", netns=self.router) == (0, "", "")
        default = "route add 0/0 via fe80::1 dev eth0"
        assert via6(f"{default} src {HOST}", netns=self.host) == (0, "", "")


def made(seed: Seed) -> Iterator[Seed]:
    try:
        seed.script("up")
        yield seed
    finally:
        seed.close()


@pytest.fixture
def seed() -> Iterator[Seed]:
    yield from made(Seed())


def four(node: Net) -> list[str]:
    return [line.strip() for line in node.ip("-4 route").splitlines()]


def six(node: Net) -> str:
    """The whole IPv6 table, as soon as no address is in doubt: it grows when DAD ends."""
    wait_until(lambda: "tentative" not in node.ip("-6 address"), what="DAD ends")
    return node.ip("-6 route show table all")


def wg_set_line(seed: Seed, err: str) -> str:
    """The line that a reader would copy."""
    lines = [line.strip() for line in err.splitlines() if line.strip().startswith("wg set ")]
    assert len(lines) == 1, err
    key = r"[A-Za-z0-9+/]{43}="
    assert re.fullmatch(rf"wg set {seed.wg} peer {key} allowed-ips 2a0a:e5c1:137::/48,10\.0\.0\.0/8", lines[0])
    assert f"Type in the network namespace {seed.diamond}\n" in err
    return lines[0]


@root
def test_the_seed(seed: Seed) -> None:
    before_four, before_six = four(seed.diamond), six(seed.diamond)
    assert before_four[0] == "default via 192.0.2.1 dev eth0"
    code, out, err = via6(f"route add 10.0.0.0/8 via {NEXT_HOP}", netns=seed.diamond)
    assert (code, out) == (0, "")
    route = f"10.0.0.0/8 via inet6 {NEXT_HOP} dev {seed.wg}"
    assert sorted(four(seed.diamond)) == sorted([*before_four, f"{route} proto static"])
    assert six(seed.diamond) == before_six
    code, out, _ = via6("route 10.1.2.3", netns=seed.diamond)
    assert (code, out) == (0, f"{route} proto static\n")

    seed.ways_back()
    assert f"default via inet6 fe80::1 dev eth0 proto static src {HOST}" in four(seed.host)
    assert f"{HOST} via inet6 fe80::42 dev host proto static" in four(seed.router)
    assert f"{DIAMOND} via inet6 2a0a:e5c1:137::42 dev {seed.wg_router} proto static" in four(seed.router)
    # The plain link needs no WireGuard.
    answer(seed.host, SERVER)
    answer(seed.server, HOST)

    # WireGuard does not let it out: what was warned of is so, and the very line that was printed mends it.
    no_answer(seed.diamond, SERVER)
    no_answer(seed.diamond, HOST)
    seed.diamond.run(wg_set_line(seed, err))
    answer(seed.diamond, SERVER)
    answer(seed.diamond, HOST)
    answer(seed.host, DIAMOND)
    answer(seed.server, DIAMOND)
    assert via6(f"route replace 10.0.0.0/8 via {NEXT_HOP}", netns=seed.diamond) == (0, "", "")


@root
def test_default_route_without_a_source(seed: Seed) -> None:
    """The host's one IPv4 address is taken without `src`, too."""
    code, _, err = via6("route add 0/0 via fe80::1 dev eth0", netns=seed.host)
    assert (code, err) == (0, "")
    assert four(seed.host) == ["default via inet6 fe80::1 dev eth0 proto static"]
    no_answer(seed.host, SERVER)
    assert via6(f"route add {HOST}/32 via fe80::42 dev host", netns=seed.router) == (0, "", "")
    answer(seed.host, SERVER)


@root
def test_the_script_types_the_commands(seed: Seed) -> None:
    done = seed.script("routes")
    seed.diamond.run(wg_set_line(seed, done.stderr))
    answer(seed.diamond, HOST)
    answer(seed.host, DIAMOND)
    shown = seed.script("show").stdout
    assert f"10.0.0.0/8 via inet6 {NEXT_HOP} dev {seed.wg} proto static" in shown
    assert "\t2a0a:e5c1:137::/48 10.0.0.0/8\n" in shown


@root
def test_declared_and_applied(seed: Seed, tmp_path: Path) -> None:
    before_four, before_six = four(seed.diamond), six(seed.diamond)
    seed.ways_back()
    state = {"VIA6_STATE": str(tmp_path)}
    code, out, err = via6("apply", HERE / "diamond.toml", netns=seed.diamond, env=state)
    assert (code, err) == (0, ""), out + err
    (entry,) = seed.diamond.json("-4 route show proto 46")
    assert (entry["dst"], entry["via"]["host"], entry["dev"]) == ("10.0.0.0/8", NEXT_HOP, seed.wg)
    assert six(seed.diamond) == before_six
    peer = seed.diamond.run("wg", "show", seed.wg, "peers").stdout.strip()
    seed.diamond.run("wg", "set", seed.wg, "peer", peer, "allowed-ips", "2a0a:e5c1:137::/48,10.0.0.0/8")
    answer(seed.diamond, HOST)
    answer(seed.host, DIAMOND)
    assert via6("undo", netns=seed.diamond, env=state)[0] == 0
    assert four(seed.diamond) == before_four


@root
def test_half_a_network_does_not_stay() -> None:
    """The last device cannot be made: what was made before, wireguard-go of the router included, goes again."""
    seed = Seed(SEED_WG="a-name-that-is-too-long")
    try:
        done = seed.script("up", check=False)
        assert (done.returncode, "wireguard-go does not start: " in done.stderr) == (1, True), done.stderr
        assert seed.left() == []
    finally:
        seed.close()


@root
def test_down_after_wireguard_was_killed(seed: Seed) -> None:
    if not seed.diamond.pids():
        return  # the kernel's own WireGuard has no process to kill
    for pid in (*seed.diamond.pids(), *seed.router.pids()):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not seed.diamond.pids() and not seed.router.pids(), what="wireguard-go ends")
    seed.script("down")
    assert seed.left() == []


@root
def test_what_others_made_stays(nets: Nets) -> None:
    """A namespace that has the name of one of ours, but not our mark."""
    other = nets.new()
    seed = Seed(SEED_NS=f"{other}-")
    name = Net(f"{other}-diamond")
    try:
        run("ip", "netns", "add", name)
        done = seed.script("up", check=False)
        assert (done.returncode, f"there is a namespace {name} already" in done.stderr) == (1, True)
        seed.script("down")
        assert name.path.exists()
    finally:
        remove(name)


def test_the_example_is_what_route_add_takes() -> None:
    config, problems = parse((HERE / "diamond.toml").read_bytes(), "diamond.toml")
    assert (problems, config is not None) == ([], True), problems
    assert config is not None
    (route,) = config.routes
    assert (route.to, route.vias) == (parse_prefix("10.0.0.0/8"), (ViaSpec(parse_address(NEXT_HOP)),))
    assert format_address(parse_address(NEXT_HOP)) == NEXT_HOP


def test_an_unknown_word_is_refused() -> None:
    done = run(SEED, "away", check=False)
    assert (done.returncode, done.stderr) == (1, "seed.sh: up, routes, show or down?\n")
