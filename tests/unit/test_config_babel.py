"""`[node]`, `[babel]`, `[gateway]` and `[[host]]`: their meaning, and every mistake with place, line and remedy."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import ROOT
from via6.babel.model import COST, HELLO_INTERVAL_MS, UPDATE_INTERVAL_MS, Key, LinkSettings
from via6.config import BabelSpec, Config, Problem, Rule, declared, parse
from via6.config_babel import KERNEL_METRIC, MAX_KEY_FILE, is_martian, parse_keys
from via6.config_rules import RuleTable
from via6.config_shape import BabelTable, GatewayTable, HostTable, InterfaceTable, KeyTable, NodeTable, TraceTable
from via6.prefix import parse_address, parse_prefix

SECRET = "0123456789abcdef" * 4
ETH = "[babel]\ninterfaces = ['eth*']\n"


def good(text: str) -> Config:
    config, problems = parse(text.encode(), "t.toml")
    assert config is not None, list(map(str, problems))
    assert not problems, list(map(str, problems))
    return config


def babel(body: str, rest: str = "") -> BabelSpec:
    found = good(f"{ETH}{body}\n{rest}").babel
    assert found is not None
    return found


def bad(text: str) -> list[Problem]:
    config, problems = parse(text.encode(), "t.toml")
    assert config is None
    assert all(problem.remedy for problem in problems)
    return problems


def one(text: str) -> Problem:
    (problem,) = bad(text)
    assert problem.severity == "error"
    return problem


def warned(text: str) -> Problem:
    config, (problem,) = parse(text.encode(), "t.toml")
    assert config is not None
    assert problem.severity == "warning"
    return problem


P = parse_prefix


# --- what is good --------------------------------------------------------------------------------------------------


def test_without_babel_nothing_is_spoken() -> None:
    config = good("[[route]]\nto = '10/8'\nvia = 'fe80::1%eth1'\n")
    assert (config.babel, config.gateway, config.hosts, config.node.address) == (None, None, (), None)
    assert config.link("eth1") is None


def test_defaults() -> None:
    spec = babel("")
    assert spec == BabelSpec(("eth*",))
    assert (spec.exports, spec.imports, spec.families, spec.kernel_metric) == ((), None, {4}, KERNEL_METRIC)
    settings = spec.link("eth1")
    assert settings == LinkSettings()
    assert (settings.cost, settings.hello_interval_ms, settings.update_interval_ms) == (
        COST, HELLO_INTERVAL_MS, UPDATE_INTERVAL_MS,
    )  # fmt: skip
    assert spec.link("wlan0") is None


def test_interfaces_are_names_and_patterns_and_exclusions() -> None:
    spec = good("[babel]\ninterfaces = ['eth[1-3]', 'wg*', '!wg9', 'br0']\n").babel
    assert spec is not None
    names = ("eth0", "eth1", "eth3", "eth10", "wg0", "wg9", "br0", "br1", "wg90")
    assert [name for name in names if spec.speaks_on(name)] == ["eth1", "eth3", "wg0", "br0", "wg90"]
    assert good("[babel]\ninterfaces = 'eth1'\n").babel == BabelSpec(("eth1",))


def test_the_last_table_that_matches_wins_key_by_key() -> None:
    spec = babel(
        "cost = 10\nhello_interval_ms = 100\nsplit_horizon = false",
        "[babel.interface.eth1]\ncost = 20\nupdate_interval_ms = 4000\n"
        "[babel.interface.'eth*']\ncost = 30\n[babel.interface.'*2']\nsplit_horizon = true\n",
    )
    assert spec.link("eth1") == LinkSettings(30, 100, 4000, False)
    assert spec.link("eth2") == LinkSettings(30, 100, UPDATE_INTERVAL_MS, True)
    assert spec.link("eth3") == LinkSettings(30, 100, UPDATE_INTERVAL_MS, False)


@pytest.mark.parametrize(("key", "size"), [("['ipv4']", {4}), ("['ipv4', 'ipv6']", {4, 16}), ("'ipv6'", {16})])
def test_families(key: str, size: set[int]) -> None:
    assert babel(f"families = {key}").families == size


@pytest.mark.parametrize(
    ("export", "rule"),
    [
        ("'connected'", Rule("connected")),
        ("'static'", Rule("static")),
        ("'default'", Rule("prefix", (P("0/0"),))),
        ("'0.0.0.0/0'", Rule("prefix", (P("0/0"),))),
        ("'10.1.2.3'", Rule("prefix", (P("10.1.2.3/32"),))),
        ("{prefix = ['10/8', '172.16/12'], metric = 7}", Rule("prefix", (P("10/8"), P("172.16/12")), metric=7)),
        ("{from = 'default', metric = 3}", Rule("prefix", (P("0/0"),), metric=3)),
        ("{from = 'connected', within = '10/8', length = '16-24'}", Rule("connected", (), (P("10/8"),), 16, 24)),
        ("{from = 'static', length = 24}", Rule("static", (), (), 24, 24)),
        ("{from = 'static', prefix = '10/8'}", Rule("static", (P("10/8"),))),
    ],
)
def test_ways_to_write_a_rule(export: str, rule: Rule) -> None:
    assert babel(f"export = [{export}]").exports == (rule,)
    assert babel(f"export = {export}").exports == (rule,)


def test_rules_that_deny() -> None:
    exports = babel("export = [{deny = true, within = '10.9/16'}, {deny = true, prefix = '10/8'}, 'connected']").exports
    assert exports == (Rule("any", (), (P("10.9/16"),), deny=True), Rule("any", (P("10/8"),), deny=True),
                       Rule("connected"))  # fmt: skip
    imports = babel("import = [{deny = true, within = '10.9/16', length = '25-32'}, 'any']").imports
    assert imports == (Rule("any", (), (P("10.9/16"),), 25, 32, deny=True), Rule())
    assert babel("import = []").imports == ()
    assert babel("import = ['default', '10/8']").imports == (Rule("any", (P("0/0"),)), Rule("any", (P("10/8"),)))


def test_what_a_rule_fits() -> None:
    rule = Rule("any", (), (P("10/8"), P("172.16/12")), 12, 24)
    fitting = ("10.1/16", "10.16/12", "10.1.2.0/24", "172.16/12")
    assert all(rule.fits(P(text)) for text in fitting)
    assert not any(rule.fits(P(text)) for text in ("10/8", "10.1.2.128/25", "172/11", "11.1/16", "::/16"))


def test_martians() -> None:
    for text in ("0.0.0.0/8", "0.0.0.0", "127.0.0.1", "127/8", "169.254.1.0/24", "192.0.0.8", "192.0.0.0/24",
                 "224/4", "239.1.1.1", "240/4", "255.255.255.255", "224/3", "::1", "::", "fe80::/64", "ff02::1",
                 "::ffff:1.2.3.0/120"):  # fmt: skip
        assert is_martian(P(text)), text
    for text in ("0/0", "::/0", "0/1", "10/8", "192.0.2.0/24", "192.0.0.0/16", "169.0.0.0/8", "126/7", "2001:db8::/32",
                 "64:ff9b::/96", "fd00::/8", "fec0::/10"):  # fmt: skip
        assert not is_martian(P(text)), text


def test_node_gateway_and_hosts() -> None:
    config = good(
        "[node]\nname = 'r1'\naddress = '10.0.0.1/32'\n[gateway]\nmasquerade = true\nuplink = 'ppp*'\nmetric = 5\n"
        f"{ETH}export = 'connected'\n"
        "[[host]]\naddress = ['10.0.8.42', '10.0.8.43/32']\nmac = '52-54-00-12-34-56'\ninterface = 'lan0'\n"
        "[[host]]\naddress = '10.0.8.44'\nvia = 'fe80::22%eth7'\n"
        "[[host]]\naddress = '10.0.8.45'\ninterface = 'eth7'\n"
    )
    assert (config.node.name, config.node.address) == ("r1", parse_address("10.0.0.1"))
    assert config.gateway is not None
    assert (config.gateway.masquerade, config.gateway.uplink, config.gateway.metric) == (True, "ppp*", 5)
    first, second, _ = config.hosts
    assert first.addresses == (parse_address("10.0.8.42"), parse_address("10.0.8.43"))
    assert (first.mac, first.via, first.interface) == (bytes.fromhex("525400123456"), None, "lan0")
    assert (second.mac, second.via, second.interface) == (None, parse_address("fe80::22"), "eth7")
    assert [host.speaks for host in config.hosts] == [False, False, True]
    assert first.place == "t.toml:11: host[0]"
    # From neighbours on a link with hosts only what those that speak may say.
    settings = config.link("eth7")
    assert settings is not None
    assert settings.allowed == (P("10.0.8.45/32"),)
    assert config.link("eth1") == LinkSettings()
    assert config.link("lan0") is None


def test_empty_gateway_is_a_gateway() -> None:
    assert good(f"{ETH}[gateway]\n").gateway is not None


def test_example_is_good() -> None:
    config = good((ROOT / "examples" / "babel.toml").read_text())
    assert config.babel is not None
    assert config.babel.key_files == ("/etc/via6/babel.keys",)
    settings = config.link("wg0")
    assert settings is not None
    assert (settings.cost, settings.hello_interval_ms, settings.keys) == (400, 2000, ())
    assert config.link("eth9") is None


# --- keys ----------------------------------------------------------------------------------------------------------


def test_keys_by_name_by_table_and_by_file() -> None:
    spec = babel(
        "",
        f"[[babel.key]]\nname = 'new'\nsecret = '{SECRET}'\n"
        f"[[babel.key]]\nname = 'old'\nalgorithm = 'blake2s128'\nsecret = '{SECRET.upper()}'\n"
        "[babel.interface.eth1]\nkey = 'old'\n[babel.interface.eth2]\nkey = []\n"
        "[babel.interface.eth3]\nkey = ['./k', 'new']\n"
        "[[babel.interface.eth4.key]]\nname = 'own'\nfile = '/etc/own'\n",
    )
    secret = bytes.fromhex(SECRET)
    new, old = Key("new", "hmac-sha256", secret), Key("old", "blake2s128", secret)
    assert spec.key_files == ("./k", "/etc/own")
    with pytest.raises(LookupError):
        spec.link("eth3")
    read = (Key("new", "hmac-sha256", b"another"), Key("k2", "blake2s128", b"x"))
    own = Key("own", "hmac-sha256", b"y")
    files = (("./k", read), ("/etc/own", (Key("no", "blake2s128", b"z"), own)))
    spec = replace(spec, files=files)

    def keys(name: str) -> tuple[Key, ...]:
        settings = spec.link(name)
        assert settings is not None
        return settings.keys

    assert keys("eth9") == (new, old)
    assert keys("eth1") == (old,)
    assert keys("eth2") == ()
    assert keys("eth3") == read  # of two keys with one name the first in the list counts
    assert keys("eth4") == (own,)


def test_key_file() -> None:
    text = f"# keys\n\nbackbone  hmac-sha256\t{SECRET}  # since May\nold blake2s128 00ff\n"
    keys, problems = parse_keys(text.encode(), "k")
    assert not problems
    assert keys == (Key("backbone", "hmac-sha256", bytes.fromhex(SECRET)), Key("old", "blake2s128", b"\0\xff"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("backbone hmac-sha256", "2 words"),
        ("a b c d", "4 words"),
        (f"a sha256 {SECRET}", "unknown algorithm 'sha256'"),
        ("a hmac-sha256 topsecret", "not hexadecimal"),
        ("a hmac-sha256 abc", "not hexadecimal"),
        (f"a hmac-sha256 {'00' * 65}", "65 octets: hmac-sha256 takes 64"),
        (f"a blake2s128 {'00' * 33}", "33 octets: blake2s128 takes 32"),
        (f"a/b blake2s128 {SECRET}", "no name of a key"),
        ("\xff\x00 blake2s128 00", "no name of a key"),
    ],
)
def test_mistakes_in_a_key_file(line: str, message: str) -> None:
    data = f"good hmac-sha256 {SECRET}\n".encode() + line.encode("latin-1") + b"\n"
    _, (problem,) = parse_keys(data, "k")
    assert message in problem.message
    assert problem.remedy
    assert str(problem).startswith("k:2: ")
    assert "topsecret" not in str(problem) + problem.remedy


def test_more_mistakes_in_key_files() -> None:
    twice = f"a hmac-sha256 {SECRET}\na blake2s128 00\n\nb c\n".encode()
    assert [p.line for p in parse_keys(twice, "k")[1]] == [2, 4]
    assert "no key" in parse_keys(b"# none\n", "k")[1][0].message
    assert "larger" in parse_keys(b"#" * (MAX_KEY_FILE + 1), "k")[1][-1].message


@given(st.binary(max_size=200))
def test_any_octets_as_key_file(data: bytes) -> None:
    keys, problems = parse_keys(data, "k")
    assert keys or problems


# --- one mistake each ----------------------------------------------------------------------------------------------

KEY = f"[[babel.key]]\nname = 'k'\nsecret = '{SECRET}'\n"


@pytest.mark.parametrize(
    ("body", "place", "message", "remedy"),
    [
        ("hello_interval_ms = 0", "hello_interval_ms", "out of range", "50 to 200000"),
        ("hello_interval_ms = 49", "hello_interval_ms", "out of range", "50 to 200000"),
        ("hello_interval_ms = 200010", "hello_interval_ms", "out of range", "50 to 200000"),
        ("hello_interval_ms = 55", "hello_interval_ms", "counts in 10 ms", "50 or 60"),
        ("hello_interval_ms = '1s'", "hello_interval_ms", "is a text", "without quotes"),
        ("hello_interval_ms = 0x" + "f" * 9999, "hello_interval_ms", "out of range", "50 to"),
        ("update_interval_ms = 100", "update_interval_ms", "out of range", "200 to 655350"),
        ("cost = 0", "cost", "out of range", "1 to 65534"),
        ("cost = 65535", "cost", "out of range", "1 to 65534"),
        ("cost = true", "cost", "is true or false", "without quotes"),
        ("kernel_metric = 0", "kernel_metric", "out of range", "1 to"),
        ("kernel_metric = 4294967295", "kernel_metric", "out of range", "1 to"),
        ("split_horizon = 1", "split_horizon", "is a number", "true or false"),
        ("families = []", "families", "empty", "ipv4"),
        ("families = ['ipv5']", "families", "unknown family 'ipv5'", "ipv6"),
        ("families = 4", "families", "is a number", "families ="),
        ("accept_all = true", "accept_all", "there is no key", "add a key"),
        ("key = 'nobody'", "key", "no key 'nobody': those defined are none", "[[babel.key]]"),
        ("key = 7", "key", "is a number", "path"),
        ("key = ['', './k']", "key[0]", "no name of a key", "a '/'"),
        ("key = [" + ",".join(f"'/k{i}'" for i in range(9)) + "]", "key", "9 keys", "8 at most"),
        ("redistribute = 'connected'", "redistribute", "unknown key", "'export'"),
        ("hello_interval = 4", "hello_interval", "unknown key", "'hello_interval_ms'"),
        ("colour = 4", "colour", "unknown key", "known keys"),
        ("interface = 4", "interface", "is a number", "[babel.interface"),
        ("interface = {eth1 = 4}", "interface", "wrong form", "[babel.interface"),
        ("export = 7", "export", "is a number", '"connected"'),
        ("export = ['conected']", "export[0]", "is no prefix", 'did you mean "connected"'),
        ("export = 'everything'", "export", "is no prefix", "10.0.0.0/8"),
        ("export = 'any'", "export", "cannot be exported", '"connected"'),
        ("export = ['10.0.0.1/8']", "export[0]", "host bits", "10.0.0.0/8"),
        ("export = ['10.0.0.0/33']", "export[0]", "from 0 to 32", "10.0.0.0/8"),
        ("export = ['2001:db8::/32']", "export[0]", "IPv6 is not carried", "families"),
        ("export = ['::/0']", "export[0]", "IPv6 is not carried", "families"),
        ("families = 'ipv6'\nexport = ['default']", "export[0]", "IPv4 is not carried", "families"),
        ("export = ['169.254.0.0/16']", "export[0]", "not for other routers", "leave it out"),
        ("export = ['::ffff:10.0.0.0/104']", "export[0]", "IPv4-mapped", "10.0.0.0/8"),
        ("export = [{from = 'conected'}]", "export[0].from", "unknown origin", '"connected"'),
        ("export = [{from = 'default', length = 0}]", "export[0].from", "nothing to filter", "alone"),
        ("export = [{metric = 5}]", "export[0]", "does not say what", "prefix ="),
        ("export = [{within = '10/8'}]", "export[0]", "does not say what", "from"),
        ("export = [{prefix = '10/8', length = 9}]", "export[0].prefix", "nothing to filter", "within ="),
        ("export = [{prefix = []}]", "export[0].prefix", "empty list", "10.0.0.0/8"),
        ("export = [{prefix = ['10/8', 'x']}]", "export[0].prefix[1]", "not an IPv4", "10.0.0.0/8"),
        ("export = [{prefix = 5}]", "export[0].prefix", "is a number", "in quotes"),
        ("export = [{form = 'connected'}]", "export[0].form", "unknown key", "'from'"),
        ("export = [{from = 'static', metric = 65535}]", "export[0].metric", "out of range", "0 to 65534"),
        ("export = [{from = 'static', length = 'x'}]", "export[0].length", "no length", "16-24"),
        ("export = [{from = 'static', length = -1}]", "export[0].length", "no length", "16-24"),
        ("export = [{from = 'static', length = '24-16'}]", "export[0].length", "ends before", "16-24"),
        ("export = [{from = 'static', length = 33}]", "export[0].length", "longer than 32", "0 to 32"),
        ("export = [{from = 'static', within = '10/8', length = 7}]", "export[0].length", "7 bits", "longer"),
        ("export = [{deny = true}, 'static']", "export[0]", "denies all", "leave it out"),
        ("export = ['static', {deny = true, within = '10/8'}]", "export[1]", "denies nothing", "first rule"),
        ("export = [{deny = true, within = '10/8', metric = 2}, 'static']", "export[0].metric", "no metric", "leave"),
        ("export = ['static', {from = 'static', metric = 2}]", "export[1]", "never reached: export[0]", "before"),
        ("export = ['10/8', {prefix = '10/8', metric = 2}]", "export[1]", "never reached", "before"),
        ("import = 'connected'", "import", "cannot be imported", '"any"'),
        ("import = [{from = 'static'}]", "import[0].from", "is for export", ""),
        ("import = [{within = '10/8', metric = 5}]", "import[0].metric", "is for export", ""),
        ("import = ['any', '10/8']", "import[1]", "never reached: import[0]", "before"),
        ("import = [{deny = true, within = '10/8'}]", "import[0]", "denies nothing", 'with "any"'),
        ("import = ['127/8']", "import[0]", "not for other routers", "leave it out"),
    ],
)  # fmt: skip
def test_each_mistake_of_babel(body: str, place: str, message: str, remedy: str) -> None:
    problem = one(f"{ETH}{body}\n")
    assert problem.place == f"babel.{place}"
    assert message in problem.message
    assert remedy in problem.remedy
    key = re.split(r"[.\[]", place)[0]
    assert f"{ETH}{body}".splitlines()[problem.line - 1].startswith(key)


@pytest.mark.parametrize(
    ("interfaces", "place", "message"),
    [
        ("", "babel", "has no `interfaces`"),
        ("interfaces = []", "babel.interfaces", "names no interface"),
        ("interfaces = ['!eth1']", "babel.interfaces", "names no interface"),
        ("interfaces = 5", "babel.interfaces", "is a number"),
        ("interfaces = ['eth1', 5]", "babel.interfaces", "wrong form"),
        ("interfaces = ['lo']", "babel.interfaces[0]", "loopback"),
        ("interfaces = ['e', 'sixteen-octets-x']", "babel.interfaces[1]", "longer than 15"),
        ("interfaces = ['a b*']", "babel.interfaces[0]", "fits no device"),
        ("interfaces = ['']", "babel.interfaces[0]", "empty"),
        ("interfaces = ['eth[1-3']", "babel.interfaces[0]", "bracket"),
        ("interfaces = ['eth1', '!eth1']", "babel.interfaces[1]", "named and excluded"),
    ],
)
def test_each_mistake_of_interfaces(interfaces: str, place: str, message: str) -> None:
    problem = one(f"[babel]\n{interfaces}\n")
    assert problem.place == place
    assert message in problem.message
    assert problem.line == (2 if place.startswith("babel.") else 1)


@pytest.mark.parametrize(
    ("table", "place", "message"),
    [
        ("[babel.interface.eth1]\ncost = 0", 'interface."eth1".cost', "out of range"),
        ("[babel.interface.'eth*']\ncosts = 9", 'interface."eth*".costs', "unknown key"),
        ("[babel.interface.wg0]\ncost = 9", 'interface."wg0"', "not spoken on wg0"),
        ("[babel.interface.'!eth1']", 'interface."!eth1"', "not spoken"),
        ("[babel.interface.'a b*']", 'interface."a b*"', "fits no device"),
        ("[babel.interface.eth1]\nkey = 'x'", 'interface."eth1".key', "no key 'x'"),
        ("[babel.interface.eth1]\naccept_all = true", 'interface."eth1".accept_all', "there is no key"),
        ("[[babel.key]]\nsecret = '00'", "key[0]", "no `name`"),
        ("[[babel.key]]\nname = 'k'", "key[0]", "neither `secret` nor `file`"),
        ("[[babel.key]]\nname = 'k'\nsecret = 'pass phrase'", "key[0].secret", "not hexadecimal"),
        (f"[[babel.key]]\nname = 'k'\nfile = '/k'\nsecret = '{SECRET}'", "key[0].file", "both say"),
        (f"[[babel.key]]\nname = 'k'\nalgorithm = 'md5'\nsecret = '{SECRET}'", "key[0].algorithm", "unknown algorithm"),
        (f"[[babel.key]]\nname = 'k k'\nsecret = '{SECRET}'", "key[0].name", "no name of a key"),
        ("[[babel.key]]\nname = 'k'\nfile = ''", "key[0].file", "no path"),
        (KEY + KEY, "key[1].name", "defined twice"),
    ],
)
def test_each_mistake_of_tables_in_babel(table: str, place: str, message: str) -> None:
    problem = one(f"{ETH}{table}\n")
    assert problem.place == f"babel.{place}"
    assert message in problem.message
    assert problem.line >= 3
    assert "pass phrase" not in str(problem) + problem.remedy


@pytest.mark.parametrize(
    ("table", "place", "message", "remedy"),
    [
        ("[node]\nname = 'a b'", "node.name", "no name of a node", "without blanks"),
        ("[node]\nname = 5", "node.name", "is a number", "in quotes"),
        ("[node]\nid = 5", "node.id", "unknown key", "'name'"),
        ("[node]\naddress = '10.0.0.1/24'", "node.address", "not an IPv4 address", '"10.0.0.1"'),
        ("[node]\naddress = '2001:db8::1'", "node.address", "not an IPv4 address", "IPv4"),
        ("[node]\naddress = '127.0.0.1'", "node.address", "no other node can send to", "unicast"),
        ("[node]\naddress = '192.0.0.8'", "node.address", "no other node can send to", "unicast"),
        ("[[node]]\n", "node", "is a list", "[node]"),
        ("[gateway]\nuplink = 'lo'", "gateway.uplink", "loopback", "eth1"),
        ("[gateway]\nmetric = 65535", "gateway.metric", "out of range", "0 to 65534"),
        ("[gateway]\nnat = true", "gateway.nat", "unknown key", "'masquerade'"),
        ("[[host]]\ninterface = 'e'\nmac = '02:00:00:00:00:01'", "host[0].address", "no `address`", "10.0.8.42"),
        ("[[host]]\naddress = '10.0.8.1/24'\ninterface = 'e'\nvia = 'fe80::1'", "host[0].address", "not", "10.0.8.1"),
        ("[[host]]\naddress = '10.0.8.1'\nvia = 'fe80::1'", "host[0]", "no `interface`", "lan0"),
        ("[[host]]\naddress = '10.0.8.1'\ninterface = 'e*'\nvia = 'fe80::1'", "host[0].interface", "several", "lan0"),
        ("[[host]]\naddress = '10.0.8.1'\ninterface = 'e'\nvia = '10.0.8.1'", "host[0].via", "IPv4", "fe80::22"),
        ("[[host]]\naddress = '10.0.8.1'\ninterface = 'e'\nvia = 'ff02::1'", "host[0].via", "one neighbour", "fe80::"),
        ("[[host]]\naddress = '10.0.8.1'\ninterface = 'e'\nvia = 'fe80::1%f'", "host[0].via", "says device", "keep"),
        ("[[host]]\naddress = '10.0.8.1'\ninterface = 'e'\nmac = '5'", "host[0].mac", "no link-layer", "52:54"),
        ("[[host]]\naddress = '10.0.8.1'\ninterface = 'e'\nmac = 'ff:ff:ff:ff:ff:ff'", "host[0].mac", "host", "52:54"),
        ("[[host]]\naddress = '10.0.8.1'\ninterface = 'e'\nvia = 'fe80::1'\nmac = '02:00:00:00:00:01'",
         "host[0].via", "both say", "keep one"),
        ("[[host]]\naddress = '10.0.8.1'\ninterface = 'lan0'", "host[0]", "neither `mac` nor `via`", "lan0"),
        ("[host]\naddress = '10.0.8.1'", "host", "is a table", "two brackets"),
    ],
)  # fmt: skip
def test_each_mistake_of_other_tables(table: str, place: str, message: str, remedy: str) -> None:
    problem = one(f"{ETH}export = 'connected'\n{table}\n")
    assert problem.place == place
    assert message in problem.message
    assert remedy in problem.remedy
    assert problem.line >= 4


def test_tables_against_each_other() -> None:
    for table in ("[gateway]\n", "[[host]]\naddress = '10.0.0.1'\ninterface = 'e'\nvia = 'fe80::1'\n"):
        problem = one(table)
        assert "Babel is not spoken" in problem.message
        assert problem.line == 1
    host = "[[host]]\naddress = '10.0.0.1'\ninterface = 'e'\nvia = 'fe80::1'\n"
    twice = one(f"{ETH}{host}{host}")
    assert (twice.place, twice.line) == ("host[1].address", 8)
    assert "t.toml:3: host[0]" in twice.message
    taken = one(f"[node]\naddress = '10.0.0.1'\n{ETH}export = 'connected'\n{host}")
    assert (taken.place, taken.line) == ("node.address", 2)
    six = one(f"{ETH}families = 'ipv6'\n[gateway]\n")
    assert "IPv4 is not carried" in six.message


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (f"[node]\naddress = '10.0.0.1'\n{ETH}", "node.address", "not exported"),
        (f"[node]\naddress = '10.0.0.1'\n{ETH}export = '10.1/16'\n", "node.address", "not exported"),
        (f"{ETH}export = 'default'\n[gateway]\n", "gateway", "so does export"),
        (f"{ETH}export = ['10/8', '10/8']\n", "babel.export[1]", "stands already at export[0]"),
        ("[babel]\ninterfaces = ['e', 'e']\n", "babel.interfaces[1]", "stands twice"),
        (f"{ETH}[[babel.key]]\nname = 'k'\nsecret = '00112233'\n", "babel.key[0].secret", "can be guessed"),
    ],
)
def test_warnings(text: str, place: str, message: str) -> None:
    problem = warned(text)
    assert problem.place == place
    assert message in problem.message


def test_trace() -> None:
    assert good(ETH).trace.answer is True
    found = good(f"{ETH}[trace]\nanswer = false\ninterfaces = ['lan*', '!lan9']\n").trace
    assert not found.answer
    assert [name for name in ("lan0", "lan9", "eth1") if found.asks_on(name)] == ["lan0"]
    assert "true or false" in one(f"{ETH}[trace]\nanswer = 'no'\n").remedy
    assert one(f"{ETH}[trace]\ninterfaces = []\n").place == "trace.interfaces"
    assert "unknown" in one(f"{ETH}[trace]\nanswers = true\n").message
    assert "[trace]" in one(f"{ETH}[traces]\n").remedy
    assert good("[trace]\ninterfaces = 'eth*'\n[[route]]\nto = '10/8'\nvia = 'fe80::1%eth1'\n").trace.asks_on("eth1")


def test_an_address_that_is_exported_is_not_warned_of() -> None:
    for export in ("'connected'", "'10.0.0.1/32'", "'10.0.0.0/24'"):
        good(f"[node]\naddress = '10.0.0.1'\n{ETH}export = {export}\n")


# --- the file as a whole -------------------------------------------------------------------------------------------


def test_every_mistake_at_once_with_its_line() -> None:
    problems = bad("""\
[node]
adress = "10.0.0.1"
[babel]
interfaces = ["eth1", "lo"]
export = [
  "connectd",
]
cost = 0
[babel.interface."eth9"]
cost = "x"
[[babel.key]]
name = "a"
secret = "zz"
[gateway]
masquerade = 1
[[host]]
address = "10.0.8.42"
interface = "lan0"
mac = "5"
[[host]]
[[hosts]]
""")
    assert [(p.line, p.place) for p in problems] == [
        (2, "node.adress"), (4, "babel.interfaces[1]"), (5, "babel.export[0]"), (8, "babel.cost"),
        (9, 'babel.interface."eth9"'), (10, 'babel.interface."eth9".cost'), (13, "babel.key[0].secret"),
        (15, "gateway.masquerade"), (19, "host[0].mac"), (20, "host[1].address"), (20, "host[1]"), (21, "hosts"),
    ]  # fmt: skip


def test_mistakes_beside_a_syntax_error() -> None:
    """A piece that cannot be read hides nothing else, and what is missing for that reason is not told."""
    problems = bad(
        "[babel]\ninterfaces = [eth1]\n[babel.interface.eth*]\ncost = 5\n[babel.interface.eth1]\ncost = 0\n"
        "key = 'k'\n[[babel.key]]\nname = k\n[gateway]\nmetric = -1\n[[host]]\naddress = 10.0.0.1\n[[host]]\nmac = 5\n"
    )
    assert [(p.line, p.place) for p in problems if not p.message.startswith("TOML")] == [
        (6, 'babel.interface."eth1".cost'), (11, "gateway.metric"), (14, "host[1].address"), (14, "host[1]"),
        (15, "host[1].mac"),
    ]  # fmt: skip
    syntax = [(p.line, p.remedy) for p in problems if p.message.startswith("TOML")]
    assert [line for line, _ in syntax] == [2, 3, 9, 13]
    assert '[babel.interface."eth*"]' in syntax[1][1]


def test_other_ways_to_write_tables() -> None:
    inline = "babel = {interfaces = ['eth1'], cost = 5, interface = {eth1 = {cost = 6}}}\nnode.name = 'x'\n"
    config = good(inline)
    assert config.babel is not None
    assert config.babel.link("eth1") == LinkSettings(6)
    assert one(inline.replace("6", "0")).line == 1
    assert one("node.name = 'a b'\n").line == 1


def test_from_options() -> None:
    config, problems = declared({"babel": {"interfaces": ["eth1"], "export": ["connected"]}}, "up")
    assert not problems
    assert config is not None
    assert config.babel == BabelSpec(("eth1",), (Rule("connected"),))
    config, (problem,) = declared({"babel": {"interfaces": ["eth\udcff"]}}, "up")
    assert config is None
    assert problem.place == "babel.interfaces[0]"


_TABLES = ("node", "babel", "gateway", "host", "trace")
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(("connected", "any", "10/8", "::/0", "eth*", "!eth1", "k", "/k", "10.0.0.1", "fe80::1%e")),
)  # fmt: skip
_KEYS = st.sampled_from(
    [f.encode_name for kind in (NodeTable, BabelTable, KeyTable, GatewayTable, HostTable, RuleTable, TraceTable)
     for f in msgspec.structs.fields(kind)]
)  # fmt: skip
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4))


@given(st.dictionaries(st.sampled_from(_TABLES), _VALUES | st.dictionaries(_KEYS, _VALUES, max_size=6)))
def test_any_tables_are_answered(tables: dict[str, Any]) -> None:
    config, problems = declared(tables, "t")
    assert (config is None) == any(p.severity == "error" for p in problems)
    assert all(p.message and p.remedy and p.place for p in problems)
    if config is not None and config.babel is not None and not config.babel.key_files:
        for name in ("eth1", "lan0", "e"):
            config.link(name)


def big(kind: str) -> str:
    if kind == "rules":
        lines = "\n".join(f'  "10.{i >> 8 & 255}.{i & 255}.1/24",' for i in range(20_000))
        return f"{ETH}export = [\n{lines}\n]\n"
    if kind == "good rules":
        lines = "\n".join(f'  "10.{i >> 8 & 255}.{i & 255}.{i >> 16}/32",' for i in range(20_000))
        return f"{ETH}export = [\n{lines}\n]\n"
    if kind == "hosts":
        return ETH + "".join(f"[[host]]\naddress = '10.0.0.{i & 255}'\n" for i in range(20_000))
    return f"babel = {{interfaces = ['e'], export = [{', '.join(['7'] * 20_000)}]}}\n"


@pytest.mark.parametrize("kind", ["rules", "good rules", "hosts", "inline"])
def test_large_files_take_time_in_proportion(kind: str) -> None:
    start = time.process_time()
    parse(big(kind).encode(), "t")
    assert time.process_time() - start < 20  # less than 1 s on an idle machine


# --- the manual ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "table", "inherited"),
    [
        ("KEYS OF [node]", NodeTable, None),
        ("KEYS OF [babel]", BabelTable, InterfaceTable),
        ("KEYS OF [babel.interface.\\(dqGLOB\\(dq]", InterfaceTable, None),
        ("KEYS OF [[babel.key]]", KeyTable, None),
        ("KEYS OF A RULE", RuleTable, None),
        ("KEYS OF [gateway]", GatewayTable, None),
        ("KEYS OF [trace]", TraceTable, None),
        ("KEYS OF [[host]]", HostTable, None),
    ],
)
def test_every_key_is_in_the_man_page(heading: str, table: type, inherited: type | None) -> None:
    text = (ROOT / "docs/man/man5/via6.toml.5").read_text()
    section = text.partition(f".SH {heading}\n")[2].partition("\n.SH ")[0]
    tags = set(re.findall(r'^\.TP\n\.B[RI]? "?(\w+)', section, re.MULTILINE))
    fields = {field.encode_name for field in msgspec.structs.fields(table)}
    if inherited is not None:
        fields -= {field.encode_name for field in msgspec.structs.fields(inherited)}
    assert tags == fields


def test_examples_of_the_man_page_are_read() -> None:
    text = (ROOT / "docs/man/man5/via6.toml.5").read_text()
    blocks = [b for b in re.findall(r"^\.EX\n(.*?)^\.EE", text, re.DOTALL | re.MULTILINE) if "[babel]" in b]
    assert len(blocks) >= 2
    for block in blocks:
        assert good(block.replace("\\&", "")).babel is not None


def test_defaults_are_in_the_man_page() -> None:
    text = (ROOT / "docs/man/man5/via6.toml.5").read_text()
    for key, value in (("cost", COST), ("hello_interval_ms", HELLO_INTERVAL_MS), ("kernel_metric", KERNEL_METRIC),
                       ("update_interval_ms", UPDATE_INTERVAL_MS)):  # fmt: skip
        assert re.search(rf"^\.BR {key} .*default {value}\)", text, re.MULTILINE), key


@pytest.mark.parametrize("metric", [460, 461, 462])
def test_a_route_in_the_slots_of_babel_is_refused(metric: int) -> None:
    problem = one(f"{ETH}[[route]]\nto = '10/8'\nvia = 'fe80::1%eth1'\nmetric = {metric}\n")
    assert (problem.place, problem.line) == ("route[0].metric", 6)
    # Another metric, a family that is not carried, and slots elsewhere are free.
    good(f"{ETH}[[route]]\nto = '10/8'\nvia = 'fe80::1%eth1'\nmetric = 463\n")
    good(f"{ETH}[[route]]\nto = '2001:db8::/32'\nvia = 'fe80::1%eth1'\nmetric = {metric}\n")
    good(f"{ETH}kernel_metric = 500\n[[route]]\nto = '10/8'\nvia = 'fe80::1%eth1'\nmetric = {metric}\n")
