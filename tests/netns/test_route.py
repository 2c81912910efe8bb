"""`via6 route` against Linux, with iproute2 as the oracle; completion; what may be imported at start."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Net, Nets, link_local, run, via6, wait_until

root = pytest.mark.root


@pytest.fixture
def node(nets: Nets) -> Net:
    """A namespace with eth0 (2001:db8::1/64, 192.0.2.1/24) and eth1, and a gateway for 2001:db8:9::/48."""
    here, there = nets.new(), nets.new()
    nets.veth(here, "eth0", there, "eth0")
    nets.veth(here, "eth1", there, "eth1")
    here.ip("addr add 2001:db8::1/64 dev eth0 nodad")
    here.ip("addr add 192.0.2.1/24 dev eth0")
    link_local(here, "eth0")
    link_local(here, "eth1")
    here.ip("-6 route add 2001:db8:9::/48 via fe80::77 dev eth0")
    return here


def good(node: Net, words: str) -> str:
    code, out, err = via6(f"route {words}", netns=node)
    assert (code, err) == (0, ""), err
    return out


def refused(node: Net, words: str, code: int = 1) -> str:
    got, out, err = via6(f"route {words}", netns=node)
    assert (got, out) == (code, ""), (got, out, err)
    assert err.startswith("via6: ")
    assert "Traceback" not in err
    return err


def added(node: Net, family: str = "-4") -> list[str]:
    """What `ip` shows of protocol static, one line per route."""
    return [" ".join(line.split()) for line in node.ip(f"{family} -o route show proto static").splitlines()]


# --- add, replace, del ---------------------------------------------------------------------------------------------


@root
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("10.0.0.0/8 via fe80::22 dev eth0", "10.0.0.0/8 via inet6 fe80::22 dev eth0"),
        ("10/8 via fe80::22%eth1", "10.0.0.0/8 via inet6 fe80::22 dev eth1"),
        ("10/8 via inet6 2001:db8::22", "10.0.0.0/8 via inet6 2001:db8::22 dev eth0"),
        ("10/8 via 192.0.2.9", "10.0.0.0/8 via 192.0.2.9 dev eth0"),
        ("0/0 via fe80::22 dev eth0 src 192.0.2.1", "default via inet6 fe80::22 dev eth0 src 192.0.2.1"),
        ("10/8 dev eth1", "10.0.0.0/8 dev eth1 scope link"),
        ("10/8 via fe80::22 dev eth0 metric 7 mtu 1400", "10.0.0.0/8 via inet6 fe80::22 dev eth0 metric 7 mtu 1400"),
        ("blackhole 10/8", "blackhole 10.0.0.0/8"),
        ("unreachable 10/8 metric 9", "unreachable 10.0.0.0/8 metric 9"),
        ("prohibit 10/8", "prohibit 10.0.0.0/8"),
        ("10/8 via 2001:dead::1 dev eth0 onlink", "10.0.0.0/8 via inet6 2001:dead::1 dev eth0 onlink"),
        (
            "10/8 via fe80::1 dev eth0 weight 2 via 192.0.2.9 weight 3",
            r"10.0.0.0/8 \ nexthop via inet6 fe80::1 dev eth0 weight 2 \ nexthop via 192.0.2.9 dev eth0 weight 3",
        ),
    ],
)
def test_add_installs_what_ip_shows(node: Net, words: str, shown: str) -> None:
    six = node.ip("-6 route")
    assert good(node, f"add {words}") == ""
    assert added(node) == [shown]
    assert node.ip("-6 route") == six
    assert "nhid" not in node.ip("route")
    good(node, f"replace {words}")
    assert added(node) == [shown]
    good(node, f"del {words}")
    assert added(node) == []


@root
def test_the_other_family_and_other_tables(node: Net) -> None:
    good(node, "add 2001:db8:7::/48 via fe80::22 dev eth0")
    assert added(node, "-6") == ["2001:db8:7::/48 via fe80::22 dev eth0 metric 1024 pref medium"]
    good(node, "add 10/8 via fe80::22 dev eth0 table 1234")
    assert "10.0.0.0/8 via inet6 fe80::22" in node.ip("route show table 1234")
    assert "table 1234" in good(node, "show table all")
    assert "10.0.0.0/8" in good(node, "show table 1234")
    good(node, "del 10/8 table 1234")


@root
@pytest.mark.parametrize(
    "words",
    [
        "0/0 via fe80::22 dev eth0 src 192.0.2.1",
        "10/8 via fe80::1 dev eth0 weight 2 via 192.0.2.9 metric 5",
        "blackhole 10/8 table 99",
        "10/8 via 2001:db8::5 mtu lock 1400 advmss 1300",
        "::/0 via fe80::1 dev eth0",
        "10/8 dev eth1",
    ],
)
def test_verbose_prints_an_ip_command_that_does_the_same(node: Net, words: str) -> None:
    command = good(node, f"add {words} -v").split()
    table = "99" if "table" in words else "main"
    family = "-6" if "::/0" in words else "-4"
    ours = node.ip(f"{family} route show table {table}")
    good(node, f"del {words}")
    assert command[0] == "ip"
    node.ip(*command[1:])
    assert node.ip(f"{family} route show table {table}") == ours


@root
@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        ("add 10.1.2.3/8 via fe80::1 dev eth0", "has host bits set: write 10.0.0.0/8", 2),
        ("add 10/8 via fe80::1 dev eth7", "there is no device 'eth7' here\n  devices: eth", 1),
        ("add 10/8 via fe80::1", "is link-local", 2),
        ("add 10/8 via ::ffff:192.0.2.9", "IPv4-mapped", 2),
        ("add 2001:db8:5::/48 via 192.0.2.9", "cannot have an IPv4 next hop", 2),
        ("add default via fe80::1 dev eth0", "either family", 2),
        ("add 10/8 via 2001:db8::1", "is this node itself", 1),
        ("add 10/8 via 192.0.2.1", "is this node itself", 1),
        ("add 10/8 via 2001:db8:9::5", "via6 route add 10.0.0.0/8 via fe80::77 dev eth0", 1),
        ("add 10/8 via 2001:db8:9::5", "only `via6 run`", 1),
        ("add 10/8 via 2001:dead::5", "cannot be reached: Network is unreachable", 1),
        ("add 10/8 via 2001:dead::5 onlink", "on which?", 2),
        ("add 10/8 via fe80::1 dev eth0 src 198.51.100.1", "Invalid prefsrc address\n  src must be", 1),
        ("add 192.0.2.0/24 dev eth0 scope link src 192.0.2.1 proto kernel", "File exists", 1),
        ("del 10/8", "No such process (ESRCH)\n  `via6 route` shows", 1),
        ("flush table main", "does not know 'flush'", 2),
        ("show 10.0.0.1/8", "host bits", 2),
        ("show 10.0.0.0/8 11.0.0.0/8", "is not understood", 2),
        ("show table", "lacks its value", 2),
        ("show table nosuch", "there is no table", 2),
        ("show proto nosuch", "there is no protocol", 2),
        ("show type nosuch", "there is no route type", 2),
        ("show dev nosuch", "there is no device", 1),
        ("10.77.7.7", "no route to 10.77.7.7 in table main", 1),
        ("-batch /nonexistent", "/nonexistent: No such file", 1),
        ("-batch /", "is a folder", 1),
        ("-batch x show", "takes no other words", 2),
    ],
)
def test_refusals(node: Net, words: str, said: str, code: int) -> None:
    before = node.ip("route show table all")
    assert said in refused(node, words, code)
    assert node.ip("route show table all") == before


@root
def test_a_device_that_is_down(node: Net) -> None:
    node.ip("link set eth1 down")
    err = refused(node, "add 10/8 via fe80::1 dev eth1")
    assert "eth1 is down: ip link set dev eth1 up" in err


@root
def test_a_namespace_that_is_missing_and_a_privilege_that_is_missing(node: Net) -> None:
    code, _, err = via6("route", netns="v6t-nosuch")
    assert (code, "there is no network namespace 'v6t-nosuch'" in err) == (1, True)
    words = ["-m", "via6", "route", "add", "10/8", "via", "fe80::1", "dev", "eth0"]
    drop = ["setpriv", "--inh-caps", "-net_admin", "--bounding-set", "-net_admin"]
    done = node.run(*drop, sys.executable, *words, check=False)
    assert done.returncode == 1
    assert "run it as root, or with CAP_NET_ADMIN" in done.stderr
    assert added(node) == []


@root
def test_what_the_daemon_holds_is_left_alone(node: Net) -> None:
    node.ip("route add 10.0.0.0/8 via inet6 fe80::1 dev eth0 proto 46")
    before = node.ip("route")
    for words in ("del 10/8", "replace 10/8 via fe80::2 dev eth0", "del 10/8 via fe80::1 dev eth0"):
        err = refused(node, words)
        assert "10.0.0.0/8 is held by via6 itself" in err
        assert "proto via6" in err
    assert node.ip("route") == before
    good(node, "add 10/8 via fe80::2 dev eth0 metric 5")
    good(node, "replace 10/8 via fe80::3 dev eth0 metric 5")
    good(node, "del 10/8 metric 5")
    assert node.ip("route") == before
    good(node, "del 10/8 proto via6")
    assert "10.0.0.0/8" not in node.ip("route")


# --- show ----------------------------------------------------------------------------------------------------------

VARIED = """
route add 10.0.0.0/8 via inet6 fe80::22 dev eth0 proto static
route add 10.0.0.0/8 via 192.0.2.9 metric 50
route add 10.1.0.0/16 via inet6 2001:db8::9 dev eth0 src 192.0.2.1 mtu lock 1400 advmss 1300
route add 10.2.0.0/16 proto bird nexthop via inet6 fe80::1 dev eth0 weight 2 nexthop via 192.0.2.7 dev eth0
route add 10.2.0.0/32 dev eth1 tos 4
route add blackhole 10.3.0.0/16 metric 3
route add unreachable 10.4.0.0/16 proto 46
route add 10.5.0.0/16 via inet6 fe80::5 dev eth1 onlink
route add 10.6.0.0/16 via inet6 fe80::5 dev eth1 table 100
route add 2001:db8:5::/48 via fe80::5 dev eth1 metric 10
route add blackhole 2001:db8:6::/48
"""


def varied(node: Net) -> None:
    node.run("ip", "-batch", "-", input=VARIED)


@root
def test_text_pastes_back_into_ip(node: Net, nets: Nets) -> None:
    varied(node)
    good(node, "add 0/0 via fe80::1 dev eth1 src 192.0.2.1")
    before = node.ip("-4 -N route"), node.ip("-6 -N route")
    for line in good(node, "show").splitlines():
        if "proto kernel" in line:
            continue
        # As a user pastes it, by its words alone: the family must be told by the line.
        words = line.split()
        node.ip("-6" if ":" in words[0] + words[1] else "-4", "route", "del", *words)
        if words[0] == "0.0.0.0/0":
            words.remove("src"), words.remove("192.0.2.1")  # iproute2 6.1 reads it in the next hop's family
            node.ip("route", "add", *words)
            node.ip("-4", "route", "replace", *words, "src", "192.0.2.1")
            continue
        node.ip(*(["-4"] if "src" in words else []), "route", "add", *words)
    assert (node.ip("-4 -N route"), node.ip("-6 -N route")) == before


def of_both(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    both = ours.keys() & theirs.keys()
    assert {k: ours[k] for k in both} == {k: theirs[k] for k in both}
    assert theirs.keys() <= ours.keys()


@root
@pytest.mark.parametrize("compat", [0, 1])
def test_json_has_the_keys_and_values_of_ip(node: Net, compat: int) -> None:
    node.sysctl("net.ipv4.nexthop_compat_mode", compat)
    varied(node)
    node.ip("nexthop add id 7 via fe80::7 dev eth1")
    node.ip("nexthop add id 8 via fe80::8 dev eth0")
    node.ip("nexthop add id 9 group 7,3/8")
    node.ip("route add 10.7.0.0/16 nhid 7")
    node.ip("route add 10.9.0.0/16 nhid 9")
    for family, table in (("-4", "main"), ("-6", "main"), ("-4", "100")):
        ours = json.loads(good(node, f"{family} show table {table} -j"))
        theirs = node.json(f"{family} route show table {table}")
        order = {"-4": lambda r: 0, "-6": lambda r: (r["dst"], r.get("dev", ""))}[family]
        ours, theirs = sorted(ours, key=order), sorted(theirs, key=order)
        assert len(ours) == len(theirs) > 0
        for one, other in zip(ours, theirs, strict=True):
            of_both(one, other)
    # What ip does not show with nexthop_compat_mode=0, we show.
    assert "10.7.0.0/16 via inet6 fe80::7 dev eth1" in good(node, "10.7.0.0/16")
    assert "nexthop via inet6 fe80::8 dev eth0 weight 1" in good(node, "10.9.1.1")


@root
def test_detailed_ip_agrees_on_what_we_always_say(node: Net) -> None:
    varied(node)
    for one, other in zip(json.loads(good(node, "-4 -j")), node.json("-4 -d route"), strict=True):
        other.pop("nh_info", None)
        of_both(one, other)


@root
def test_selections(node: Net) -> None:
    varied(node)
    assert good(node, "10.1.2.3").startswith("10.1.0.0/16 via inet6 2001:db8::9 dev eth0")
    assert len(good(node, "10.200.2.3").splitlines()) == 2
    assert good(node, "10.5.0.0/16") == "10.5.0.0/16 via inet6 fe80::5 dev eth1 onlink\n"
    assert len(good(node, "show root 10.0.0.0/8").splitlines()) == 8
    assert len(good(node, "match 10.1.2.0/24").splitlines()) == 3
    assert good(node, "dev eth1 type unicast -4").splitlines() == [
        "10.2.0.0 tos 0x04 dev eth1 scope link",
        "10.5.0.0/16 via inet6 fe80::5 dev eth1 onlink",
    ]
    assert good(node, "proto bird").startswith("10.2.0.0/16 proto bird nexthop via inet6")
    assert [line.split() for line in good(node, "-br proto static").splitlines()] == [
        ["10.0.0.0/8", "fe80::22", "eth0"]
    ]
    assert good(node, "2001:db8:5::1").startswith("2001:db8:5::/48 via fe80::5 dev eth1")
    six = good(node, "-6")
    assert six == good(node, "list -6")
    assert "10." not in six


@root
def test_colours_only_when_asked_for(node: Net) -> None:
    varied(node)
    plain = good(node, "show")
    assert "\033" not in plain + good(node, "-c")
    code, out, _ = via6("-color=always route show", netns=node)
    assert (code, "\033[34minet6 fe80::22\033[0m" in out) == (0, True)
    code, out, _ = via6("-c=auto route show", netns=node, env={"NO_COLOR": "1"})
    assert (code, out) == (0, plain)


# --- batch ---------------------------------------------------------------------------------------------------------


@root
def test_a_batch_leaves_what_ip_batch_leaves(node: Net, nets: Nets, tmp_path: Path) -> None:
    lines = [f"route add 10.{n >> 8}.{n & 255}.0/24 via inet6 fe80::{n % 16 + 1:x} dev eth{n % 2}" for n in range(5000)]
    lines += ["route replace 10.0.7.0/24 via 192.0.2.9", "route del 10.0.8.0/24", "route add 10.0.8.0/24 dev eth1"]
    lines += [line for line in VARIED.splitlines() if "10.0.0.0/8" not in line and "nexthop" not in line]
    file = tmp_path / "routes"
    file.write_text("\n".join(lines).replace("10.0.0.0/16", "10.99.0.0/16"))
    node.run("ip", "-batch", file)
    theirs = [" ".join(line.split()) for line in node.ip("-4 route show table all").splitlines()]
    for table in ("main", "100"):
        node.ip(f"-4 route flush table {table} proto boot")
        node.ip(f"-4 route flush table {table} proto 46")
    node.ip("-6 route del 2001:db8:5::/48")
    node.ip("-6 route del blackhole 2001:db8:6::/48")
    good(node, f"-batch {file}")
    ours = [" ".join(line.split()) for line in node.ip("-4 route show table all").splitlines()]
    assert [line.replace(" proto static", "") for line in ours] == theirs


@root
def test_a_batch_from_standard_input_that_fails(node: Net) -> None:
    text = "route add 10.1.0.0/16 via fe80::1 dev eth0\nroute add 10.2.0.0/16 via 2001:db8:9::5\n"
    code, _, err = via6("route -batch -", netns=node, input=text)
    assert code == 1
    assert "via6: -:2: 10.2.0.0/16: " in err
    assert "via6 route add 10.2.0.0/16 via fe80::77 dev eth0" in err
    assert added(node) == ["10.1.0.0/16 via inet6 fe80::1 dev eth0"]
    code, out, err = via6(
        "route -force -v -batch -", netns=node, input="route del 10.9.0.0/16\nroute del 10.1.0.0/16\n"
    )
    assert (code, added(node)) == (1, [])
    assert "via6: -:1: 10.9.0.0/16: No such process" in err
    assert out.splitlines() == ["ip -4 route del 10.9.0.0/16", "ip -4 route del 10.1.0.0/16"]


@root
def test_a_batch_leaves_the_daemons_routes_alone(node: Net) -> None:
    node.ip("route add 10.5.0.0/16 via inet6 fe80::1 dev eth0 proto 46")
    text = "route add 10.4.0.0/16 via fe80::1 dev eth0\nroute replace 10.5.0.0/16 via fe80::2 dev eth0\n"
    code, _, err = via6("route -batch -", netns=node, input=text)
    assert (code, "via6: -:2: 10.5.0.0/16 is held by via6 itself" in err) == (1, True)
    assert "10.5.0.0/16 via inet6 fe80::1 dev eth0 proto 46" in node.ip("-N route")
    assert added(node) == ["10.4.0.0/16 via inet6 fe80::1 dev eth0"]


# --- WireGuard -----------------------------------------------------------------------------------------------------


@pytest.fixture
def wireguard(node: Net) -> Iterator[tuple[Net, str, str]]:
    """(namespace, device, key of its peer): a WireGuard device whose peer has 2a0a:e5c1:137::/48 alone."""
    if not (shutil.which("wg") and shutil.which("wireguard-go")):
        pytest.skip("wg and wireguard-go are not installed")
    # Control sockets lie in one folder for all namespaces: the name must be the test's own.
    device = f"wg{os.getpid()}"
    env = {k: v for k, v in os.environ.items() if k != "WG_PROCESS_FOREGROUND"}
    node.run("wireguard-go", device, env=env)
    private = run("wg", "genkey").stdout
    peer = run("wg", "pubkey", input=run("wg", "genkey").stdout).stdout.strip()
    node.run("wg", "set", device, "private-key", "/dev/stdin", input=private)
    node.run("wg", "set", device, "peer", peer, "allowed-ips", "2a0a:e5c1:137::/48", "endpoint", "192.0.2.2:51820")
    node.ip(f"link set {device} up")
    node.ip(f"-6 addr add 2a0a:e5c1:137::1/48 dev {device} nodad")
    yield node, device, peer
    node.ip(f"link del {device}")
    wait_until(lambda: not Path(f"/run/wireguard/{device}.sock").exists(), what="wireguard-go ends")


@root
def test_allowed_ips_are_looked_at(wireguard: tuple[Net, str, str]) -> None:
    node, device, peer = wireguard
    code, _, err = via6("route add 10.0.0.0/8 via 2a0a:e5c1:137::22", netns=node)
    line = f"wg set {device} peer {peer} allowed-ips 2a0a:e5c1:137::/48,10.0.0.0/8"
    assert code == 0
    assert added(node) == [f"10.0.0.0/8 via inet6 2a0a:e5c1:137::22 dev {device}"]
    assert line in err.splitlines()[1]
    code, out, _ = via6("explain 10.1.2.3", netns=node)
    assert (code, "NEIGHBOR_UNREACHABLE" in out, f"wg set {device} peer {peer}" in out) == (1, True, True)
    node.run(line)
    good(node, "replace 10.0.0.0/8 via 2a0a:e5c1:137::22")
    code, out, _ = via6("explain 10.1.2.3", netns=node)
    assert (code, "EXITS_NETWORK" in out) == (0, True)
    text = f"route add 11.{{}}.0.0/16 via 2a0a:e5c1:137::22 dev {device}\n"
    code, _, err = via6("route -batch -", netns=node, input=text.format(0) + text.format(1))
    assert (code, err.count("wg set"), "10.0.0.0/8,11.0.0.0/15" in err) == (0, 1, True)
    code, _, err = via6("route replace 10/8 via 2a0a:e5c1:137::22", netns=node, env={"PATH": "/nonexistent"})
    assert (code, "were not checked: the program wg is not installed" in err) == (0, True)


# --- the frame -----------------------------------------------------------------------------------------------------


def test_little_is_imported() -> None:
    """Under 0.1 s of CPU: what is slow to import is not imported by the two verbs that people type all day."""
    code = "import sys, via6.cli.main as m; m.dispatch(['route', 'show', 'dev', 'lo']); print(*sys.modules)"
    for words in (["route", "dev", "lo"], ["explain", "127.0.0.1"], ["-j", "route", "dev", "lo"]):
        code = f"import sys, via6.cli.main as m; m.dispatch({words!r}); print(*sys.modules, file=sys.stderr)"
        loaded = set(run(sys.executable, "-c", code).stderr.split())
        heavy = {"rich", "msgspec", "networkx", "asyncio", "subprocess", "argcomplete", "logging", "tomllib", "email"}
        assert not loaded & heavy


def completed(line: str, **env: str) -> list[str]:
    """What bash would offer at the end of a line: argcomplete's protocol, answers on descriptor 8."""
    reader, writer = os.pipe()
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n", **env}
    # The shell's function hands descriptor 8 over; dup2 in a shell does the same here.
    command = f"exec {sys.executable} -m via6 8>&{writer} 9>/dev/null"
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, **asked}, pass_fds=[writer], capture_output=True, check=False
    )
    os.close(writer)
    with os.fdopen(reader) as answer:
        words = [word.strip() for word in answer.read().split("\n") if word.strip()]
    assert b"Traceback" not in done.stderr, done.stderr
    return words


def test_completion_offers_verbs_words_and_names() -> None:
    assert set(completed("via6 ex")) == {"explain"}
    assert {"add", "replace", "del", "show"} <= set(completed("via6 route "))
    assert "lo" in completed("via6 route show dev ")
    assert "lo" in completed("via6 explain 10.1.2.3 iif ")
    assert {"via6", "static", "bird"} <= set(completed("via6 route show proto "))
    assert {"main", "local", "all"} <= set(completed("via6 route show table "))
    assert {"blackhole", "via"} <= set(completed("via6 route add "))
    assert completed("via6 route add 10.0.0.0/8 via i") == ["inet6"]
    assert {"bash", "zsh", "fish"} <= set(completed("via6 completion "))


@root
def test_completion_offers_namespaces_and_their_devices(node: Net) -> None:
    assert node.name in completed("via6 -n v6t-")
    assert {"eth0", "eth1"} <= set(completed(f"via6 -n {node.name} route show dev e"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    code, out, err = via6(f"completion {shell}")
    assert (code, err, "via6" in out, "_ARGCOMPLETE" in out) == (0, "", True, True)
