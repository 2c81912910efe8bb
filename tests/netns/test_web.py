"""`via6 web` on a lab and on a daemon: what happens in the kernels of the nodes is told at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from support import run, via6, wait_until
from via6.observe.names import Names
from via6.web.board import Board
from via6.web.sources.lab import LabSource
from web_support import Program, events, first, program

pytestmark = pytest.mark.root

LAB = """
[lab]
name = "{name}"
[router.r1]
lan = "10.1.0.0/24"
[router.r2]
lan = "10.2.0.0/24"
[router.r3]
lan = "10.3.0.0/24"
[host.h1]
router = "r1"
address = "10.1.0.10/24"
[[link]]
ends = ["r1", "r2"]
[[link]]
ends = ["r2", "r3"]
[[link]]
ends = ["r1", "r3"]
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    name = f"w{os.getpid()}"
    file = tmp_path / f"{name}.toml"
    file.write_text(LAB.format(name=name))
    code, out, err = via6("lab", "up", file)
    assert code == 0, out + err
    try:
        yield name
    finally:
        via6("lab", "down", name)


def state(web: Program, link: str) -> str:
    found = {one["id"]: one["state"] for one in web.get("/api/network").json()["links"]}
    return str(found[link])


def settled(web: Program) -> None:
    """All routes are there, and all has been read."""

    def good() -> bool:
        nodes = web.get("/api/network").json()["nodes"]
        routers = [node for node in nodes if node["kind"] == "router"]
        way = web.get("/api/trace?from=h1&to=10.2.0.1").json()
        known = all(node["software"] == "via6" and node["findings"] for node in routers)
        return known and way["disposition"] == "ACCEPTED" and way["back"]["disposition"] == "ACCEPTED"

    wait_until(good, 60, 0.2)


def test_a_lab_is_shown_and_a_cut_is_told(lab: str) -> None:
    with program("--lab", lab) as web:
        settled(web)
        told = web.get("/api/network").json()
        assert {n["id"]: n["kind"] for n in told["nodes"]} == {
            "h1": "host", "r1": "router", "r2": "router", "r2-h": "host", "r3": "router", "r3-h": "host",
        }  # fmt: skip
        assert [x["id"] for x in told["links"] if ".lan" not in x["id"]] == [
            "r1.eth1--r2.eth1", "r1.eth2--r3.eth2", "r2.eth2--r3.eth1",
        ]  # fmt: skip
        assert (told["live"], told["source"], told["title"]) == (True, "lab", lab)
        way = web.get("/api/trace?from=h1&to=10.2.0.1").json()
        assert [(h["node"], h["link_id"]) for h in way["hops"]][1:] == [("r1", "r1.eth1--r2.eth1"), ("r2", None)]
        instead = web.get("/api/trace?from=h1&to=10.2.0.1&fail=r1.eth1--r2.eth1").json()
        assert [h["node"] for h in instead["hops"]] == ["h1", "r1", "r3", "r2"]

        with closing(events(web.address, 60)) as stream:
            assert next(stream).kind == "network"
            run("ip", "-n", f"{lab}.r2", "link", "set", "eth1", "down")
            cut = first(stream, lambda e: e.kind == "link")
            assert cut.data == {"id": "r1.eth1--r2.eth1", "state": "down"}
            moved = first(stream, lambda e: e.kind == "route" and e.data.get("prefix") == "10.2.0.0/24")
            assert moved.data["node"] == "r1"
            assert moved.data["was"].endswith("dev eth1")
            assert moved.data["now"].endswith("dev eth2")
        assert state(web, "r1.eth1--r2.eth1") == "down"
        wait_until(lambda: [h["node"] for h in web.get("/api/trace?from=r1&to=10.2.0.1").json()["hops"]][1] == "r3", 60)
        texts = [one["text"] for one in web.get("/api/nodes/r1/changes").json()]
        assert "eth1 is without carrier" in texts

        # Gone altogether it stays to be seen.
        with closing(events(web.address, 60)) as stream:
            run("ip", "-n", f"{lab}.r2", "link", "set", "eth1", "up")
            first(stream, lambda e: e.kind == "link" and e.data["state"] == "up")
            run("ip", "-n", f"{lab}.r2", "link", "del", "eth2")
            gone = first(stream, lambda e: e.kind == "link" and e.data["state"] == "down")
            assert gone.data["id"] == "r2.eth2--r3.eth1"
        wait_until(lambda: state(web, "r2.eth2--r3.eth1") == "down", 60)
        assert web.end() == (0, "", "")


def test_what_the_doctor_finds_is_told(lab: str) -> None:
    with program("--lab", lab) as web:
        settled(web)
        with closing(events(web.address, 60)) as stream:
            # Something that the daemon does not mend by itself.
            run("ip", "-n", f"{lab}.r2", "link", "set", "eth1", "mtu", "1400")
            first(stream, lambda e: e.kind == "findings" and e.data["node"] == "r1" and e.data["warning"] > 0)
            found = {one["code"]: one for one in web.get("/api/nodes/r1/findings").json()}
            assert f"ip -n {lab}.r1 " in found["mtu-mismatch"]["remedy"]
            subprocess.run(["sh", "-c", found["mtu-mismatch"]["remedy"]], check=True)
            first(stream, lambda e: e.kind == "findings" and e.data == {"node": "r1", "error": 0, "warning": 0})
        nft = "add table inet via6web; add chain inet via6web f { type filter hook forward priority 0; policy drop; }"
        with closing(events(web.address, 60)) as stream:
            run("ip", "netns", "exec", f"{lab}.r2", "nft", nft)
            first(stream, lambda e: e.kind == "findings" and e.data["node"] == "r2" and e.data["error"] > 0)
        assert "firewall-forward" in [one["code"] for one in web.get("/api/nodes/r2/findings").json()]


def test_many_routes_at_once_are_counted(lab: str, tmp_path: Path) -> None:
    file = tmp_path / "routes"
    file.write_text("".join(f"route add 10.77.{n >> 8}.{n & 255}/32 dev eth1\n" for n in range(3000)))
    with program("--lab", lab) as web:
        settled(web)
        with closing(events(web.address, 60)) as stream:
            next(stream)
            run("ip", "-n", f"{lab}.r3", "-batch", file)
            counted = first(stream, lambda e: e.kind == "route" and "count" in e.data)
            assert counted.data["node"] == "r3"
        wait_until(lambda: web.get("/api/nodes/r3").json()["counts"]["routes4"] > 3000, 60)
        assert len(web.get("/api/nodes/r3/changes?limit=200").json()) < 200


def test_a_lab_that_goes_and_returns(lab: str, tmp_path: Path) -> None:
    with program("--lab", lab) as web:
        settled(web)
        via6("lab", "down", lab)
        wait_until(lambda: web.get("/healthz").json()["down"] == 6, 60)
        assert {n["state"] for n in web.get("/api/network").json()["nodes"]} == {"down"}
        # Nothing of the old lab is held: its namespaces are gone, and so are their interfaces.
        again = tmp_path / f"{lab}.toml"
        assert via6("lab", "up", again)[0] == 0
        wait_until(lambda: web.get("/healthz").json()["down"] == 0, 60)
        settled(web)
        assert state(web, "r1.eth1--r2.eth1") == "up"
        assert web.end(signal.SIGINT) == (0, "", "")


def test_what_only_the_daemon_knows_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a neighbour falls silent changes nothing in the kernel where no route leads by it."""
    monkeypatch.setattr("via6.web.sources.lab._TURN_S", 3600.0)  # or it would be read by and by
    name = f"w{os.getpid()}n"
    file = tmp_path / f"{name}.toml"
    file.write_text(f'[lab]\nname = "{name}"\n[router.r1]\n[router.r2]\n[[link]]\nends = ["r1", "r2"]\n')
    code, out, err = via6("lab", "up", file)
    assert code == 0, out + err
    try:
        told = asyncio.run(_silence(name))
    finally:
        via6("lab", "down", name)
    assert [line for line in told["r1"] if line.startswith("neighbour fe80::2 dev eth1")]
    assert "neighbour the daemon is gone" in told["r2"]


async def _silence(lab: str) -> dict[str, list[str]]:
    """What is told of a lab of two when one daemon dies."""
    board = Board(LabSource(lab, Names()), Names(), doctor=False)
    await board.start()

    def neighbours(name: str) -> list[int]:
        babel = board.nodes[name].babel
        return [one.cost for one in babel.neighbours] if babel is not None else []

    def lines(name: str) -> list[str]:
        return [f"{one['kind']} {one['text']}" for one in board.changes(name, 200)]

    async def until(true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.05)

    try:
        await until(lambda: neighbours("r1") == neighbours("r2") == [96])
        for pid in run("ip", "netns", "pids", f"{lab}.r2").stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        await until(lambda: neighbours("r1") != [96] and "neighbour the daemon is gone" in lines("r2"))
        return {name: lines(name) for name in ("r1", "r2")}
    finally:
        await board.stop()


# --- changes ---------------------------------------------------------------------------------------------------------


def test_a_link_is_cut_and_mended_from_the_browser(lab: str, tmp_path: Path) -> None:
    link = "/api/links/r1.eth1--r2.eth1"
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123\n")
    token.chmod(0o600)
    with program("--lab", lab, "--allow-changes", "--token", str(token)) as web:
        bearer = {"authorization": "Bearer 0123456789abcdef0123"}
        with httpx.Client(base_url=web.address, headers=bearer, timeout=20) as asker:
            assert httpx.post(web.address.rstrip("/") + link, json={"state": "down"}).status_code == 403
            meant = {"x-via6-change": "yes"}

            def tell(path: str, **body: str) -> httpx.Response:
                return asker.post(path, json=body, headers=meant)

            def way() -> list[str]:
                return [hop["node"] for hop in asker.get("/api/trace?from=h1&to=10.2.0.1").json()["hops"]]

            wait_until(lambda: way() == ["h1", "r1", "r2"], 60, 0.2)
            before = run("ip", "-n", f"{lab}.r2", "-6", "-o", "address", "show", "dev", "eth1").stdout
            assert tell(link, state="down").json() == {"done": ["eth1 of r2 set down"], "problems": []}
            wait_until(lambda: way() == ["h1", "r1", "r3", "r2"], 60, 0.2)
            assert tell(link, state="down").status_code == 409
            assert tell(link, state="up").json()["done"] == ["eth1 of r2 set up, fe80::2/64"]
            wait_until(lambda: way() == ["h1", "r1", "r2"], 60, 0.2)
            after = run("ip", "-n", f"{lab}.r2", "-6", "-o", "address", "show", "dev", "eth1").stdout
            assert before.split()[:4] == after.split()[:4]
            assert tell(link, state="up").status_code == 409
            assert "from the browser" in asker.get("/api/nodes/r1/changes?limit=200").text

            # Somebody else's cut, of which nobody knows the address.
            run("ip", "-n", f"{lab}.r2", "link", "set", "eth1", "down")
            wait_until(lambda: way() == ["h1", "r1", "r3", "r2"], 60, 0.2)
            assert tell(link, state="up").json()["done"] == ["eth1 of r2 set up, fe80::2/64"]
            wait_until(lambda: way() == ["h1", "r1", "r2"], 60, 0.2)

            # A host is not cut off: its routes would be gone with the link.
            for path, status in (("h1.eth0--r1.lan", 409), ("x", 404), ("r1.eth1--r2.eth1%00", 404)):
                assert tell(f"/api/links/{path}", state="down").status_code == status, path
        code, _, err = web.end()
        assert code == 0
        assert [line for line in err.splitlines() if "changed: r1, r2: eth1 of r2 set down" in line]
        assert "Traceback" not in err


def test_what_the_doctor_mends_is_done_and_taken_back(lab: str, tmp_path: Path) -> None:
    key = "net.ipv4.icmp_ratelimit"

    def value() -> str:
        return run("ip", "netns", "exec", f"{lab}.r2", "sysctl", "-n", key).stdout.strip()

    run("ip", "netns", "exec", f"{lab}.r2", "sysctl", "-qw", f"{key}=100000")
    with program("--lab", lab, "--allow-changes") as web:
        token = web.address.partition("token=")[2]
        place = web.address.partition("?")[0]
        assert httpx.get(f"{place}api/network").status_code == 401
        bearer = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=place, headers=bearer, timeout=20) as asker:

            def tell(path: str, **body: str) -> httpx.Response:
                return asker.post(path, json=body, headers={"x-via6-change": "yes"})

            def ids() -> list[str]:
                answer = asker.get("/api/nodes/r2/findings")
                return [one["id"] for one in answer.json()] if answer.status_code == 200 else []

            (found,) = wait_until(lambda: [one for one in ids() if one.startswith("icmp-rate-limit:")], 60, 0.2)
            assert tell("/api/nodes/r1/undo").status_code == 409
            assert tell("/api/nodes/r2/fix", finding="no-such:r2:x").status_code == 404
            assert tell("/api/nodes/r1/fix", finding=found).status_code == 404
            done = tell("/api/nodes/r2/fix", finding=found).json()
            assert done == {"done": [f"{key} = 1000 (was 100000)"], "problems": []}
            assert value() == "1000"
            wait_until(lambda: found not in ids(), 60, 0.2)
            assert tell("/api/nodes/r2/undo").json()["done"] == [f"{key} = 100000"]
            assert value() == "100000"
        assert "Traceback" not in web.end()[2]


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    one, other = f"w{os.getpid()}a", f"w{os.getpid()}b"
    for name in (one, other):
        run("ip", "netns", "add", name)
    run("ip", "link", "add", "eth1", "netns", one, "type", "veth", "peer", "name", "eth1", "netns", other)
    for name, number in ((one, 1), (other, 2)):
        run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.eth1.accept_dad=0", "net.ipv4.ip_forward=1")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "link", "set", "eth1", "up")
        run("ip", "-n", name, "address", "add", f"10.{number}.0.1/24", "dev", "lo")
    try:
        yield one, other
    finally:
        for name in (one, other):
            for pid in run("ip", "netns", "pids", name).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "delete", name)


def test_a_daemon_that_goes_away_and_returns(pair: tuple[str, str]) -> None:
    here, there = pair

    def daemon(name: str) -> subprocess.Popen[bytes]:
        argv = ["ip", "netns", "exec", name, sys.executable, "-m", "via6", "up", "eth1", "--export", "connected"]
        return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    far, near = daemon(there), daemon(here)
    try:
        with program(netns=here) as web:

            def strangers() -> list[str]:
                return [n["name"] for n in web.get("/api/network").json()["nodes"] if n["state"] == "unknown"]

            wait_until(lambda: len(strangers()) == 1, 60)
            assert strangers()[0].endswith("%eth1")
            links = web.get("/api/network").json()["links"]
            assert [(x["state"], x["cost"] is not None) for x in links] == [("up", True)]
            near.terminate()
            near.wait(20)
            name = web.get("/api/network").json()["nodes"][0]["id"]
            wait_until(lambda: web.get(f"/api/nodes/{name}").json()["neighbours"] == [], 60)
            assert web.get("/healthz").json() == {"nodes": 1, "down": 0}
            near = daemon(here)
            wait_until(lambda: web.get(f"/api/nodes/{name}").json()["neighbours"] != [], 60)
            texts = [one["text"] for one in web.get(f"/api/nodes/{name}/changes?limit=200").json()]
            assert "the daemon is gone" in texts
            assert "the daemon is back" in texts
            assert web.end() == (0, "", "")
    finally:
        for process in (far, near):
            process.terminate()
            process.wait(20)
