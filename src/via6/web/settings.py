"""What `via6 web` is told: by its command line and by its file."""

from __future__ import annotations

import ipaddress
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from via6.errors import USAGE, Refusal
from via6.prefix import Prefix, PrefixError, parse_prefix

LISTEN: Final = "[::1]:8046"
PORT: Final = 8046
SHORTEST_TOKEN: Final = 16
_MOST_FILE: Final = 1 << 20


class GlassTable(msgspec.Struct, forbid_unknown_fields=True):
    """`[glass]`: `hide` are prefixes of which no address is shown to strangers."""

    hide: list[str] = []


class FileTable(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file. `hosts` are the names that browsers may ask for, `proxies` the addresses of those who may say for
    whom they ask; `desktop` is read by desktop_config."""

    title: str = ""
    hosts: list[str] = []
    proxies: list[str] = []
    glass: GlassTable | None = None
    desktop: list[Any] = []


@dataclass(frozen=True, slots=True)
class Settings:
    """`hide` None: what hides an address is not told, so those of the nodes themselves are hidden (see glass). `title`
    empty: as the source is called."""

    title: str = ""
    hosts: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    token: str = ""
    glass: bool = False
    loopback: bool = True
    changes: bool = False
    hide: tuple[Prefix, ...] | None = None


def read_file(path: str) -> FileTable:
    """The file; raises Refusal that names the place of a mistake."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_FILE)
        found = msgspec.convert(tomllib.loads(data.decode()), FileTable)
    except OSError as error:
        raise Refusal(f"cannot read {path}: {error.strerror}", "via6-web(1) says what is in it", USAGE) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Refusal(f"{path}: {error}", "via6-web(1) says what is in it", USAGE) from None
    return found


def hidden_of(table: GlassTable | None, path: str) -> tuple[Prefix, ...] | None:
    """The prefixes of [glass]; None without it."""
    if table is None:
        return None
    try:
        return tuple(parse_prefix(text) for text in table.hide)
    except PrefixError as error:
        raise Refusal(f"{path}: hide: {error}", 'hide = ["2001:db8:ffff::/48"]', USAGE) from None


def proxies_of(table: FileTable, path: str) -> tuple[str, ...]:
    """The addresses of reverse proxies, in the form that a connection's other end has."""
    try:
        return tuple(str(ipaddress.ip_address(text)) for text in table.proxies)
    except ValueError as error:
        raise Refusal(f"{path}: proxies: {error}", 'proxies = ["::1"]', USAGE) from None


def read_token(path: str) -> str:
    """The token of a file: its first line."""
    make = f"(umask 077; head -c 24 /dev/urandom | base64 > {path})"
    try:
        mode = Path(path).stat().st_mode
        with Path(path).open("rb") as file:
            token = file.read(1024).split(b"\n")[0].strip().decode("ascii")
    except OSError as error:
        raise Refusal(f"cannot read {path}: {error.strerror}", make, USAGE) from None
    except UnicodeDecodeError:
        raise Refusal(f"{path}: a token is ASCII", make, USAGE) from None
    if mode & 0o007:
        raise Refusal(f"{path} can be read by everybody", f"chmod 600 {path}", USAGE)
    if len(token) < SHORTEST_TOKEN:
        raise Refusal(f"{path}: a token has at least {SHORTEST_TOKEN} characters", make, USAGE)
    if not token.isprintable() or set(token) & set(' ,;"\\'):
        raise Refusal(f'{path}: a token has neither spaces nor , ; " \\', make, USAGE)
    return token


def parse_listen(text: str) -> tuple[str, int]:
    """(address, port) of `[::1]:8046`, `192.0.2.1:80`, `[::1]`, `::1` or `localhost:8046`; raises Refusal."""
    wrong = Refusal(f"{text!r} is no address to listen on", f"--listen {LISTEN}, or --listen 192.0.2.1:{PORT}", USAGE)
    host, port = text, str(PORT)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise wrong
        port = rest[1:] or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 <= int(port) < 1 << 16:
        raise wrong
    if host == "localhost":
        host = "::1"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise wrong from None
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Only this machine gets there."""
    address = ipaddress.ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
