"""A node from what its commands answered: the same for this machine's filters and for another one's everything.

A part whose command failed, or whose answer is not understood, is named in `unread`; nothing is made up for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import msgspec

from via6.model import Link, RouteTable, Snapshot
from via6.observe import allowedips
from via6.observe.allowedips import Peer
from via6.observe.names import PROTOCOLS, TABLES, parse_names
from via6.observe.node import BabelState, Firewall, Node
from via6.observe.snapshot import babel, firewall, iproute, iptables, nft, openbsd
from via6.prefix import AF_INET, AF_INET6

T = TypeVar("T")

NOT_THERE: Final = 127
"""A shell's exit code for a command that is not installed."""
_NO_DAEMON: Final = 4
_BABEL_PORT: Final = ":1A28 00000000000000000000000000000000:0000"  # 6696, in udp6 of proc(5), without a peer

_V4: Final = ("forwarding", "rp_filter", "ignore_routes_with_linkdown", "accept_local", "src_valid_mark")
_V6: Final = (
    "forwarding", "force_forwarding", "disable_ipv6", "ignore_routes_with_linkdown", "accept_ra", "accept_dad", "mtu",
    "dad_transmits", "addr_gen_mode",
)  # fmt: skip
SYSCTLS: Final = (
    *(f"net/ipv4/conf/*/{name}" for name in _V4),
    *(f"net/ipv6/conf/*/{name}" for name in _V6),
    *(f"net/ipv4/{name}" for name in (
        "ip_forward", "ip_default_ttl", "ip_no_pmtu_disc", "ip_forward_use_pmtu", "tcp_mtu_probing",
        "fib_multipath_hash_policy", "fib_multipath_hash_fields", "fib_multipath_use_neigh", "nexthop_compat_mode",
        "icmp_ratelimit", "icmp_ratemask", "icmp_msgs_per_sec", "icmp_msgs_burst", "icmp_echo_ignore_all",
        "icmp_errors_use_inbound_ifaddr", "icmp_errors_extension_mask",
    )),
    *(f"net/ipv6/{name}" for name in (
        "fib_multipath_hash_policy", "fib_multipath_hash_fields", "icmp/ratelimit", "icmp/echo_ignore_all",
        "icmp/errors_extension_mask",
    )),
)  # fmt: skip
"""Those that are read, where they exist; `*` stands for each interface, `all` and `default`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed, its exit code, what it said on stderr (one line), and when it was started."""

    output: bytes = b""
    code: int = 0
    said: str = ""
    time: float = 0.0

    @property
    def fault(self) -> str:
        """Why there is no answer; empty if there is one."""
        if self.code == NOT_THERE:
            return "the command is not there"
        return (self.said or f"the command ended with {self.code}") if self.code else ""


Answers = Mapping[str, Answer]
_NONE: Final = Answer(code=NOT_THERE)
_THERE: Final = "the daemon has "  # not answered, or hung up: it is there, whatever the exit code says


# --- packet filters ------------------------------------------------------------------------------------------------


def readable(text: str) -> str:
    """A name of the kernel's, octets that are no UTF-8 as `\\xff`: JSON has no place for them."""
    return text if text.isascii() else text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def firewall_of(answers: Answers, links: Iterable[Link] = ()) -> tuple[Firewall | None, str]:
    """The verdict on what `nft`, `iptables`, `ip6tables` and their `-legacy` twins answered, or why there is none.

    `filters` names the packet filters that the kernel has at all (`nf_tables`, `ip_tables`; `known` if it could be
    told), `legacy` the tables that the older of them uses. `links` are the interfaces that packets may pass."""
    kernel_has = set(answers.get("filters", _NONE).output.decode(errors="replace").split())
    rulesets: list[firewall.Ruleset] = []
    asked = answers.get("nft", _NONE)
    saves = {name: answers.get(name, _NONE) for name in ("iptables", "ip6tables")}
    by_nft = {name for name, save in saves.items() if not save.code and iptables.made_by_nft(save.output.decode())}
    if asked.code == NOT_THERE and not ("known" in kernel_has and "nf_tables" not in kernel_has):
        return None, "nft is not there to list the rules"
    if asked.code and asked.code != NOT_THERE:
        return None, f"nft: {asked.fault}"
    try:
        if not asked.code:
            but = {pair for pair in nft.tables_of_iptables() if ("iptables", "ip6tables")[pair[0] == "ip6"] in by_nft}
            rulesets += nft.rulesets(asked.output, but, answers.get("chains", _NONE).output.decode(errors="replace"))
        legacy = answers.get("legacy", _NONE).output.decode(errors="replace").split()
        for name, family in (("iptables", AF_INET), ("ip6tables", AF_INET6)):
            save = saves[name]
            if name not in by_nft and answers.get(f"{name}-legacy", save).code == 0:
                save = answers.get(f"{name}-legacy", save)
            if not save.code:
                rulesets += iptables.rulesets(save.output.decode(errors="replace"), family)
            twin = answers.get(f"{name}-legacy", _NONE)
            if name in by_nft and not twin.code:
                rulesets += iptables.rulesets(twin.output.decode(errors="replace"), family)
            elif legacy and (save.code or name in by_nft):
                return None, f"legacy tables of iptables are in use ({', '.join(sorted(set(legacy)))}) and not listed"
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, StopIteration, RecursionError) as error:
        return None, f"the rules are not understood: {error}"
    # What comes in by a member of a bridge has come in by the bridge for most hooks.
    return firewall.judge(rulesets, [one.name for one in links if one.up and not one.loopback and not one.master]), ""


# --- WireGuard and Babel -------------------------------------------------------------------------------------------


def wireguard_of(answer: Answer, kinds: Mapping[str, str]) -> tuple[dict[str, tuple[Peer, ...]], str]:
    """`wg show all allowed-ips`: DEVICE, KEY, prefixes, with tabs between. `kinds` are those of the links by name:
    without any WireGuard device nothing was missed."""
    wanted = {name for name, kind in kinds.items() if kind == "wireguard"}
    found: dict[str, list[str]] = {}
    for line in answer.output.decode(errors="backslashreplace").splitlines():
        device, _, rest = line.partition("\t")
        if rest:
            found.setdefault(device, []).append(rest)
    peers = {device: allowedips.parse("\n".join(lines)) for device, lines in found.items()}
    if wanted - peers.keys() and (answer.code or answer.said):
        return {}, f"wg: {answer.said or answer.fault}"
    if answer.said and "tun" in kinds.values():  # a userspace WireGuard's device looks like any other tun
        return {}, f"wg: {answer.said}"
    return peers | dict.fromkeys(wanted - peers.keys(), ()), ""


def babel_of(answers: Answers, index_of: Callable[[str], int]) -> tuple[BabelState | None, str]:
    """`via6 status` and `via6 show` of neighbour, route and interface, all with -j; `udp6` is the table of sockets, in
    which another speaker is seen."""
    status = answers.get("status", _NONE)
    try:
        if not status.code:
            about = msgspec.json.decode(status.output)
            rows = [msgspec.json.decode(answers[name].output) for name in ("neighbour", "route")]
            links = answers.get("interface", _NONE)
            interfaces = None if links.code else msgspec.json.decode(links.output)
            made = babel.state(about, rows[0], rows[1], index_of, interfaces)
            if made:
                return made, ""
        elif status.code not in (NOT_THERE, _NO_DAEMON) or _THERE in status.said:
            return None, f"via6: {status.said.removeprefix('via6: ') or status.fault}"
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"the daemon's answer is not understood: {type(error).__name__} {error}"
    if _BABEL_PORT in answers.get("udp6", _NONE).output.decode(errors="replace"):
        return None, "another program than via6 holds UDP 6696, and does not tell its state"
    return None, ""


# --- a whole node --------------------------------------------------------------------------------------------------


class _Assembly:
    """The parts of one node as they come, each with its time or the reason why it is unread."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.unread: dict[str, str] = {}
        self.times: dict[str, float] = {}

    def part(self, name: str, sources: Mapping[str, Callable[[bytes], tuple[T, ...]]]) -> tuple[T, ...]:
        """The objects of a part from one command or several, all or none."""
        made: list[T] = []
        for source, make in sources.items():
            answer = self.answers.get(source, _NONE)
            try:
                if answer.code:
                    raise iproute.Odd(answer.fault)
                made += make(answer.output)
            except iproute.Odd as odd:
                self.unread[name] = f"ip: {odd}"
                return ()
        self.times[name] = self.time(*sources)
        return tuple(made)

    def time(self, *sources: str) -> float:
        """When the first of these commands began."""
        return min((self.answers[s].time for s in sources if s in self.answers), default=0.0)

    def other(self, name: str, source: str, value: T, why: str) -> T:
        """A part that is one value."""
        if why:
            self.unread[name] = why
        else:
            self.times[name] = self.time(source)
        return value


def node_of(name: str, answers: Answers) -> Node:
    """The node of a Linux whose answers these are. `name`: "" takes that of the machine."""
    system, release, host = (answers.get("uname", _NONE).output.decode(errors="replace").splitlines() + [""] * 3)[:3]
    if system == "OpenBSD":
        return _openbsd(name or host, answers, release)
    made = _Assembly(answers)
    links = made.part("links", {"links": iproute.links})
    names = iproute.Names(
        _names(answers, "tables", TABLES), _names(answers, "protos", PROTOCOLS), _names(answers, "dsfield", {}),
        {link.name: link.ifindex for link in links},
    )  # fmt: skip
    kernel = Snapshot(
        links=links,
        addresses=made.part("addresses", {"addresses": iproute.addresses}),
        routes=RouteTable((
            *made.part("routes4", {"routes4": lambda data: iproute.routes(data, AF_INET, names)}),
            *made.part("routes6", {"routes6": lambda data: iproute.routes(data, AF_INET6, names)}),
        )),
        rules=made.part("rules", {
            "rules4": lambda data: iproute.rules(data, AF_INET, names),
            "rules6": lambda data: iproute.rules(data, AF_INET6, names),
        }),
        nexthops=made.part("nexthops", {"nexthops": lambda data: iproute.nexthops(data, names)}),
        neighbours=made.part("neighbours", {"neighbours": lambda data: iproute.neighbours(data, names)}),
        parts=frozenset(made.times),
    )  # fmt: skip
    sysctls = _sysctls(answers.get("sysctls", _NONE))
    return Node(
        name=name or host or "node",
        kernel=kernel,
        sysctls=made.other("sysctls", "sysctls", sysctls, "" if sysctls else "/proc/sys could not be read"),
        wireguard=made.other(
            "wireguard", "wireguard", *wireguard_of(answers.get("wireguard", _NONE), {k.name: k.kind for k in links})
        ),
        firewall=made.other("firewall", "nft", *firewall_of(answers, links)),
        babel=made.other("babel", "udp6", *babel_of(answers, names.dev)),
        unread=made.unread,
        times=made.times,
        release=release,
        unsteady=unsteady(answers) & kernel.parts,
    )


def unsteady(answers: Answers) -> frozenset[str]:
    """The parts whose sums before and after the last reading differ."""
    before, after = (
        dict(line.partition(" ")[::2] for line in answers.get(name, _NONE).output.decode(errors="replace").splitlines())
        for name in ("before", "after")
    )
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    return frozenset(name.rstrip("46") if name.startswith("rules") else name for name in changed)


def _names(answers: Answers, source: str, known: Mapping[int, str]) -> dict[int, str]:
    return parse_names([answers.get(source, _NONE).output.decode(errors="replace")], known)


def _sysctls(answer: Answer) -> dict[str, int]:
    """Lines `net/ipv4/ip_forward:1`, as grep prints them."""
    made = {}
    for line in answer.output.decode(errors="backslashreplace").splitlines():
        name, _, value = line.rpartition(":")
        if name and value.lstrip("-").isdecimal():
            made[name] = int(value)
    return dict(sorted(made.items()))


def _openbsd(name: str, answers: Answers, release: str) -> Node:
    text = "\n".join(answers.get(part, _NONE).output.decode(errors="replace") for part in ("ifconfig", "netstat"))
    found: dict[str, int] = {}
    for line in answers.get("sysctl", _NONE).output.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if value.isdecimal():
            found[key] = int(value)
    node = openbsd.from_text(text, name, found) or Node(
        name, Snapshot(), unread=dict.fromkeys(("routes4", "routes6", "links"), "netstat told nothing")
    )
    netstat = answers.get("netstat", _NONE)
    return replace(node, release=release, times=dict.fromkeys(node.kernel.parts, netstat.time))
