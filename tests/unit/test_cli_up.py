"""`via6 up`: the same configuration as a file would make, and what it refuses; key files are read with care."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import pytest

from support import Nets, via6
from via6.babel.model import Key, LinkSettings
from via6.cli import up
from via6.cli.keys import read_keys, secrets_shown, with_keys
from via6.cli.main import leaf_parser
from via6.config import BabelSpec, Config, GatewaySpec, NodeSpec, Rule, parse
from via6.errors import FAILED, USAGE, Refusal
from via6.prefix import parse_address, parse_prefix

SECRET = "0123456789abcdef" * 4


def args(*words: str) -> argparse.Namespace:
    return leaf_parser("up", up).parse_intermixed_args(list(words))


def config(*words: str) -> Config:
    return up.config_of(args(*words))


def refused(*words: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        config(*words)
    return caught.value


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "babel.keys"
    path.write_text(f"k1 hmac-sha256 {SECRET}\nk2 blake2s128 00ff\n")
    path.chmod(0o640)
    return path


def test_no_option_says_no_more_than_needed() -> None:
    assert config("eth1", "wg*") == Config(babel=BabelSpec(("eth1", "wg*")))


def test_every_option(keys: Path) -> None:
    made = config(
        "eth1", "--export", "connected", "--export", "10.0.0.0/8,10.0.0.1/32", "wg*", "--import", "any", "--name", "r1",
        "--address", "10.0.0.1", "--key", str(keys), "--accept-all", "--family", "ipv4", "--family", "ipv6",
        "--cost", "7", "--hello-interval", "100", "--update-interval", "4000", "--kernel-metric", "99", "--gateway",
        "--masquerade",
    )  # fmt: skip
    assert made.node == NodeSpec("r1", parse_address("10.0.0.1"))
    assert made.gateway == GatewaySpec(True)
    assert made.babel is not None
    assert made.babel.interfaces == ("eth1", "wg*")
    assert made.babel.exports == (
        Rule("connected"), Rule("prefix", (parse_prefix("10/8"),)), Rule("prefix", (parse_prefix("10.0.0.1"),)),
    )  # fmt: skip
    assert made.babel.imports == (Rule(),)
    assert (made.babel.families, made.babel.kernel_metric) == ({4, 16}, 99)
    signed = (Key("k1", "hmac-sha256", bytes.fromhex(SECRET)), Key("k2", "blake2s128", b"\0\xff"))
    assert made.link("wg3") == LinkSettings(7, 100, 4000, True, signed, True)


def test_the_same_as_a_file_says() -> None:
    text = "[node]\naddress = '10.0.0.1'\n[babel]\ninterfaces = ['e*']\nexport = ['connected', 'default']\ncost = 5\n"
    assert (
        config("e*", "--export", "connected,default", "--cost=5", "--address=10.0.0.1") == parse(text.encode(), "t")[0]
    )


def test_a_relative_key_file_is_found_from_here(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(keys.parent)
    made = config("eth1", "--key", keys.name).link("eth1")
    assert made is not None
    assert [key.name for key in made.keys] == ["k1", "k2"]


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (["lo"], "INTERFACE: Babel is not spoken on the loopback", "eth1"),
        (["sixteen-octets-x"], "INTERFACE: 'sixteen-octets-x' is no device name", "ip -br link"),
        (["!eth1"], "INTERFACE: names no interface", "patterns in quotes"),
        (["eth\udcff"], "INTERFACE: 'eth\\udcff' is no device name", "ip -br link"),
        (["e", "--export", "conected"], "--export: 'conected' is no prefix", 'did you mean "connected"'),
        (["e", "--export", "10.0.0.1/8"], "--export: '10.0.0.1/8' has host bits set", "10.0.0.0/8"),
        (["e", "--export", ""], "--export: '' is no prefix", "10.0.0.0/8"),
        (["e", "--import", "connected"], "--import: 'connected' cannot be imported", "any"),
        (["e", "--address", "10.0.0.1/24"], "--address: '10.0.0.1/24'", "10.0.0.1"),
        (["e", "--address", "2001:db8::1"], "--address: '2001:db8::1' is not an IPv4 address", "IPv4"),
        (["e", "--name", "a b"], "--name: 'a b' is no name", "blanks"),
        (["e", "--cost", "0"], "--cost: cost 0 is out of range", "1 to 65534"),
        (["e", "--hello-interval", "10"], "--hello-interval: ", "50 to"),
        (["e", "--update-interval", "10"], "--update-interval: ", "200 to"),
        (["e", "--kernel-metric", "0"], "--kernel-metric: ", "1 to"),
        (["e", "--accept-all"], "--accept-all: ", "add a key"),
        (["e", "--family", "ipv6", "--gateway"], "--gateway: ", "families"),
        (["e", "--masquerade"], "--masquerade", "--gateway"),
    ],
)
def test_what_is_refused(words: list[str], message: str, remedy: str) -> None:
    refusal = refused(*words)
    assert refusal.code == USAGE
    assert message in refusal.message
    assert remedy in refusal.remedy


def test_all_mistakes_at_once() -> None:
    text = str(refused("lo", "--cost", "0", "--export", "x"))
    assert len(re.findall(r"^(INTERFACE|--cost|--export): ", text, re.MULTILINE)) == 3
    assert text.count("\n  ") == 3


def test_warnings_do_not_stop_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert config("e", "--address", "10.0.0.1").node.address
    assert capsys.readouterr().err.startswith("via6: warning: --address: 10.0.0.1 is not exported")


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601])
def test_a_key_file_that_everybody_may_touch(keys: Path, mode: int) -> None:
    keys.chmod(mode)
    refusal = refused("e", "--key", str(keys))
    assert "everybody" in refusal.message
    assert refusal.remedy == f"chmod o= {keys}"


def test_key_files_that_are_none(keys: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, message in ((tmp_path / "no", "No such file"), (tmp_path, "Is a directory"),
                          (tmp_path / "fifo", "no file that holds keys"), (Path("/\0"), "null")):  # fmt: skip
        with pytest.raises(Refusal) as caught:
            read_keys(str(path))
        assert message in str(caught.value)
    keys.write_text("".join(f"k{i} hmac-sha256 secret{i}\n" for i in range(9)))
    refusal = refused("e", "--key", str(keys))
    assert f"{keys}:1: the secret is not hexadecimal" in refusal.message
    assert "4 more" in refusal.message
    assert "secret1" not in str(refusal)


def test_keys_of_a_file_that_is_configured(keys: Path) -> None:
    head = "[babel]\ninterfaces = ['e']\n"
    made, _ = parse(f"{head}[[babel.key]]\nname = 'k2'\nfile = '{keys.name}'\n[[babel.key]]\nname = 'i'\n"
                    "file = './babel.keys'\n".encode(), "t")  # fmt: skip
    assert made is not None
    with pytest.raises(Refusal, match="no key 'i': those in it are k1, k2"):
        with_keys(made, str(keys.parent))
    text = f"{head}[[babel.key]]\nname = 'k2'\nfile = '{keys.name}'\n"
    made, _ = parse(text.encode(), "t")
    assert made is not None
    settings = with_keys(made, str(keys.parent)).link("e")
    assert settings is not None
    assert settings.keys == (Key("k2", "blake2s128", b"\0\xff"),)
    made, _ = parse(f"{text}algorithm = 'hmac-sha256'\n".encode(), "t")
    assert made is not None
    with pytest.raises(Refusal, match="is for blake2s128"):
        with_keys(made, str(keys.parent))
    assert with_keys(Config()) == Config()


def test_secrets_in_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"[babel]\ninterfaces = ['e']\n[[babel.key]]\nname = 'k'\nsecret = '{SECRET}'\n")
    made, _ = parse(path.read_bytes(), "t")
    assert made is not None
    path.chmod(0o644)
    assert secrets_shown(made, str(path))
    path.chmod(0o640)
    assert not secrets_shown(made, str(path))
    assert not secrets_shown(made, str(tmp_path / "gone"))
    assert not secrets_shown(Config(), "/etc/hostname")


def test_interfaces_that_are_not_there() -> None:
    made = config("eth0", "wg*", "eth9", "!eth8")
    with pytest.raises(Refusal, match="no interface 'eth9' here") as caught:
        up.missing(made, ["lo", "eth1", "eth0"])
    assert "there are: eth0, eth1;" in caught.value.remedy
    with pytest.raises(Refusal, match="no interfaces 'eth0', 'eth9'"):
        up.missing(made, ["lo"])
    up.missing(made, ["eth9", "eth0"])


@pytest.mark.root
def test_interfaces_of_a_namespace(nets: Nets) -> None:
    a, _ = nets.pair()
    code, out, err = via6("up", "eth7", netns=a)
    assert (code, out) == (FAILED, "")
    assert err.startswith("via6: there is no interface 'eth7' here\n  there are: eth0;")
