"""The frame of the command line: verbs, help, exit codes, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support import Nets, via6
from via6 import __version__
from via6.cli.main import VERBS, _with_colour, dispatch, main
from via6.errors import FAILED, OK, USAGE, Refusal


def test_no_verb_shows_help_and_is_a_usage_error() -> None:
    code, out, err = via6("")
    assert (code, out) == (USAGE, "")
    code, out, err = via6()
    assert (code, out) == (USAGE, "")
    assert "verbs:" in err


@pytest.mark.parametrize("words", ["-h", "--help", "help"])
def test_help_lists_every_verb_with_examples(words: str) -> None:
    code, out, err = via6(words)
    assert (code, err) == (OK, "")
    for verb, (_, text) in VERBS.items():
        assert f"  {verb:<11} {text}\n" in out
    assert "examples:\n  via6 route add 10.0.0.0/8 via fe80::22 dev eth1" in out
    assert "exit codes: 0 good" in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    code, out, err = via6(verb, "-h")
    assert (code, err) == (OK, "")
    assert out.startswith(f"usage: via6 {verb}")
    assert f"  via6 {verb}" in out.partition("examples:")[2] or f" {verb} " in out.partition("examples:")[2]


def test_version() -> None:
    assert via6("-V") == (OK, f"via6 {__version__}\n", "")


def test_unknown_verb() -> None:
    code, out, err = via6("rout6")
    assert (code, out) == (USAGE, "")
    assert err == "via6: unknown verb 'rout6'\n  `via6 -h` lists the verbs\n"


def test_an_unambiguous_beginning_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        dispatch(["exp", "-h"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: via6 explain")
    with pytest.raises(Refusal, match="unknown verb 'co'"):
        dispatch(["co"])  # completion, confirm


@pytest.mark.parametrize("words", [["-n"], ["-x", "route"], ["--color=pink", "route"], ["-netn", "a", "route"]])
def test_wrong_options_before_the_verb(words: list[str]) -> None:
    code, out, err = via6(*words) if len(words) > 1 else via6("-n")
    assert (code, out) == (USAGE, "")
    assert "via6: error: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("-c route", "-c=auto route"),
        ("-c never route", "-c=never route"),
        ("route -c 10.0.0.1", "route -c=auto 10.0.0.1"),
        ("route --color", "route --color=auto"),
        ("-color=always route", "-color=always route"),
        ("lab exec r1 -- ip -c route", "lab exec r1 -- ip -c route"),
    ],
)
def test_a_colour_option_does_not_take_the_next_word(typed: str, read: str) -> None:
    assert _with_colour(typed.split()) == read.split()


@pytest.mark.parametrize("name", ["no-such-net", "../etc", "/no/such/path", "lab/node", "a b", "ü"])
def test_missing_namespace(name: str) -> None:
    code, out, err = via6("-n", name, "route")
    assert (code, out) == (FAILED, "")
    assert err.startswith(f"via6: there is no network namespace {name!r}\n  ")


def test_a_file_is_no_namespace() -> None:
    code, out, err = via6("-n", "/dev/null", "route")
    assert (code, out) == (FAILED, "")
    assert err.startswith("via6: /dev/null is not a network namespace: ")


ODD = (
    ["route", "show", "\udcff\udcfe"],
    ["route", "show", "10.0.0.0/8/8"],
    ["route", "show", "1" * 100_000],
    ["route", "show", "table", "-1"],
    ["route", "show", "table", "9" * 50],
    ["route", "show", "dev", "x" * 5000],
    ["route", "-batch", "/no/such/file"],
    ["route", "-batch", "/"],
    ["route", "-batch", "/dev/null/x"],
    ["explain"],
    ["explain", ""],
    ["explain", "%"],
    ["explain", "fe80::1%"],
    ["explain", "10.0.0.1", "iif", "nowhere"],
    ["explain", "١٠.0.0.1"],
    ["check"],
    ["check", "/no/such/file"],
    ["check", "/"],
    ["check", "/dev/null"],
    ["plan", "/no/such/file"],
    ["render", "nothing", "/dev/null"],
    ["render", "bird", "/no/such/file"],
    ["completion", "csh"],
    ["lab", "up", "/no/such/file"],
    ["lab", "what"],
    ["route", "--"],
    ["--", "route"],
)


@pytest.mark.parametrize("words", ODD, ids=lambda w: " ".join(w)[:30].encode("ascii", "replace").decode())
def test_odd_words_get_one_clear_message(words: list[str]) -> None:
    code, out, err = via6(*words)
    assert "Traceback" not in err
    assert "Traceback" not in out
    assert code in (OK, FAILED, USAGE)
    if code != OK:
        assert err.strip() or out.strip()


def test_a_reader_that_has_gone_is_no_fault() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "via6", "help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (OK, "")


def test_a_full_disk_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "via6", "completion", "bash"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == FAILED
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


def test_closed_streams() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m via6 route show >&- 2>&- <&-', sys.executable], capture_output=True, check=False
    )
    assert done.returncode in (OK, FAILED)


def test_exit_code_of_a_refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import via6.cli.explain

    def refuse(_args: object) -> int:
        raise Refusal("the message", "the remedy", 4)

    monkeypatch.setattr(via6.cli.explain, "run", refuse)
    assert main(["explain", "10.0.0.1"]) == 4
    assert capsys.readouterr().err == "via6: the message\n  the remedy\n"


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (PermissionError(1, "Not permitted"), FAILED)])
def test_interrupted_or_forbidden(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import via6.cli.explain

    def stop(_args: object) -> int:
        raise error

    monkeypatch.setattr(via6.cli.explain, "run", stop)
    assert main(["explain", "10.0.0.1"]) == code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.root
def test_a_namespace_before_the_verb(nets: Nets) -> None:
    net = nets.new()
    net.ip("route add blackhole 10.99.0.0/16")
    for words in (["-n", net.name], ["--netns", str(net.path)], ["-netns", net.name]):
        code, out, _ = via6(*words, "route", "show")
        assert code == OK
        assert "10.99.0.0/16" in out


@pytest.mark.root
def test_without_privilege_the_kernel_refuses_in_plain_words(nets: Nets) -> None:
    net = nets.new()
    add = [sys.executable, "-m", "via6", "route", "add", "blackhole", "10.99.0.0/16"]
    done = net.run("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *add, check=False)
    assert done.returncode == FAILED
    assert "Traceback" not in done.stderr
    assert "root" in done.stderr
    assert net.json("route") == []
