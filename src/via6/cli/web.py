"""Shows the network in a browser: as a picture that is live, with the way of a packet, the tables of each node, and
what the doctor finds. Nothing can be changed from there, unless you allow it.

What is shown: a lab that is up, snapshots, the machines of an inventory (asked by ssh again and again), or, if none of
these is given, this machine and what its daemon knows of its neighbours.

It listens on [::1]:8046, which only this machine reaches. Elsewhere it wants a token, in a file; a browser gets it once
as http://ADDRESS/?token=TOKEN. --glass is for strangers: fewer pages, no findings, addresses of management hidden, and
so many questions at a time; that needs no token.

With -n it shows that namespace, and listens where it was typed: that is where the browser is.

--allow-changes adds buttons: in a lab a link is cut and mended, and what `via6 doctor --fix` would do is done and taken
back. Then a token is demanded in any case; without --token one is made up, and is in the address that is printed.

/api/openapi.json describes the API, /metrics is for Prometheus. It works without any internet.

examples:
  via6 web --lab triangle
  via6 web --snapshots network/
  via6 web --inventory hosts.txt --interval 60
  via6 -n r1 web --listen [::1]:8047
  via6 web --lab triangle --allow-changes
  via6 web --lab triangle --listen 192.0.2.1:8046 --token /etc/via6/web.token
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from via6.errors import OK, USAGE, Refusal

if TYPE_CHECKING:
    from via6.observe.names import Names
    from via6.web.app import Web
    from via6.web.desktop import Desktop
    from via6.web.sources import Source

_INTERVAL_S: Final = 30.0
_LISTEN: Final = "[::1]:8046"
_NEEDS: Final = ("starlette", "uvicorn", "websockets", "jinja2", "prometheus_client")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `via6 web`."""
    parser.usage = (
        "via6 web [--lab FILE|LAB | --snapshots FILE|DIR… | --inventory FILE] [--listen ADDRESS:PORT]"
        " [--token FILE] [--glass | --allow-changes] [--config FILE]"
    )
    parser.add_argument("--lab", metavar="FILE|LAB", help="a lab that is up")
    parser.add_argument("--snapshots", nargs="+", metavar="FILE|DIR", help="files and folders of `via6 snapshot`")
    parser.add_argument("--inventory", metavar="FILE", help="ask the machines of a file with ssh: lines HOST [NAME]")
    parser.add_argument(
        "--interval", type=float, default=_INTERVAL_S, metavar="SECONDS",
        help=f"with --inventory: ask so often (default {_INTERVAL_S:.0f})",
    )  # fmt: skip
    parser.add_argument("-F", "--ssh-config", default="", metavar="FILE", help="ssh's configuration, as for ssh -F")
    parser.add_argument("--listen", default=_LISTEN, metavar="ADDRESS:PORT", help=f"where (default {_LISTEN})")
    parser.add_argument("--token", metavar="FILE", help="who asks must know what is in this file")
    parser.add_argument("--glass", action="store_true", help="a looking glass, safe to show to strangers")
    parser.add_argument("--allow-changes", action="store_true", help="cut links of a lab, and mend what the doctor can")
    parser.add_argument("--config", metavar="FILE", help="names, what is hidden, and desktops: see via6-web(1)")


def run(args: argparse.Namespace) -> int:
    """Serves until it is interrupted."""
    import secrets

    if not args.netns:
        before_netns(args)
    # Everybody on this machine gets to loopback.
    args.made_up = secrets.token_urlsafe(18) if args.allow_changes and not args.token else ""
    from via6.collect import local
    from via6.web import serve
    from via6.web.settings import is_loopback

    with args.sock as sock:
        web = _web(args, is_loopback(sock.getsockname()[0]), local.names())
        serve.serve(web, sock, lambda address: _say(args, address))
    return OK


def before_netns(args: argparse.Namespace) -> None:
    """Listens in the namespace in which the browser is."""
    _understand(args)
    need_libraries()
    from via6.web import serve

    args.sock = serve.listener(*_where(args))


def _understand(args: argparse.Namespace) -> None:
    given = [name for name in ("lab", "snapshots", "inventory") if getattr(args, name)]
    if len(given) > 1:
        raise Refusal(f"--{given[0]} or --{given[1]}, not both", code=USAGE)
    if args.allow_changes and args.glass:
        raise Refusal("--glass or --allow-changes, not both: strangers change nothing", code=USAGE)
    if args.allow_changes and (args.snapshots or args.inventory):
        raise Refusal("--allow-changes goes with a lab or with this machine", "via6 web on the machine itself", USAGE)
    if not 1 <= args.interval <= 86400:
        raise Refusal("--interval is a number of seconds from 1 to 86400", code=USAGE)


def need_libraries() -> None:
    """Raises Refusal if a library of the server is not here."""
    from importlib.util import find_spec

    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise Refusal(f"via6 web needs {', '.join(missing)}", "pip install 'via6[web]'")
    try:
        import numpy  # noqa: F401 - asked for once, here, so that the reason is clear
    except ImportError:
        raise Refusal("via6 web needs numpy", "apt-get install python3-numpy, or pip install numpy") from None


def _where(args: argparse.Namespace) -> tuple[str, int]:
    from via6.web import settings

    host, port = settings.parse_listen(args.listen)
    if not settings.is_loopback(host) and not args.token and not args.glass:
        raise Refusal(
            f"{args.listen} can be reached from elsewhere: a token is needed",
            "(umask 077; head -c 24 /dev/urandom | base64 > web.token), then --token web.token",
            USAGE,
        )
    return host, port


def _web(args: argparse.Namespace, loopback: bool, names: Names) -> Web:
    from via6.web import settings
    from via6.web.app import Web

    file = settings.read_file(args.config) if args.config else settings.FileTable()
    made = settings.Settings(
        title=file.title,
        hosts=tuple(file.hosts),
        proxies=settings.proxies_of(file, args.config or ""),
        token=settings.read_token(args.token) if args.token else args.made_up,
        changes=args.allow_changes,
        glass=args.glass,
        loopback=loopback,
        hide=settings.hidden_of(file.glass, args.config or ""),
    )
    source = _source(args, names)
    return Web(source, made, names, [] if args.glass else _desktops(source, file.desktop, args.config))


def _desktops(source: Source, tables: Sequence[object], where: str) -> list[Desktop]:
    """Those of the file and those of the lab."""
    from via6.web.desktop import desktops_of_lab
    from via6.web.desktop_config import desktops
    from via6.web.sources.lab import LabSource

    found = list(desktops(tables, where)) if tables else []
    there = {one.name for one in found}
    if isinstance(source, LabSource):
        found += [one for one in desktops_of_lab(source.state) if one.name not in there]
    return found


def _source(args: argparse.Namespace, names: Names) -> Source:
    """What to show; made before any thread, for the way into an ordinary user's lab is one for a single thread."""
    if args.lab:
        from via6.web.sources.lab import LabSource

        return LabSource(args.lab, names)
    if args.snapshots:
        from via6.web.sources.snapshots import SnapshotSource

        return SnapshotSource(args.snapshots, names)
    if args.inventory:
        from via6.collect import snapshot_ssh
        from via6.web.sources.inventory import InventorySource

        try:
            text = Path(args.inventory).read_text(errors="replace")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Refusal(f"cannot read {args.inventory}: {reason}", "a line of it is HOST [NAME]") from None
        hosts = snapshot_ssh.unique(snapshot_ssh.inventory(text, args.inventory))
        return InventorySource(Path(args.inventory).stem, hosts, names, args.interval, args.ssh_config)
    from via6.web.sources.daemon import DaemonSource, own_name

    return DaemonSource(own_name(args.netns), names)


def _say(args: argparse.Namespace, address: str) -> None:
    if args.made_up:
        print(f"{address}?token={args.made_up} (Ctrl-C ends it)", flush=True)
        return
    where = f"{address}glass" if args.glass else address
    print(f"{where} (Ctrl-C ends it)", flush=True)
    if args.token:
        print(f"the first time: {address}?token=… with what is in {args.token}", file=sys.stderr)
