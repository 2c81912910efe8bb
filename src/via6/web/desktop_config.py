"""Which desktops of real machines `via6 web` may show: `[[desktop]]` in its configuration.

    [[desktop]]
    name = "accounts"               # in the address of the page: /desktops/accounts
    host = "10.4.0.20"              # an address, or a name
    port = 5900                     # else 5900
    kind = "vnc"                    # else vnc
    node = "r4-h"                   # optional: where it is in the picture
    near = "left"                   # optional: the network namespace to look at it from, as `via6 -n` takes it

What is not listed cannot be reached. All mistakes of a file are told at once.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from msgspec import Meta, Struct, ValidationError, convert

from via6.errors import Refusal
from via6.web.desktop import MAX_DESKTOPS, VNC_PORT, Desktop

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:%-]{0,252}|::[A-Za-z0-9_.:%-]*")


class _Table(Struct, forbid_unknown_fields=True):
    name: str
    host: str
    port: Annotated[int, Meta(ge=1, le=65535)] = VNC_PORT
    kind: str = "vnc"
    node: str = ""
    near: str = ""


def desktops(tables: object, where: str) -> tuple[Desktop, ...]:
    """What `[[desktop]]` holds, as tomllib read it. Raises Refusal that names every mistake with its place."""
    if not isinstance(tables, list):
        raise Refusal(f"{where}: desktop: write [[desktop]], with two pairs of brackets")
    if len(tables) > MAX_DESKTOPS:
        raise Refusal(f"{where}: {len(tables)} desktops; at most {MAX_DESKTOPS}")
    faults: list[str] = []
    found: dict[str, Desktop] = {}
    for number, value in enumerate(tables):
        place = f"desktop[{number}]"
        try:
            table = convert(value, _Table)
        except ValidationError as error:
            what, _, path = str(error).partition(" - at `$")
            faults.append(f"{place}{path.rstrip('`')}: {what[:1].lower()}{what[1:]}")
            continue
        wrong = _faults(table, found)
        faults += [f"{place}.{fault}" for fault in wrong]
        if not wrong:
            found[table.name] = Desktop(table.name, table.host, table.port, node=table.node, near=table.near)
    if faults:
        raise Refusal("\n".join(f"{where}: {fault}" for fault in faults), "docs/desktop.md shows the keys")
    return tuple(found.values())


def _faults(table: _Table, found: dict[str, Any]) -> list[str]:
    faults = []
    if not _NAME.fullmatch(table.name):
        faults.append(f"name: {table.name[:60]!r} must be 1 to 40 of A-Z a-z 0-9 - _ ., a letter or digit first")
    elif table.name in found:
        faults.append(f"name: {table.name} is there already")
    if not _HOST.fullmatch(table.host):
        faults.append(f"host: {table.host[:60]!r} is neither an address nor a name")
    if table.kind == "rdp":
        faults.append("kind: a browser can show VNC alone; an RDP client goes to the machine itself")
    elif table.kind != "vnc":
        faults.append(f"kind: unknown kind {table.kind[:40]!r}; there is vnc")
    return faults
