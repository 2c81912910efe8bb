"""`via6 web` as a program: how it starts and ends, what it says against its command line, many and slow listeners."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from support import via6, wait_until
from verify_support import network
from via6.observe.node import Node
from web_support import Program, connect, events, first, program, write

pytestmark = pytest.mark.skipif(not socket.has_ipv6, reason="[::1] is where it listens")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "net", nodes().values())
    return tmp_path / "net"


def nodes() -> dict[str, Node]:
    return network([("r1", "r2"), ("r2", "r3"), ("r1", "r3")], babel=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_quietly(folder: Path, number: int) -> None:
    with program("--snapshots", str(folder)) as web:
        assert web.get("/healthz").json()["nodes"] == 3
        listening = threading.Thread(target=lambda: list(events(web.address, 30)))
        listening.start()
        wait_until(lambda: "via6_web_streams 1.0" in web.get("/metrics").text)
        assert web.end(number) == (0, "", "")
        listening.join(10)


def test_a_port_that_is_taken(folder: Path) -> None:
    with program("--snapshots", str(folder)) as web:
        place = "[%s]:%d" % web.place
        code, _, err = via6("web", "--snapshots", str(folder), "--listen", place)
        assert code == 1
        assert f"{place} is taken" in err
        assert "--listen" in err


@pytest.mark.parametrize(
    ("args", "code", "word"),
    [
        (("--listen", "192.0.2.1:8046"), 2, "a token is needed"), (("--listen", "[::]:8046"), 2, "a token is needed"),
        (("--listen", "nonsense"), 2, "no address to listen on"), (("--lab", "x", "--inventory", "y"), 2, "not both"),
        (("--interval", "0"), 2, "--interval"), (("--interval", "nan"), 2, "--interval"),
        (("--lab", "there-is-none"), 1, "is not up"), (("--snapshots", "/nonexistent"), 1, "cannot read"),
        (("--inventory", "/nonexistent"), 1, "cannot read"), (("--config", "/nonexistent"), 2, "cannot read"),
        (("--token", "/nonexistent"), 2, "cannot read"),
        (("--glass", "--listen", "203.0.113.77:1"), 1, "no address 203"),
    ],
)  # fmt: skip
def test_what_it_refuses(tmp_path: Path, folder: Path, args: tuple[str, ...], code: int, word: str) -> None:
    source = () if {"--lab", "--snapshots", "--inventory"} & set(args) else ("--snapshots", str(folder))
    found, out, err = via6("web", *source, *args)
    assert (found, out) == (code, "")
    assert word in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("colour = 1", "colour"), ("[glass]\nhide = ['10.0.0.1/8']", "hide"), ("title = 5", "title"),
        ("[", "web.toml: "), ("proxies = ['x']", "proxies"),
        ("[[desktop]]\nname = '../x'\nhost = '10.0.0.1'", "name"), ("[[desktop]]\nname = 'x'", "host"),
    ],
)  # fmt: skip
def test_a_file_with_mistakes(tmp_path: Path, folder: Path, text: str, word: str) -> None:
    file = tmp_path / "web.toml"
    file.write_text(text)
    code, _, err = via6("web", "--snapshots", str(folder), "--config", str(file))
    assert code in (1, 2)
    assert word in err
    assert "Traceback" not in err


def test_title_names_and_token(tmp_path: Path, folder: Path) -> None:
    file, token = tmp_path / "web.toml", tmp_path / "token"
    file.write_text('title = "my network"\nhosts = ["net.example"]\n')
    token.write_text("0123456789abcdef0123\n")
    token.chmod(0o600)
    with program("--snapshots", str(folder), "--config", str(file), "--token", str(token)) as web:
        assert web.get("/api/network").status_code == 401
        bearer = {"authorization": "Bearer 0123456789abcdef0123", "host": "net.example"}
        assert web.get("/api/network", headers=bearer).json()["title"] == "my network"
        with httpx.Client(base_url=web.address, follow_redirects=True) as browser:
            page = browser.get("/?token=0123456789abcdef0123")
            assert page.status_code == 200
            assert "token" not in str(page.url)
            assert browser.get("/api/network").status_code == 200


def test_help_imports_no_library_of_the_web() -> None:
    code = "import sys; from via6.cli.main import main; main(['--help'])"
    check = "assert not {'starlette', 'uvicorn', 'jinja2', 'prometheus_client'} & set(sys.modules), sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n{check}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "web" in done.stdout


def test_without_the_libraries_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys; found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name in ('uvicorn', 'jinja2') else found(name, *a)\n"
        "from via6.cli.main import main; sys.exit(main(['web']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "via6: via6 web needs uvicorn, jinja2\n  pip install 'via6[web]'\n"


# --- listeners -------------------------------------------------------------------------------------------------------


def test_a_change_is_told_with_a_number_that_brings_it_back(folder: Path) -> None:
    there = nodes()
    with program("--snapshots", str(folder)) as web:
        with closing(events(web.address, 30)) as told:
            begin = next(told)
            assert begin.kind == "network"
            write(folder, [there["r1"], there["r2"]])
            changed = first(told, lambda e: e.kind == "network")
        assert changed.id > begin.id
        assert len([n for n in changed.data["nodes"] if n["state"] == "up"]) == 2
        with closing(events(web.address, 30, last=changed.id - 1)) as again:
            assert next(again).id == changed.id


def rss(process: int) -> int:
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ask(web: Program, last: str = "") -> socket.socket:
    peer = connect(web.place)
    peer.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % last.encode())
    return peer


def test_two_hundred_listeners_hear_a_change(folder: Path) -> None:
    there = nodes()
    with program("--snapshots", str(folder)) as web:
        peers = [ask(web) for _ in range(200)]
        try:
            wait_until(lambda: "via6_web_streams 200.0" in web.get("/metrics").text, 20)
            write(folder, [there["r1"], there["r2"]])
            for peer in peers:
                told = b""
                while told.count(b"event: network") < 2:
                    data = peer.recv(1 << 16)
                    assert data
                    told += data
            assert web.get("/api/network").status_code == 200
        finally:
            for peer in peers:
                peer.close()
        wait_until(lambda: "via6_web_streams 0.0" in web.get("/metrics").text, 20)
        assert web.end() == (0, "", "")


def test_a_stranger_does_not_take_the_streams_of_all(folder: Path) -> None:
    with program("--snapshots", str(folder), "--glass") as web:
        peers = [ask(web) for _ in range(9)]
        try:
            answers = sorted(peer.recv(12) for peer in peers)
        finally:
            for peer in peers:
                peer.close()
        assert answers == [b"HTTP/1.1 200"] * 8 + [b"HTTP/1.1 429"]
        assert web.end() == (0, "", "")


def test_listeners_that_do_not_read_cost_nothing(folder: Path) -> None:
    """They are stuck with small windows while the network changes; the server stays small and answers."""
    there = nodes()
    with program("--snapshots", str(folder)) as web:
        peers = []
        for _ in range(50):
            peer = socket.socket(socket.AF_INET6)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            peer.connect(web.place)
            peer.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            peers.append(peer)
        wait_until(lambda: "via6_web_streams 50.0" in web.get("/metrics").text, 20)
        before = rss(web.process.pid)
        for turn in range(4):
            write(folder, list(there.values())[: 2 + turn % 2])
            wait_until(lambda turn=turn: len(web.get("/api/network").json()["nodes"]) >= 2 + turn % 2, 20)  # type: ignore[misc]
        assert rss(web.process.pid) - before < 64 << 20
        assert web.get("/healthz").status_code == 200
        for peer in peers:
            peer.close()
        assert web.end() == (0, "", "")


def test_rubbish_on_the_wire(folder: Path) -> None:
    with program("--snapshots", str(folder)) as web:
        for octets in (
            b"", b"\0" * 5000, b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
            b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 100_000,
            b"POST /api/network HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\nx",
            b"POST /api/network HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET /\xff\xfe?\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
            (b"GET /desktops/x/socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
             b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"),
        ):  # fmt: skip
            with connect(web.place) as peer:
                peer.sendall(octets)
                peer.shutdown(socket.SHUT_WR)
                peer.settimeout(10)
                answer = b""
                try:
                    while data := peer.recv(1 << 16):
                        answer += data
                except ConnectionResetError:
                    pass
                assert not answer or answer.startswith(b"HTTP/1.1 ")
                assert b"Traceback" not in answer
                if b"socket" in octets:
                    assert answer.startswith(b"HTTP/1.1 403")
        assert web.get("/healthz").status_code == 200
        code, _, err = web.end()
        assert (code, err) == (0, "")


def test_a_page_says_it_all_before_scripts(folder: Path) -> None:
    with program("--snapshots", str(folder)) as web:
        page = web.get("/?from=r1&to=10.2.0.1").text
        for text in ("r1", "10.2.0.0/24", "ACCEPTED", "via inet6 fe80::2 dev eth1"):
            assert text in page
        assert "10.2.0.0/24" in web.get("/nodes/r1").text
        for path in re_links(page):
            assert web.get(path).status_code == 200, path


def re_links(page: str) -> list[str]:
    import re

    return sorted(set(re.findall(r'(?:href|src)="(/[^"#]*)"', page)))


def test_time_is_not_wasted_when_nothing_happens(folder: Path) -> None:
    """No exact figure (bench/web.py measures): an idle server does not spin."""
    with program("--snapshots", str(folder)) as web:
        wait_until(lambda: web.get("/api/network").json()["nodes"][0]["findings"] is not None, 10)
        time.sleep(0.5)

        def ticks() -> int:
            with open(f"/proc/{web.process.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])

        before = ticks()
        time.sleep(1.5)
        assert ticks() - before < 75  # of 150
