"""Bad input, for every verb that it concerns: one clear message with the remedy, the right exit code, no traceback, and
nothing that worked is lost."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import support
from daemon_support import declare, ours, router, running, state
from support import Net, Nets, wait_until

root = pytest.mark.root


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIA6_STATE", str(tmp_path / "state"))
    return tmp_path / "via6.toml"


def via6(*words: object, netns: Net | None = None, **options: Any) -> tuple[int, str, str]:
    code, out, err = support.via6(*words, netns=netns, **options)
    assert "Traceback" not in out + err, err
    return code, out, err


# Name, destination, next hop, and what is said of it: typed to `route add` (fault and remedy), and declared.
FAULTS = [
    ("host-bits", "10.0.0.1/8", "2001:db8:1::2", "host bits set", "write 10.0.0.0/8", "host bits set"),
    ("no-device", "10.0.0.0/8", "fe80::1%nix", "no device 'nix'", "eth0", "no device 'nix'"),
    ("no-route", "10.0.0.0/8", "2001:db8:66::1", "cannot be reached", "onlink", "no route to the next hop"),
    ("itself", "10.0.0.0/8", "2001:db8:1::1", "this node itself", "neighbour", "this node itself"),
    ("mapped", "10.0.0.0/8", "::ffff:192.0.2.1", "IPv4-mapped", "192.0.2.1", "IPv4-mapped"),
    ("link-local", "10.0.0.0/8", "fe80::1", "link-local", "dev", "link-local"),
    ("multicast", "10.0.0.0/8", "ff02::1", "not the address of one machine", "", "multicast"),
    ("unspecified", "10.0.0.0/8", "::", "not the address of one machine", "", "unspecified"),
    ("not-an-address", "10.0.0.0/8", "2001:db8::g", "not an IPv6 address", "", "not an IPv6 address"),
    (
        "family",
        "2001:db8:9::/48",
        "192.0.2.1",
        "cannot have an IPv4 next hop",
        "IPv6 address",
        "needs an IPv6 next hop",
    ),
    ("not-on-link", "10.0.0.0/8", "2001:db8:77::1", "is not on a link", "via6 run", "not on link"),
    ("inside", "2001:db8:88::/48", "2001:db8:88::1", "cannot be reached", "", "no route"),
]


def said(text: str, *wanted: str) -> None:
    for word in wanted:
        assert word.lower() in text.lower(), (word, text)


@root
@pytest.mark.parametrize(
    ("to", "via", "typed", "remedy", "declared"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_faults_of_one_route(nets: Nets, conf: Path, to: str, via: str, typed: str, remedy: str, declared: str) -> None:
    r, *_ = router(nets)
    r.ip("-6 route add 2001:db8:77::/48 via 2001:db8:2::2")
    declare(conf, "to=10.5.0.0/16 via=2001:db8:1::2")
    assert via6("apply", conf, netns=r)[0] == 0
    before = state(r)
    code, _, err = via6("route", "add", to, "via", *via.replace("%", " dev ").split(), netns=r)
    assert code in (1, 2)
    said(err, typed, remedy)
    assert err.startswith("via6: ")
    assert state(r) == before
    declare(conf, "to=10.5.0.0/16 via=2001:db8:1::2", f"to={to} via={via}")
    for verb in ("plan", "apply"):
        code, out, err = via6(verb, conf, netns=r)
        assert code == 1
        said(out + err, declared, "route[1]")
        assert state(r) == before


@root
@pytest.mark.parametrize(
    ("to", "via", "message"),
    [(f[1], f[2], f[5]) for f in FAULTS if f[0] != "not-on-link"],
    ids=[f[0] for f in FAULTS if f[0] != "not-on-link"],
)
def test_run_names_the_fault_and_keeps_the_rest(nets: Nets, conf: Path, to: str, via: str, message: str) -> None:
    """What `check` could know is refused; what only the node knows waits, and the other routes work."""
    r, *_ = router(nets)
    declare(conf, "to=10.5.0.0/16 via=2001:db8:1::2", f"to={to} via={via}")
    if via6("check", conf)[0] == 0:
        with running(r, conf) as daemon:
            daemon.says(message)
            wait_until(lambda: "10.5.0.0/16" in "".join(ours(r)))
            assert daemon.stop() == 0
        return
    code, _, err = via6("run", conf, netns=r)
    assert code == 1
    said(err, message)
    # A daemon that runs keeps what it has.
    declare(conf, "to=10.5.0.0/16 via=2001:db8:1::2")
    with running(r, conf) as daemon:
        declare(conf, "to=10.5.0.0/16 via=2001:db8:1::2", f"to={to} via={via}")
        daemon.send(signal.SIGHUP)
        daemon.says("the old configuration stays in force")
        said(daemon.log, message)
        assert "10.5.0.0/16" in "".join(ours(r))


@root
def test_a_recursive_loop(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(
        conf,
        "to=2001:db8:a::/48 via=2001:db8:b::1", "to=2001:db8:b::/48 via=2001:db8:a::1",
        "to=10.1.0.0/16 via=2001:db8:a::1", "to=10.5.0.0/16 via=2001:db8:1::2",
    )  # fmt: skip
    code, out, err = via6("apply", conf, netns=r)
    assert code == 1, out + err
    assert "10.5.0.0/16" in out, out + err
    with running(r, conf) as daemon:
        daemon.says("waits")
        assert [e.split()[0] for e in ours(r)] == ["10.5.0.0/16"]


@root
def test_a_route_that_is_the_way_to_its_own_next_hop(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(conf, "to=2001:db8:1::/64 via=2001:db8:1::2 metric=1", "to=10.5.0.0/16 via=2001:db8:1::2")
    code, out, err = via6("apply", conf, netns=r)
    assert code == 1
    said(out + err, "would lead to its own next hop")
    with running(r, conf) as daemon:
        daemon.says("its own next hop")
        wait_until(lambda: "10.5.0.0/16" in "".join(ours(r)))


@root
def test_contradicting_routes(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(conf, "to=10.0.0.0/8 via=2001:db8:1::2", "to=10/8 via=2001:db8:2::2")
    for verb in ("check", "plan", "apply", "run"):
        code, out, err = via6(verb, conf, netns=r)
        assert code == 1
        said(out + err, "route[0]", "route[1]", "metric")
    code, out, err = via6("render", "iproute2", conf)
    assert code == 1
    assert not out
    assert not ours(r)


@root
@pytest.mark.parametrize(
    "words",
    [
        ["route"], ["route", "add", "10/8", "via", "fe80::1", "dev", "eth0"],
        ["plan", "F"], ["apply", "F"], ["run", "F"],
        ["undo"], ["confirm"], ["explain", "10.1.1.1"],
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "name", ["v6t-there-is-none", "", "/dev/null", "/proc/self/ns/mnt", "/nowhere/at/all", "..", "x\ny"]
)
def test_namespace_missing(conf: Path, words: list[str], name: str) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::1%eth0")
    if name and len(words) > 2 and name.startswith("/"):
        words = words[:2]
    argv = [str(conf) if w == "F" else w for w in words]
    before = support.run("ip", "route").stdout
    if not name and words[0] in ("route", "apply", "run", "undo", "confirm"):
        return  # an empty name means this very namespace, as with `ip -n ""`
    code, _, err = via6("-n", name, *argv)
    if name:
        assert code == 1
        assert err.startswith("via6: ")
        said(err, "namespace")
    assert support.run("ip", "route").stdout == before


# --- files ------------------------------------------------------------------------------------------------------------


def bad_files(folder: Path) -> list[tuple[str, str]]:
    """Files and what is said of them."""
    big = folder / "big.toml"
    with big.open("w") as out:
        for i in range(110_000):
            out.write(
                f"[[route]]\nto = '10.{i >> 16}.{i >> 8 & 255}.{i & 255}/32'\nvia = 'fe80::{i:x}%eth0'\nmetric = {i}\n"
            )
    long = folder / "long.toml"
    long.write_text("x = '" + "y" * 10_000_000 + "'")
    deep = folder / "deep.toml"
    deep.write_text("x = " + "[" * 100_000)
    binary = folder / "binary.toml"
    binary.write_bytes(bytes(range(256)) * 40)
    table = folder / "table.toml"
    table.write_text("[[route]]\nto = '10/8'\nvia = 'fe80::1%eth0'\n[route]\nx = 1\n")
    number = folder / "number.toml"
    number.write_text("[[route]]\nto = '10/8'\nvia = 'fe80::1%eth0'\nmetric = " + "9" * 5_000 + "\n")
    return [
        (str(big), "is not an IPv6 address"),
        (str(long), ""), (str(deep), ""), (str(binary), ""), (str(table), ""), (str(number), ""),
        (str(folder), "folder"), (str(folder / "none.toml"), "No such file"), ("/proc/self/mem", ""), ("", ""),
    ]  # fmt: skip


@root
def test_files(nets: Nets, conf: Path, tmp_path: Path) -> None:
    r, *_ = router(nets)
    declare(conf, "to=10.5.0.0/16 via=2001:db8:1::2")
    assert via6("apply", conf, netns=r)[0] == 0
    before = state(r)
    for file, message in bad_files(tmp_path):
        for words in (["check"], ["plan"], ["apply"], ["run"], ["render", "bird"]):
            code, out, err = via6(*words, file, netns=r, timeout=120)
            assert code == 1, (words, file, code, out[-300:], err[-300:])
            said(out + err, message)
            assert len(err) < 20_000
        assert state(r) == before, file


@root
def test_ten_megabytes_of_routes(nets: Nets, conf: Path) -> None:
    """A large file that is right, works."""
    r, *_ = router(nets)
    with conf.open("w") as out:
        for i in range(140_000):
            out.write(
                f"[[route]]\nto = '10.{i >> 16}.{i >> 8 & 255}.{i & 255}/32'\n"
                f"via = '2001:db8:{1 + i % 2}::2'\nmetric = {i % 7 + 1}\n"
            )
    assert conf.stat().st_size > 9_000_000
    code, out_, err = via6("apply", conf, netns=r, timeout=200)
    if code == 0:
        assert "140000 added" in out_[-100:]
        assert "140000 removed" in via6("undo", netns=r, timeout=200)[1][-100:]
    else:
        said(err, "too large")


# --- odd command lines ------------------------------------------------------------------------------------------------


_WORDS = """
- -- -n -j -4 -6 -c -br --netns --netns= -h --help -V -v -batch --confirm --exit-code --keep --accept-risk lose-ssh
route add del replace show get explain check plan apply confirm undo render completion bash bird
via dev src metric table weight nexthop mtu type proto onlink from iif blackhole static main local none default any all
10/8 0/0 ::/0 10.0.0.1/8 fe80::1 fe80::1%eth0 fe80::1% ::ffff:1.2.3.4 1.2.3.4%eth0 eth0 lo /dev/null /nowhere
999999999999999999999999 -1 0x10 1e9 4294967295 4294967296 46 % / // 1/2/3 --nexthop-compat-mode
"""
WORDS = [*_WORDS.split(), "", " ", "\udcff", "a\nb", "é" * 300, "route" * 1000, "'", '"', "$(id)", "\\", "²", "١"]


def raw(argv: list[bytes], **options: Any) -> tuple[int, str]:
    """Exit code and stderr."""
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"via6", *argv], capture_output=True, timeout=60, check=False, **options
    )
    return done.returncode, done.stderr.decode(errors="replace")


@root
def test_odd_words(nets: Nets, tmp_path: Path) -> None:
    """Every verb with every odd word, and random lines: exit codes 0 to 3, no traceback. In one process per hundred
    lines, so that it is quick."""
    node = nets.new()
    verbs = ["route", "explain", "check", "plan", "apply", "confirm", "undo", "render", "completion", "nonsense"]
    lines = [[verb, word] for verb, word in itertools.product(verbs, WORDS)]
    lines += [["route", "add", word, "via", "fe80::1", "dev", "lo"] for word in WORDS]
    lines += [["route", "add", "10/8", "via", word, "dev", "lo"] for word in WORDS]
    lines += [
        ["route", "add", "10/8", "via", "fe80::1", key, word]
        for key in ("dev", "src", "metric", "table", "weight")
        for word in WORDS
    ]
    lines += [["explain", "10.1.1.1", key, word] for key in ("from", "iif", "mark") for word in WORDS]
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    lines += [[chance.choice(verbs), *chance.choices(WORDS, k=chance.randrange(1, 7))] for _ in range(600)]
    faults = node.call(_many, lines, str(tmp_path / "state"))
    assert not faults, f"seed {seed}: {faults[:5]}"


def _many(lines: list[list[str]], folder: str) -> list[str]:
    import io

    from via6.cli.main import main

    os.environ["VIA6_STATE"] = folder
    os.environ["XDG_RUNTIME_DIR"] = folder
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    faults = []
    for argv in lines:
        sys.stdin = io.TextIOWrapper(io.BytesIO())
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said_:
            try:
                code = main(argv)
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else 99
            except BaseException as error:
                faults.append(f"{argv}: {error!r}")
                continue
        if code not in (0, 1, 2, 3) or (
            code
            and not said_.getvalue().strip()
            and argv[0] not in ("explain", "route", "plan", "apply", "check", "render")
        ):
            faults.append(f"{argv}: {code} {said_.getvalue()}")
    return faults


NOT_UTF8 = b"\xff\xfe"


@pytest.mark.parametrize(
    "argv",
    [
        [NOT_UTF8],
        [b"route", NOT_UTF8],
        [b"-n", NOT_UTF8, b"route"],
        [b"check", NOT_UTF8],
        [b"plan", NOT_UTF8],
        [b"apply", NOT_UTF8],
        [b"run", NOT_UTF8],
        [b"render", NOT_UTF8, b"x"],
        [b"render", b"bird", NOT_UTF8],
        [b"explain", NOT_UTF8],
        [b"route", b"add", NOT_UTF8],
        [b"route", b"add", b"10/8", b"via", b"fe80::1", b"dev", NOT_UTF8],
        [b"lab", b"up", NOT_UTF8],
        [b"completion", NOT_UTF8],
        [b"explain", b"10.1.1.1", b"iif", NOT_UTF8],
    ],
)
def test_arguments_that_are_not_utf8(argv: list[bytes]) -> None:
    for env in ({}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}):
        code, err = raw(argv, env={**os.environ, **env})
        assert code in (1, 2), err
        assert err.strip(), err
        assert "Traceback" not in err


SHOWS = [
    ["-h"], ["help"], ["-V"], ["route", "-h"], ["completion", "bash"], ["check", "F"], ["render", "bird", "F"],
    ["plan", "F"], ["route"], ["-j", "route", "show", "table", "all"],
]  # fmt: skip


@root
@pytest.mark.parametrize("words", SHOWS, ids=" ".join)
def test_standard_output_that_takes_nothing(nets: Nets, conf: Path, words: list[str]) -> None:
    r, *_ = router(nets)
    r.ip("route add 10.77.0.0/16 via inet6 2001:db8:1::2 dev eth0")
    declare(conf, *[f"to=10.{i}.0.0/16 via=2001:db8:1::2" for i in range(200)])
    argv = [sys.executable, "-m", "via6", "-n", r.name, *(str(conf) if w == "F" else w for w in words)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    if words[-1] not in ("-h", "help", "-V"):  # there argparse itself looks away
        assert done.returncode == 1, (done.returncode, done.stderr)
        assert "No space left" in done.stderr, (done.returncode, done.stderr)
    for stream in (">&-", "2>&-", "<&-", ">&- 2>&- <&-", "| true"):
        line = " ".join(argv) + f" {stream}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)
        assert "Traceback" not in done.stderr, (stream, done.stderr)
        assert "Exception ignored" not in done.stderr, (stream, done.stderr)


@root
def test_apply_to_a_full_output_is_applied_and_can_be_undone(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(conf, "to=10.0.0.0/8 via=2001:db8:1::2")
    with open("/dev/full", "w") as full:
        argv = [sys.executable, "-m", "via6", "-n", r.name, "apply", str(conf)]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert ours(r)
    assert via6("undo", netns=r)[0] == 0
    assert not ours(r)


@root
def test_standard_input_missing_or_odd(nets: Nets, conf: Path) -> None:
    r = nets.new()
    for verb in ("check", "plan", "apply", "run", "render bird", "route -batch"):
        for redirect in ("<&-", "0>/dev/null", "</dev/null"):
            if redirect == "</dev/null" and verb == "run":
                continue
            line = f"{sys.executable} -m via6 -n {r.name} {verb} - {redirect}"
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)
            assert "Traceback" not in done.stderr, (line, done.stderr)
            if redirect != "</dev/null" and "-batch" not in verb:  # a batch of nothing is none, as with ip
                assert done.returncode in (1, 2), line
                assert done.stderr.startswith("via6: "), line
