"""The looking glass: what strangers may see. Pure.

Every text that goes out passes here: an address that is hidden becomes `hidden`. Hidden are the addresses within the
prefixes of the configuration; without any, the global addresses of the nodes themselves, IPv6 and those on loopback,
for it is by these that routers are managed. Findings, filters and versions are not shown at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from via6.observe.node import Node
from via6.prefix import Address, Prefix, PrefixError, is_link_local, parse_address

HIDDEN: Final = "hidden"
_TOKEN: Final = re.compile(r"[0-9A-Fa-f:.]*[0-9A-Fa-f]:?[0-9A-Fa-f:.]*")
_DOTTED: Final = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_SPOKEN: Final = frozenset({"why", "notes", "remarks"})
"""Sentences that may quote rules of a packet filter."""
_ASIDE: Final = frozenset({"release", "system", "unread", "findings", "desktop", "seen"})


class Veil:
    """Hides addresses. `prefixes` None: those of the nodes."""

    def __init__(self, prefixes: Iterable[Prefix] | None, nodes: Iterable[Node]) -> None:
        self._prefixes = None if prefixes is None else tuple(prefixes)
        self._held = frozenset() if self._prefixes is not None else frozenset(_own(nodes))

    def hides(self, address: Address) -> bool:
        """Whether an address is not told."""
        if self._prefixes is not None:
            return any(address in prefix for prefix in self._prefixes)
        return address in self._held

    def text(self, text: str) -> str:
        """The text without what is hidden."""
        if "." not in text and ":" not in text:
            return text
        return _TOKEN.sub(lambda found: self._token(found[0]), text)

    def _token(self, token: str) -> str:
        for word in (token, token.strip(".:"), token.rstrip(".:"), token.lstrip(".:")):
            try:
                return HIDDEN if self.hides(parse_address(word)) else token
            except (PrefixError, ValueError):
                continue
        # With a port behind it, for one.
        return _DOTTED.sub(lambda found: self._token(found[0]), token) if ":" in token and "." in token else token

    def asked(self, *words: str) -> bool:
        """Whether a question names what is hidden; its answer would tell whose it is."""
        return any(self.text(word) != word for word in words)

    def value(self, value: Any) -> Any:
        """A JSON value without what is hidden."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self._member(key, one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.value(one) for one in value]
        return value

    def _member(self, key: str, value: Any) -> Any:
        if key in _SPOKEN:
            return [] if isinstance(value, list) else None
        if key in _ASIDE:
            return {} if key == "unread" else [] if isinstance(value, list) else "" if isinstance(value, str) else None
        return self.value(value)


def _own(nodes: Iterable[Node]) -> Iterable[Address]:
    for node in nodes:
        for held in node.kernel.addresses:
            link = node.kernel.by_index.get(held.ifindex)
            loopback = link is not None and link.loopback
            if len(held.address) == 16:
                if not is_link_local(held.address) and held.address != bytes(15) + b"\x01":
                    yield held.address
            elif loopback and held.address[0] != 127:
                yield held.address
