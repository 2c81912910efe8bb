"""IPv4 for a machine whose link has IPv6 alone: an address of its own, and a default route with an IPv6 next hop.

The address, one IPv4 address without a network, is put on lo unless the machine has it, and taken away again on
leaving. The router is found by router advertisements and followed when it changes; --router names it instead. The
default route never pushes another one aside: while there is one, via6 refuses, or with --metric stands behind it.

The router needs the way back: a [[host]] entry there, or --stub here, with which this machine announces its address
(nothing else) by Babel. It never forwards, and learns nothing by Babel. Keys are those of --key, or of [babel] in the
configuration for this interface.

signals: HUP reads --config again; TERM and INT leave and remove what via6 put there.

examples:
  via6 host eth0 --address 10.0.8.42
  via6 host eth0 --address 10.0.8.42 --stub
  via6 host eth0 --config /etc/via6/via6.toml         [node] address = "10.0.8.42"
  via6 host eth0 --address 10.0.8.42 --router fe80::1
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from via6.cli.files import load
from via6.cli.keys import with_keys
from via6.config import Config
from via6.config_babel import BabelSpec, LinkSpec
from via6.config_text import device_fault
from via6.errors import USAGE, Refusal
from via6.prefix import (
    Address,
    PrefixError,
    format_address,
    is_link_local,
    is_multicast,
    parse_address,
    parse_scoped,
)

if TYPE_CHECKING:
    from via6.daemon.host import Settings

DEFAULT_FILE: Final = "/etc/via6/via6.toml"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("interface", metavar="INTERFACE", help="the link to the router")
    parser.add_argument("--address", metavar="A.B.C.D", help="this machine's IPv4 address")
    parser.add_argument(
        "--config", metavar="FILE", help=f"take the address from [node] there (without --address: {DEFAULT_FILE})"
    )
    parser.add_argument("--router", metavar="ADDRESS", help="the router's link-local address; else it is looked for")
    parser.add_argument("--metric", metavar="N", default="0", help="of the default route; the smaller wins (default 0)")
    parser.add_argument("--stub", action="store_true", help="announce the address by Babel, too")
    parser.add_argument("--key", metavar="FILE", action="append", help="with --stub: sign with the keys in this file")


def _address(text: str, what: str) -> Address:
    bare, slash, length = text.partition("/")
    try:
        address = parse_address(bare if slash and length == "32" else text)
    except PrefixError as error:
        raise Refusal(f"{what}: {error}", "write one IPv4 address, such as 10.0.8.42", USAGE) from None
    if len(address) != 4 or _unfit(address):
        raise Refusal(f"{what}: no machine can have the address {text}", "write one such as 10.0.8.42", USAGE)
    return address


def _unfit(address: Address) -> bool:
    return address[0] in (0, 127) or is_multicast(address) or is_link_local(address) or address[0] >= 240


def _router(text: str, interface: str) -> Address:
    remedy = "write its link-local address, such as fe80::1"
    try:
        address, zone = parse_scoped(text)
    except PrefixError as error:
        raise Refusal(f"--router: {error}", remedy, USAGE) from None
    if len(address) != 16 or not is_link_local(address):
        raise Refusal(f"--router: {text} is not link-local", remedy, USAGE)
    if zone not in ("", interface):
        raise Refusal(f"--router: {text} is on {zone}, not on {interface}", f"write {format_address(address)}", USAGE)
    return address


def _metric(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text[:11]) >= 2**32:
        raise Refusal(f"--metric {text!r} is no metric", "write a number from 0 to 4294967295", USAGE)
    return int(text)


def _config(file: str | None, needed: bool) -> tuple[Config, str]:
    """The configuration that is named, or the usual one, or if that is not there an empty one; and its name."""
    if file is None and not (needed and os.path.exists(DEFAULT_FILE)):
        return Config(), ""
    name = file if file is not None else DEFAULT_FILE
    return load(name), name


def _own(config: Config, name: str) -> Address:
    address = config.node.address
    if address is None and name:
        raise Refusal(f"{name} gives this node no address", 'add [node] address = "10.0.8.42", or say --address', USAGE)
    if address is None:
        raise Refusal(
            "which IPv4 address does this machine have?",
            f"say --address 10.0.8.42, or [node] address = … in {DEFAULT_FILE}",
            USAGE,
        )
    return _address(format_address(address), f"{name}: [node] address")


def _stub(config: Config, name: str, keys: list[str] | None) -> BabelSpec:
    """How Babel is spoken: as [babel] says, with the keys of --key in the place of its own."""
    babel = config.babel or BabelSpec(())
    if keys:
        mine = LinkSpec(keys=tuple(os.path.abspath(path) for path in keys))
        babel = replace(babel, common=replace(babel.common, keys=()), interface=(*babel.interface, ("*", mine)))
    found = with_keys(Config(babel=babel), os.path.dirname(name) if name != "-" else "").babel
    assert found is not None
    return found


def settings(args: argparse.Namespace) -> Callable[[], Settings]:
    """What is asked for, checked; the function that is returned reads the file again. Raises Refusal."""
    from via6.daemon.host import Settings

    fault = device_fault(args.interface)
    if fault:
        raise Refusal(fault, "`ip -br link` lists the devices of this machine", USAGE)
    if args.key and not args.stub:
        raise Refusal("--key: nothing is signed without Babel", "add --stub", USAGE)
    given = _address(args.address, "--address") if args.address is not None else None
    router = _router(args.router, args.interface) if args.router is not None else None
    metric = _metric(args.metric)

    def now() -> Settings:
        config, name = _config(args.config, given is None)
        address = given or _own(config, name)
        return Settings(args.interface, address, router, metric, _stub(config, name, args.key) if args.stub else None)

    return now


def run(args: argparse.Namespace) -> int:
    from via6.daemon.host import serve
    from via6.daemon.journal import refuse_pending
    from via6.daemon.lock import FibLock
    from via6.kernel.linux import require

    again = settings(args)
    first = again()
    require()
    with FibLock("`via6 host`") as lock:
        refuse_pending()
        return serve(first, again, lock)


__all__ = ["configure", "run", "settings"]
