"""A WireGuard device, as `wg` tells it. Never `wg show DEV dump`: that prints the private key."""

from __future__ import annotations

import os
from collections.abc import Iterable

from via6.model import InterfaceAddress, Link
from via6.observe import allowedips
from via6.observe.wg_babel import Device, Finding, check, parse_endpoints, wanted_for


def is_wireguard(link: Link) -> bool:
    """True for a kernel WireGuard device, and for a tun device that a userspace WireGuard (wireguard-go) holds."""
    if link.kind == "wireguard":
        return True
    return link.kind == "tun" and any(
        os.path.exists(f"{place}/wireguard/{link.name}.sock") for place in ("/run", "/var/run")
    )


def allowed_ips(device: str) -> tuple[str, str]:
    """(output of `wg show DEVICE allowed-ips`, "") or ("", why it could not be had)."""
    return _show(device, "allowed-ips")


def latest_handshakes(device: str) -> tuple[str, str]:
    """(KEY, a tab, seconds since 1970 or 0 per line, "") or ("", why it could not be had)."""
    return _show(device, "latest-handshakes")


def _show(device: str, what: str) -> tuple[str, str]:
    import subprocess

    try:
        done = subprocess.run(["wg", "show", device, what], capture_output=True, text=True, timeout=5, check=False)
    except FileNotFoundError:
        return "", "the program wg is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"wg did not answer: {error}"
    if done.returncode:
        return "", (done.stderr.strip().splitlines() or [f"wg ended with {done.returncode}"])[-1]
    return done.stdout, ""


def babel_findings(
    link: Link, addresses: Iterable[InterfaceAddress], families: Iterable[int] = (4,)
) -> tuple[tuple[Finding, ...], str]:
    """What stands in the way of Babel on a link, and why that could not be found out ("": it could). Nothing for a link
    that is not WireGuard's. `addresses` are those of the node; `families` the sizes of addresses that Babel carries."""
    if not is_wireguard(link):
        return (), ""
    text, problem = allowed_ips(link.name)
    if problem:
        return (), f"{link.name} is a WireGuard device and could not be checked: {problem}"
    own = tuple(a.address for a in addresses if a.ifindex == link.ifindex)
    peers = allowedips.parse(text)
    key, endpoints = _show(link.name, "public-key")[0].strip(), parse_endpoints(_show(link.name, "endpoints")[0])
    return check(Device(link.name, link.up, own, peers, key, endpoints), wanted_for(families)), ""
