"""Another machine's Node, through the system's ssh.

Host keys are checked as strictly as ssh can (an unknown one is refused: `ssh HOST` by hand makes it known), no agent,
X11 or port is forwarded, and nothing is ever asked on the terminal. Everything else is the user's ssh configuration:
names, users, ports, jump hosts, keys.
"""

from __future__ import annotations

import re
import secrets
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from via6.collect.snapshot_script import DONE, answers, script
from via6.errors import USAGE, Refusal
from via6.observe.node import Node
from via6.observe.snapshot.answers import node_of

OPTIONS: Final = (
    "BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes",
    "PermitLocalCommand=no", "RemoteCommand=none", "RequestTTY=no", "EscapeChar=none", "LogLevel=ERROR",
)  # fmt: skip
_CONNECT_S: Final = 10
_GROUP: Final = re.compile(r"\[[\w.-]+(:vars|:children)?\]\s*(?:#.*)?$")  # of an Ansible inventory
_HINTS: Final = (
    (r"Host key verification failed|host key is known|HOST IDENTIFICATION HAS CHANGED",
     "type `ssh {}` once, and compare the fingerprint before you answer"),
    (r"Permission denied", "nothing is asked here: put a key into ssh-agent, or name it in ~/.ssh/config"),
    (r"Could not resolve", "is the name right? --inventory can give it an address"),
    (r"timed out|No route to host|Connection refused|Network is unreachable", "does `ssh {}` get there?"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Host:
    """Where to go: `destination` as ssh takes it ([USER@]HOST or ssh://…), `name` is the node's in the snapshot."""

    destination: str
    name: str
    port: int = 0


def host(word: str) -> Host:
    """`admin@r1`, `r1`, `admin@[2001:db8::1]:2222`. The node is named as the host is. Raises Refusal."""
    user, at, place = word.rpartition("@")
    bracketed = re.fullmatch(r"\[([^\[\]]+)\](?::(\d+))?", place)
    if bracketed:
        place, port = bracketed[1], bracketed[2] or "0"
    elif place.count(":") == 1:  # more of them: an IPv6 address
        place, _, port = place.partition(":")
    else:
        port = "0"
    odd = re.search(r"[\s\[\]@]", user + place) or (at and not user) or not place or not port.isdecimal()
    if odd or not word.isprintable() or word.startswith("-") or place.startswith("-") or int(port) > 65535:
        raise Refusal(f"{word!r} is no host", "via6 snapshot --host admin@r1 --host 'admin@[2001:db8::1]:22'", USAGE)
    return Host(f"{user}@{place}" if user else place, place.partition("%")[0], int(port))


def inventory(text: str, where: str) -> list[Host]:
    """Hosts of a file, a line each: HOST as for --host, and perhaps a name for the node. The plain lines of an Ansible
    inventory are understood as well: NAME with `ansible_host=`, `ansible_user=`, `ansible_port=`; `[groups]` are
    passed over, those of variables and children with what is in them. Raises Refusal with all mistakes."""
    found: dict[str, Host] = {}
    faults: list[str] = []
    skip = False
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        group = _GROUP.match(line)
        if group:
            skip = group[1] is not None
        if group or skip or not line or line[0] in "#;":
            continue
        try:
            one = _line(line)
        except (Refusal, ValueError) as error:
            faults.append(f"{where}:{number}: {error.message if isinstance(error, Refusal) else error}")
            continue
        if one.name in found:
            faults.append(f"{where}:{number}: a node {one.name!r} is there twice")
        found[one.name] = one
    if faults:
        raise Refusal("\n".join(faults), "a line is HOST [NAME], such as `admin@192.0.2.1 r1`", USAGE)
    if not found:
        raise Refusal(f"{where} names no host", "a line is HOST [NAME], such as `admin@192.0.2.1 r1`", USAGE)
    return list(found.values())


def _line(line: str) -> Host:
    words = shlex.split(line, comments=True)
    pairs = {key.removeprefix("ansible_"): value for key, _, value in (w.partition("=") for w in words if "=" in w)}
    plain = [word for word in words if "=" not in word]
    if not 1 <= len(plain) <= 2:
        raise ValueError(f"{line!r}: HOST, then perhaps a name")
    one = host(plain[0])
    name = plain[1] if len(plain) == 2 else one.name
    if not name or not name.isprintable():
        raise ValueError(f"{name!r} is no name")
    if "host" in pairs:
        one = Host(host(pairs["host"]).destination, name)
    user, _, place = one.destination.rpartition("@")
    user = pairs.get("user", user)
    destination = f"{user}@{place}" if user else place
    if destination.startswith("-"):
        raise ValueError(f"{destination!r} is no host")
    port = pairs.get("port", str(one.port))
    if not port.isdecimal() or not 0 <= int(port) < 65536:
        raise ValueError(f"port {port!r} is no port")
    return Host(destination, name, int(port))


def command(to: Host, config: str = "") -> list[str]:
    """The ssh command line; the script goes to its standard input."""
    argv = ["ssh", "-T", "-a", "-x"]
    if config:
        argv += ["-F", config]
    for option in (*OPTIONS, f"ConnectTimeout={_CONNECT_S}"):
        argv += ["-o", option]
    if to.port:
        argv += ["-p", str(to.port)]
    return [*argv, "--", to.destination, "sh -s"]


def read(to: Host, *, config: str = "", timeout_s: float = 60.0) -> Node:
    """The node. Raises Refusal when it cannot be reached, or its answer breaks off."""
    mark = secrets.token_hex(16)
    try:
        done = subprocess.run(
            command(to, config), input=script(mark).encode(), capture_output=True, timeout=timeout_s, check=False
        )  # fmt: skip
    except FileNotFoundError:
        raise Refusal("there is no ssh on this machine", "apt install openssh-client") from None
    except subprocess.TimeoutExpired:
        raise Refusal(f"no answer within {timeout_s:.0f} s", "--timeout SECONDS waits longer") from None
    found = answers(done.stdout, mark)
    if DONE not in found:
        raise _failed(to, done.returncode, done.stderr.decode(errors="replace"), bool(found))
    return node_of(to.name, found)


def _failed(to: Host, code: int, said: str, begun: bool) -> Refusal:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else f"ssh ended with {code}"
    remedy = "the connection broke off: try again" if begun else "does `ssh {} true` work?"
    for pattern, hint in _HINTS:
        if re.search(pattern, said):
            remedy = hint
            last = next((line for line in lines if re.search(pattern, line)), last)
            break
    return Refusal(last, remedy.format(to.destination))


def unique(hosts: Iterable[Host]) -> list[Host]:
    """The hosts, unless two of them would make nodes of one name (Refusal)."""
    found: dict[str, Host] = {}
    for one in hosts:
        if one.name in found:
            raise Refusal(
                f"two hosts would be the node {one.name!r}", "an --inventory gives them names: lines HOST NAME", USAGE
            )
        found[one.name] = one
    return list(found.values())
