"""Labs live: `via6 lab` as a user types it, and the Lab of namespaces.py underneath."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support import PREFIX, in_sandbox, leftover_namespaces, via6, wait_until
from via6.collect.probe import ping_many
from via6.errors import Refusal
from via6.lab import state
from via6.lab.namespaces import Lab
from via6.lab.reach import link_addresses, measure
from via6.lab.topology import SOFTWARE, Topology, load

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests/golden/tiny.graphml"
ZOO = ROOT.parent / "shared/topologies"
EXAMPLES = ROOT / "examples/labs"

LINE = """
[lab]
name = "NAME"
software = "static"
[router.r1]
lan = "10.1.0.0/24"
[router.r2]
[router.r3]
lan = "10.3.0.0/24"
[host.h1]
router = "r1"
[host.h3]
router = "r3"
[[link]]
ends = ["r1", "r2"]
[[link]]
ends = ["r2", "r3"]
"""


def line_file(folder: Path, letter: str = "a") -> str:
    file = folder / f"{letter}.toml"
    file.write_text(LINE.replace("NAME", PREFIX + letter))
    return str(file)


@pytest.fixture
def _labs_gone() -> Iterator[None]:
    """Takes the labs of a test down, however it ends."""
    yield
    with state.lock():
        for lab in state.read_all():
            if lab.name.startswith(PREFIX):
                state.remove(lab)
    assert not leftover_namespaces()


# --- test ----------------------------------------------------------------------------------------------------------


def lab_test(*words: str, timeout: float = 120) -> tuple[int, dict[str, Any]]:
    code, out, err = via6("lab", "test", "-j", *words, timeout=timeout)
    assert not err, err
    return code, json.loads(out)


@pytest.mark.parametrize("file", ["triangle", "diamond", "line10"])
def test_examples(file: str) -> None:
    topology = load(str(EXAMPLES / f"{file}.toml"))
    code, report = lab_test(str(EXAMPLES / f"{file}.toml"))
    count = len(topology.hosts)
    assert (code, report["missing"], report["troubles"]) == (0, [], "")
    assert report["reachable"] == report["pairs"] == count * (count - 1)
    assert (report["nodes"], report["links"]) == (len(topology.routers), len(topology.cables))
    assert report["ipv4_link_addresses"] == 0
    assert 0 < report["seconds"] < 60


def test_a_gap_is_named() -> None:
    code, report = lab_test(str(EXAMPLES / "gap.toml"))
    assert code == 3
    assert (report["pairs"], report["reachable"], report["seconds"]) == (2, 0, None)
    assert report["missing"] == [
        {"from": "left-h", "to": "right-h", "stops_at": "middle", "why": "no route to 10.2.0.10", "way_back": False},
        {"from": "right-h", "to": "left-h", "stops_at": "middle", "why": "no route to 10.1.0.10", "way_back": False},
    ]
    code, out, _ = via6("lab", "test", str(EXAMPLES / "gap.toml"))
    assert code == 3
    assert "reachable 0/2 pairs over IPv4\n" in out
    assert "left-h -> right-h: stops at middle (no route to 10.2.0.10)" in out


@pytest.mark.parametrize("software", ["static", "via6-static", "via6"])
@pytest.mark.parametrize("file", [TINY, ZOO / "Abilene.graphml", ZOO / "Geant2012.graphml"], ids=lambda file: file.stem)
def test_graphml(file: Path, software: str) -> None:
    if not file.exists():
        pytest.skip("the Topology Zoo files are not here")
    code, report = lab_test(str(file), "--software", software)
    assert (code, report["missing"], report["troubles"]) == (0, [], "")
    assert report["reachable"] == report["pairs"] == report["nodes"] * (report["nodes"] - 1)
    assert report["ipv4_link_addresses"] == 0


def test_parts_that_are_not_connected(tmp_path: Path) -> None:
    file = tmp_path / "two.graphml"
    nodes = "".join(f'<node id="{name}"/>' for name in "abc")
    file.write_text(f'<graphml><graph>{nodes}<edge source="a" target="b"/></graph></graphml>')
    code, report = lab_test(str(file), "--software", "static")
    assert (code, report["pairs"], report["reachable"]) == (3, 6, 2)
    assert {missing["why"] for missing in report["missing"]} == {"no path in the topology"}


def test_what_test_says_of_a_bad_file(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('[router.a]\nsoftware = "babled"\n[[link]]\nends = ["a", "b"]')
    code, out, err = via6("lab", "test", str(file))
    assert (code, out) == (1, "")
    assert f"via6: {file}: router.a.software: unknown software 'babled'; there is {', '.join(SOFTWARE)}" in err
    assert "link[0].ends: there is no router 'b'" in err
    assert "Traceback" not in err


def lab_processes() -> set[int]:
    """Processes with this very test's mark on their command line."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and f"{PREFIX}kill".encode() in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("after_s", [0, 0.1, 0.3, 0.6])
def test_killed_or_interrupted_it_leaves_nothing(number: signal.Signals, after_s: float, tmp_path: Path) -> None:
    file = tmp_path / f"{PREFIX}kill.toml"
    file.write_text((EXAMPLES / "line10.toml").read_text())
    argv = [sys.executable, "-m", "via6", "lab", "test", str(file)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: children.read_text() or process.poll() is not None, what="the sandbox has begun")
        time.sleep(after_s)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode in (0, 130 if number == signal.SIGINT else -number)
        assert "Traceback" not in err or process.returncode == -signal.SIGKILL
    wait_until(lambda: not lab_processes(), what="the lab's processes are gone")
    assert not leftover_namespaces()
    assert not Path("/run/via6-lab").exists()


# --- up, exec, list, down --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_labs_gone")
def test_up_exec_down(tmp_path: Path) -> None:
    file = line_file(tmp_path)
    name = PREFIX + "a"
    code, out, err = via6("lab", "up", file)
    assert (code, err) == (0, "")
    assert f"lab {name} is up: 3 routers, 2 links" in out

    code, out, _ = via6("lab", "exec", f"{name}/r1", "--", "ip", "-4", "route", "show", "10.3.0.0/24")
    assert (code, out.strip()) == (0, "10.3.0.0/24 via inet6 fe80::2 dev eth1 proto static")
    code, out, _ = via6("lab", "exec", file, "h1", "--", "sh", "-c", "echo $0 $1; uname -n; exit 5", "--", "-x")
    assert (code, out) == (5, "-- -x\nh1\n")
    code, out, _ = via6("lab", "list", "-j")
    assert [json.loads(text)["nodes"] for text in out.splitlines() if name in text] == [["r1", "r2", "r3", "h1", "h3"]]
    code, out, _ = via6("route", netns=f"{name}/r3")
    assert code == 0
    assert "10.1.0.0/24 via inet6 fe80::2 dev eth1" in out

    code, out, _ = via6("lab", "exec", f"{name}/h1", "--", sys.executable, "-m", "via6", "trace", "-j", "10.3.0.10")
    assert code == 0
    assert json.loads(out)["hops"][0]["node"] == "h1"

    code, _, err = via6("lab", "up", file)
    assert (code, err) == (1, f"via6: lab {name} is up already\n  via6 lab down {name}\n")
    assert via6("lab", "down", file) == (0, "", "")
    code, _, err = via6("lab", "down", name)
    assert code == 1
    assert f"lab {name} is not up" in err
    code, _, err = via6("lab", "exec", f"{name}/r1", "--", "true")
    assert code == 1
    assert "no lab that is up has a node" in err


@pytest.mark.usefixtures("_labs_gone")
def test_two_labs_at_once(tmp_path: Path) -> None:
    for letter in "ab":
        assert via6("lab", "up", line_file(tmp_path, letter))[0] == 0
    code, _, err = via6("lab", "exec", "r1", "--", "true")
    assert code == 1
    assert f"{PREFIX}a/r1" in err
    assert f"{PREFIX}b/r1" in err
    assert via6("lab", "exec", f"{PREFIX}b/r1", "--", "true")[0] == 0
    code, _, err = via6("route", netns="r1")
    assert code == 1
    assert f"{PREFIX}a/r1" in err
    assert via6("lab", "down", f"{PREFIX}a")[0] == 0
    assert via6("lab", "exec", f"{PREFIX}b/r1", "--", "true")[0] == 0
    assert via6("lab", "down", f"{PREFIX}b")[0] == 0


def test_usage() -> None:
    code, _, err = via6("lab", "exec", "r1")
    assert code == 2
    assert "lab exec takes a node and a command" in err
    assert via6("lab", "up")[0] == 2
    assert via6("lab", "sideways")[0] == 2
    code, _, err = via6("lab", "test", "--software", "babled", str(TINY))
    assert (code, err) == (2, f"via6: unknown software 'babled'\n  there is {', '.join(SOFTWARE)}\n")


@pytest.mark.root
@pytest.mark.usefixtures("_labs_gone")
@pytest.mark.parametrize("after_s", [0.15, 0.25, 0.35])
def test_up_killed_half_way_is_cleaned_up(after_s: float, tmp_path: Path) -> None:
    file = line_file(tmp_path)
    process = subprocess.Popen([sys.executable, "-m", "via6", "lab", "up", file], stdout=subprocess.DEVNULL)
    time.sleep(after_s)
    process.kill()
    process.wait()
    time.sleep(0.1)  # an `ip` that was under way has ended by then
    code, out, err = via6("lab", "up", file)
    if code:  # it had been done by then
        assert "is up already" in err
    else:
        assert "is up" in out
    assert via6("lab", "exec", f"{PREFIX}a/r1", "--", "true")[0] == 0
    assert via6("lab", "down", f"{PREFIX}a")[0] == 0
    assert not leftover_namespaces()


@pytest.mark.root
@pytest.mark.usefixtures("_labs_gone")
def test_list_sweeps_what_was_left(tmp_path: Path) -> None:
    file = line_file(tmp_path)
    assert via6("lab", "up", file)[0] == 0
    lab = state.read(f"{PREFIX}a")
    assert lab is not None
    state.write(replace(lab, status=state.STARTING))
    code, out, err = via6("lab", "list")
    assert code == 0
    assert PREFIX not in out
    assert f"lab {PREFIX}a was not whole" in err
    assert not leftover_namespaces()


@pytest.mark.root
@pytest.mark.usefixtures("_labs_gone")
def test_a_namespace_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    file = line_file(tmp_path)
    theirs = f"{PREFIX}a.r2"
    subprocess.run(["ip", "netns", "add", theirs], check=True)
    try:
        code, _, err = via6("lab", "up", file)
        assert code == 1
        assert f"there is a network namespace {theirs!r} already" in err
        assert leftover_namespaces() == [theirs]
        assert state.read(f"{PREFIX}a") is None
    finally:
        subprocess.run(["ip", "netns", "delete", theirs], check=True)


@pytest.mark.root
@pytest.mark.usefixtures("_labs_gone")
def test_down_ends_what_runs_inside(tmp_path: Path) -> None:
    assert via6("lab", "up", line_file(tmp_path))[0] == 0
    inside = ["-m", "via6", "lab", "exec", f"{PREFIX}a/h1", "--", "sleep", "60"]
    with subprocess.Popen([sys.executable, *inside]) as process:
        wait_until(lambda: b"sleep" in Path(f"/proc/{process.pid}/cmdline").read_bytes()[:6])
        assert via6("lab", "down", f"{PREFIX}a")[0] == 0
        assert process.wait(5) == -signal.SIGKILL


# --- the Lab underneath -------------------------------------------------------------------------------------------


def line(**software: str) -> Topology:
    from via6.lab import labfile

    topology = labfile.parse(LINE.replace("NAME", "line").encode(), "x", "x")
    return replace(
        topology, routers=tuple(replace(r, software=software.get(r.name, r.software)) for r in topology.routers)
    )


def test_lab_as_a_context() -> None:
    def work() -> dict[str, Any]:
        with Lab(line()) as lab:
            found = {
                "seconds": lab.wait_ready(5),
                "route": lab.exec("r2", ["ip", "route", "show", "10.1.0.0/24"]).stdout,
                "cat": lab.exec("h1", ["cat"], text="through").stdout,
                "ping": lab.call("h1", ping_many, [lab.topology.host["h3"].address])[0].received,
                "each": lab.each(["r1", "h1"], lambda node: (node, sorted(os.listdir("/proc/self/net/dev_snmp6")))),
                "trail": lab.trail("h1", "h3"),
                "addresses": link_addresses(lab),
                "ipv6": lab.exec("r2", ["ip", "-br", "-6", "address", "show", "dev", "eth1"]).stdout.split()[2:],
            }
            with lab.popen("r1", ["true"]) as process:
                found["popen"] = process.wait()
        found["left"] = os.listdir("/run/netns")
        return found

    found = in_sandbox(work)
    assert 0 < found["seconds"] < 5
    assert found["route"].strip() == "10.1.0.0/24 via inet6 fe80::1 dev eth1 proto static"
    assert (found["cat"], found["ping"], found["popen"], found["left"]) == ("through", 1, 0, [])
    assert found["each"] == {"r1": ("r1", ["eth1", "lan", "lo"]), "h1": ("h1", ["eth0", "lo"])}
    assert (found["trail"].nodes, found["trail"].why) == (("h1", "r1", "r2", "r3", "h3"), "")
    assert (found["addresses"], found["ipv6"]) == (0, ["fe80::2/64"])


def test_lab_says_where_it_stops() -> None:
    def work() -> list[str]:
        with Lab(line()) as lab:
            said = [str(lab.trail("h1", "h3"))]
            lab.exec("r3", ["ip", "route", "delete", "10.1.0.0/24"])
            said += map(str, measure(lab, 0.1).missing)
            lab.exec("r2", ["ip", "route", "replace", "10.3.0.0/24", "via", "inet6", "fe80::1", "dev", "eth1"])
            said.append(str(lab.trail("h1", "h3")))
            lab.exec("r2", ["ip", "route", "replace", "unreachable", "10.3.0.0/24"])
            said.append(str(lab.trail("h1", "h3")))
            lab.exec("r1", ["ip", "address", "add", "10.9.9.1/24", "dev", "eth1"])
            return [*said, str(link_addresses(lab))]

    assert in_sandbox(work) == [
        "h1 r1 r2 r3 h3",
        "h1 -> h3: the answer stops at r3 (no route to 10.1.0.10)",
        "h3 -> h1: stops at r3 (no route to 10.1.0.10)",
        "h1 r1 r2 r1: a loop",
        "h1 r1 r2: No route to host (EHOSTUNREACH)",
        "1",
    ]


def test_wait_ready_names_a_missing_pair() -> None:
    def work() -> str:
        with Lab(line(r2="none")) as lab:
            lab.wait_ready(1)
        return ""

    with pytest.raises(Refusal, match=r"2 pairs are not reachable: h1 -> h3: stops at r2 \(no route to 10.3.0.10\)"):
        in_sandbox(work)


def test_faults_of_a_lab() -> None:
    def work() -> list[str]:
        said = []
        with Lab(line()) as lab:
            for wrong in (
                lambda: lab.exec("r9", ["true"]),
                lambda: lab.each(["r1", "r2"], lambda _: os._exit(3)),
                lambda: lab.each(["r1"], lambda _: (_ for _ in ()).throw(Refusal("in the child", "remedy", 4))),
                lambda: Lab(line()).up(),
            ):
                try:
                    wrong()
                except Refusal as refusal:
                    said.append(refusal.message)
            # The failed up() of the second Lab left the first alone.
            said.append(str(len(os.listdir("/run/netns"))))
        return said

    assert in_sandbox(work) == [
        "lab line has no node 'r9'",
        "the process in node r1 died",
        "in the child",
        "there is a network namespace 'r1' already, and this lab did not make it",
        "5",
    ]


def test_a_program_that_ends_is_named(tmp_path: Path) -> None:
    def work() -> tuple[str, str]:
        lab = Lab(line(r1="via6-static"))
        lab.build()
        (lab.folder / "r1.toml").mkdir()  # its configuration cannot be written, so it cannot be read either
        try:
            lab.start()
        except OSError as error:
            first = type(error).__name__
        lab.down()
        return first, str(Path("/run/via6-lab").exists())

    assert in_sandbox(work) == ("IsADirectoryError", "False")


def test_via6_runs_on_the_routers() -> None:
    def work() -> list[Any]:
        found: list[Any] = []
        with Lab(line(r1="via6-static", r2="via6-static", r3="via6-static")) as lab:
            lab.wait_ready(20)
            routes = lab.exec("r2", ["ip", "route", "show", "proto", "46"]).stdout.splitlines()
            found.append(["via inet6 fe80::1 dev eth1" in routes[0], len(routes)])
            lab.stop_router("r2", signal.SIGTERM)
            found.append(lab.exec("r2", ["ip", "route", "show", "proto", "46"]).stdout)
            lab.start_router("r2")
            found.append(lab.wait_routes(20))
            lab.stop_router("r1", signal.SIGKILL)
            found.append(lab.exec("r1", ["ip", "route", "show", "proto", "46"]).stdout.split()[0])
        return found

    assert in_sandbox(work) == [[True, 2], "", "", "10.3.0.0/24"]
