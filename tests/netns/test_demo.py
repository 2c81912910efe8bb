"""`via6 demo`: the story, as root and as an ordinary user; what it says of a network that is wrong; no trace left."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import termios
import time
from typing import Any

import pytest

import support
from via6.cli.demo import chapter_lines
from via6.lab import demo, sandbox
from via6.lab.namespaces import FOLDER, Lab, ip_batch

NOBODY = 65534


def told(*options: str, **environment: str) -> str:
    """What the demo prints; skips where an ordinary user may not have namespaces (its own test looks at that)."""
    code, out, err = support.via6("demo", *options, env=environment)
    if code and "forbids namespaces" in err and os.geteuid():
        pytest.skip(err)
    assert (code, err) == (0, "")
    return out


def test_the_story() -> None:
    began = time.monotonic()
    out = told()
    assert time.monotonic() - began < 30
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert 90 <= len(lines) <= 115
    assert "\033" not in out
    for words in (
        "┌────── r2 ────── r3 ──────┐",
        "r1, r2, r3, r4, r5, r6 #  via6 up eth1 eth2 --export connected",
        "fe80::2  dev eth1  reach 1",
        "12 link interfaces, 0 IPv4 addresses",
        "10.4.0.0/24 via inet6 fe80::",
        "h1 10.1.0.10 → h2 10.4.0.10   5 of 5 came back",
        "h2 10.4.0.10 → h1 10.1.0.10   5 of 5 came back",
        "192.0.0.8",
        "IPv4 10.1.0.10 > 10.4.0.10  ICMP echo request  (98 octets, no outer header)",
        "82 of 84 octets are as sent",
        "proto 46 src 10.1.0.1 metric 461",
        "packets sent since the cut were lost",
        "packets sent since the link came back were lost",
        "Try next",
    ):
        assert words in out


def test_a_terminal_that_is_not_utf8() -> None:
    out = told(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert out.isascii()
    assert ".------ r2 ------ r3 ------." in out


def test_colours_only_when_they_are_wanted() -> None:
    assert "\033[" in told("-c", "always", TERM="xterm")
    assert "\033[" not in told("-c", "never", TERM="xterm")


def test_a_reader_that_has_seen_enough() -> None:
    argv = [sys.executable, "-m", "via6", "demo"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("via6: IPv4")
        process.stdout.close()
        err = process.stderr.read()
    if "forbids namespaces" in err:
        pytest.skip(err)
    assert (process.returncode, err) == (0, "")


def test_json() -> None:
    facts = json.loads(told("-j"))
    assert facts["ok"] is True
    assert facts["faults"] == []
    assert len(facts["nodes"]) == 8
    assert len(facts["links"]) == 6
    assert facts["ipv4_link_addresses"] == []
    assert facts["routers_without_ipv4"] == ["r2", "r3", "r5", "r6"]
    assert [(p["sent"], p["received"]) for p in facts["pings"]] == [(5, 5), (5, 5)]
    assert 0 < facts["seconds"] < 30
    _the_way(facts["traceroute"]["hops"])
    _the_cut(facts)
    assert set(facts["typed"].values()) == {"via6 up eth1 eth2 --export connected"}
    assert {row["address"] for row in facts["neighbours"]["r1"]} == {"fe80::2", "fe80::5"}
    ((node, routes),) = facts["routes"].items()
    assert {r["dst"] for r in routes} == {"10.1.0.0/24", "10.4.0.0/24"}
    assert {r["protocol"] for r in routes} <= {"46", "via6"}
    leading = [r for r in routes if r["type"] == "unicast"]
    assert {r["dst"] for r in leading} == {"10.1.0.0/24", "10.4.0.0/24"}
    assert all(r["via"]["family"] == "inet6" for r in leading)
    seen = facts["capture"]
    assert seen["node"] == node
    assert (seen["ethertype"], seen["outer_header"], seen["frames_other"]) == ("0x0800", False, 0)
    assert (seen["ttl_sent"], seen["ttl_seen"], seen["changed"]) == (64, 62, ["ttl", "checksum"])
    assert seen["pings_seen"] == 5


def _the_way(hops: list[dict[str, Any]]) -> None:
    nodes = [hop["node"] for hop in hops]
    assert nodes in (["h1", "r1", "r2", "r3", "r4", "h2"], ["h1", "r1", "r5", "r6", "r4", "h2"])
    answered = [hop["answered"] for hop in hops]
    assert answered == [None, "10.1.0.1", "192.0.0.8", "192.0.0.8", "10.4.0.1", "10.4.0.10"]
    assert [hop["next"] for hop in hops] == [*nodes[1:], None]
    assert [hop["via"] for hop in hops[1:4]] == [f"fe80::{name[1]}" for name in nodes[2:5]]


def _the_cut(facts: dict[str, Any]) -> None:
    """The backup was there before, is the route afterwards, and the link is of use again in the end."""
    cut, heal, stream = facts["cut"], facts["heal"], facts["stream"]
    assert (cut["node"], cut["prefix"]) == ("r1", "10.4.0.0/24")
    gone, other = ("fe80::2", "fe80::5") if cut["next"] == "r2" else ("fe80::5", "fe80::2")
    assert _leading(cut["before"]) == [(gone, 460), (other, 461)]
    assert _leading(cut["after"]) == [(other, 460)]
    assert {via for via, _ in _leading(heal["after"])} == {gone, other}
    assert 0 < heal["healed_s"] < 20
    assert 0 <= cut["lost"] + heal["lost"] <= stream["lost"] < stream["sent"] / 10
    assert (cut["outage_ms"] > 0) is (cut["lost"] > 0)


def _leading(lines: list[str]) -> list[tuple[str, int]]:
    """Next hop and metric of the routes that lead somewhere."""
    found = (re.search(r"via inet6 (\S+) .*metric (\d+)", line) for line in lines)
    return [(match[1], int(match[2])) for match in found if match]


def on_a_terminal(interrupt_at: bytes = b"") -> tuple[int, bytes]:
    """Exit code and what a terminal was shown; Ctrl-C is typed once these words are there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    argv = [sys.executable, "-m", "via6", "demo"]

    def take_terminal() -> None:  # so that Ctrl-C reaches every process in the foreground
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    shown = b""
    with subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        preexec_fn=take_terminal,  # noqa: PLW1509 - no threads here
    ) as process:  # fmt: skip
        os.close(theirs)
        while data := _read(ours):
            shown += data
            if interrupt_at and interrupt_at in shown:
                interrupt_at = b""
                time.sleep(0.3)  # into the work of this chapter, most of which take longer
                os.write(ours, b"\x03")
    os.close(ours)
    if process.returncode == 1 and b"forbids namespaces" in shown:
        pytest.skip(shown.decode())
    # The cursor is hidden while the bar stands, and comes back.
    assert shown.rindex(b"\033[?25h") > shown.rindex(b"\033[?25l")
    assert b"\033[3" not in shown
    return process.returncode, shown


def test_on_a_terminal_without_colours() -> None:
    code, shown = on_a_terminal()
    assert code == 0
    assert b"Try next" in shown
    for chapter in demo.STORY:
        assert chapter.doing.encode() in shown  # beside the bar


@pytest.mark.parametrize(
    "words",
    [
        b"starting the routers",
        b"waiting until the hosts reach each other",
        b"cutting a link under a stream",
        b"waiting until the link is in use again",
    ],
)
def test_ctrl_c_on_a_terminal(words: bytes) -> None:
    before = seen_here()
    code, shown = on_a_terminal(words)
    assert code == 130
    assert b"Traceback" not in shown
    assert b"Try next" not in shown
    support.wait_until(lambda: not _descendants(), what=f"left: {_descendants()}")
    assert seen_here() == before


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: nobody has the other end open any more
        return b""


# --- when something is wrong ---------------------------------------------------------------------------------------


def faults(*lines: str, node: str = "r4") -> list[str]:
    """What the story finds wrong after `ip` has been told these lines in a router."""
    reading, writing = os.pipe()

    def work() -> int:
        with Lab(demo.topology()) as lab:
            scene = demo.Scene(lab)
            demo.network(scene)
            ip_batch(lines, node)
            facts: dict[str, Any] = {}
            for chapter in demo.STORY[1:]:
                facts |= chapter.work(scene)
                assert list(chapter_lines(chapter.key, facts))  # a story can be told of any network
        os.write(writing, json.dumps(scene.faults).encode())
        return 0

    code = sandbox.run(work)
    os.close(writing)
    with open(reading, "rb") as pipe:
        found: list[str] = json.loads(pipe.read() or b"null")
    assert code == 0
    return found


@pytest.mark.root
def test_an_ipv4_address_on_a_link_is_found() -> None:
    found = faults("address add 192.0.2.1/32 dev eth1", node="r3")
    # Its answers to traceroute may come from there, too, and r2 may not reach it as a next hop.
    assert "link interfaces have IPv4 addresses: r3 eth1 192.0.2.1/32" in found


@pytest.mark.root
def test_a_way_back_that_is_missing_is_found() -> None:
    # A route of somebody else, and a better one: via6 leaves it alone.
    found = faults("route add blackhole 10.1.0.0/24 metric 1", node="r4")
    assert any("ping h1 to h2: 0 of 5 came back" in fault for fault in found)
    assert not any("stream" in fault for fault in found)  # it needs no answer


@pytest.mark.root
def test_a_stream_that_does_not_arrive_is_found() -> None:
    found = faults("neighbour replace 10.4.0.10 lladdr 02:00:00:00:00:01 dev lan nud permanent", node="r4")
    assert any("no packet of the stream came from h1 to h2" in fault for fault in found)
    assert any("the stream lost" in fault for fault in found)


# --- as somebody else, and cut short -------------------------------------------------------------------------------


@pytest.mark.root
def test_as_an_ordinary_user() -> None:
    path = os.pathsep.join([str(support.ROOT / "src"), sysconfig.get_path("purelib")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"}
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/", "env": environment}
    same = shutil.which(f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin")
    python = next((p for p in (sys.executable, same) if p and _works(p, user)), None)
    if python is None:
        pytest.skip(f"user {NOBODY} may not read this Python or this checkout")
    done = support.run(python, "-m", "via6", "demo", "-j", check=False, **user)
    if done.returncode:
        # A system that forbids it: then the words must say how to allow it.
        assert done.stderr.startswith("via6: this system forbids namespaces")
        assert "run it as root" in done.stderr
    else:
        assert json.loads(done.stdout)["ok"] is True


def _works(python: str, user: dict[str, Any]) -> bool:
    try:
        return support.run(python, "-c", "import via6.cli.demo, rich", check=False, **user).returncode == 0
    except OSError:
        return False


def start() -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "via6", "demo"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "1. The network" in line:
            break
    time.sleep(0.2)
    return process


def gone(process: subprocess.Popen[str]) -> None:
    """Nothing of it runs any more, and the machine has the namespaces that it had."""
    process.communicate()
    support.wait_until(lambda: not _descendants(), what=f"left: {_descendants()}")


def _descendants() -> list[str]:
    return [line for line in support.leftover_processes() if "via6" in line]


@pytest.mark.root
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_nothing_stays_when_it_is_cut_short(number: int, code: int) -> None:
    before = seen_here()
    process = start()
    process.send_signal(number)
    gone(process)
    assert process.returncode == code
    assert seen_here() == before


def seen_here() -> set[str]:
    """What of a lab would be seen on this machine if it were not in a sandbox."""
    names = {str(support.NETNS_DIR / node) for node in demo.topology().nodes}
    names |= {f"/sys/class/net/{device}" for device in ("eth1", "eth2", "lan")} | {str(FOLDER)}
    return {name for name in names if os.path.lexists(name)}
