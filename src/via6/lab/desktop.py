"""A desktop on a host of a lab: something to look at across the IPv6-only routers.

Xvnc (TigerVNC) with the window manager jwm and a terminal listens on TCP port 5900 of the host's IPv4 address; where an
RDP client shall get there as well, xrdp stands before it on port 3389 and shows the same screen. So one screen serves
both, and no program has to log anybody in: xrdp's own sessions would need its second daemon, PAM and accounts.

A terminal that strangers may type into must not be root's. So all of it runs as `nobody`, or, in the lab of an
ordinary user, without any capability; with `no_new_privs`; in mount, pid and IPC namespaces of its own, where /tmp,
/run and all home folders are empty. X's sockets and locks lie in that /tmp, so display numbers never clash and no file
stays. Process 1 of the pid namespace is a shell that keeps its privileges, because a change of user forgets PDEATHSIG:
with the Daemon it dies, and with it everything on the desktop.

There is no password. Who can send a packet to the host's address is another node of the lab, and nobody else of this
machine: network namespaces see to that. Who may see it in a browser is for `via6 web` to decide, which demands a token.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from via6.errors import Refusal
from via6.lab.libc import NOBODY, has_nobody, hostname
from via6.lab.namespaces import Lab
from via6.lab.software import Daemon, spawn
from via6.lab.topology import Topology
from via6.prefix import format_address

VNC_PORT: Final = 5900
RDP_PORT: Final = 3389
SIZE: Final = (1024, 768)
WAIT_S: Final = 15.0
HOME: Final = "/tmp/home"
"""Of who sits at the desktop, on its own tmpfs."""
_POLL_S: Final = 0.05
_GREETING: Final = b"RFB 003."
_PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
# Program and Debian's package of it.
_PROGRAMS: Final = {
    "Xvnc": "tigervnc-standalone-server", "jwm": "jwm", "xterm": "xterm", "setpriv": "util-linux",
    "unshare": "util-linux", "mount": "mount",
}  # fmt: skip
_RDP_PROGRAMS: Final = {"xrdp": "xrdp", "openssl": "openssl"}


@dataclass(frozen=True, slots=True)
class Desktop:
    """A desktop of a lab: on the host `name`, which has this IPv4 address; `near` is the host from whose network
    namespace one looks at it."""

    name: str
    kind: str
    address: str
    near: str

    def at(self) -> str:
        """Where it is, for people."""
        rdp = f", rdp {self.address}:{RDP_PORT}" if self.kind == "rdp" else ""
        return f"vnc {self.address}:{VNC_PORT}{rdp}"


def listing(topology: Topology) -> list[Desktop]:
    """The desktops of a lab. One that nobody could look at is not among them."""
    near = ((host, topology.viewer(host)) for host in topology.desktops)
    return [Desktop(h.name, h.desktop, format_address(h.address), viewer.name) for h, viewer in near if viewer]


def require(topology: Topology) -> None:
    """Raises Refusal if a program that the desktops of this lab need is not here."""
    kinds = {host.desktop for host in topology.desktops}
    wanted = (_PROGRAMS if kinds else {}) | (_RDP_PROGRAMS if "rdp" in kinds else {})
    missing = {name: package for name, package in wanted.items() if shutil.which(name, path=_PATH) is None}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise Refusal(
            f"a desktop needs {_list(missing)}, not found here",
            f"apt-get install --no-install-recommends {packages}",
        )


def _list(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


# --- starting ------------------------------------------------------------------------------------------------------


def start(lab: Lab) -> None:
    """Starts the desktops of a lab; `lab.daemons` has them, so they end with it. Raises Refusal."""
    require(lab.topology)
    for desktop in listing(lab.topology):
        lab.daemons[desktop.name] = _start(lab, desktop)


def _start(lab: Lab, desktop: Desktop) -> Daemon:
    name = desktop.name
    unshare = shutil.which("unshare", path=_PATH) or "unshare"
    words = [desktop.address, desktop.kind, "nobody" if has_nobody() else "", os.path.expanduser("~")]
    argv = [unshare, "-m", "-p", "-i", "-f", "--kill-child", "--", "/bin/sh", "-euc", _HOUSE, name, *words]
    with lab.inside(name), hostname(name):
        return spawn(argv, lab.folder / f"{name}.log", {"SESSION": _SESSION})


def wait(lab: Lab, timeout_s: float = WAIT_S) -> str:
    """Waits until every desktop greets the host from which it is looked at. Says what is wrong, empty if nothing is."""
    deadline = time.monotonic() + timeout_s
    faults = []
    for desktop in listing(lab.topology):
        ports = {VNC_PORT: _GREETING} | ({RDP_PORT: b""} if desktop.kind == "rdp" else {})
        for port, greeting in ports.items():
            with lab.inside(desktop.near):
                why = _until_greeted((desktop.address, port), greeting, deadline, lab.daemons.get(desktop.name))
            if why:
                faults.append(f"desktop {desktop.name}: {desktop.near} gets no answer from port {port}: {why}")
    return "; ".join(faults)


def _until_greeted(address: tuple[str, int], greeting: bytes, deadline: float, daemon: Daemon | None) -> str:
    while True:
        try:
            with socket.create_connection(address, timeout=1) as sock:
                if sock.recv(len(greeting)) == greeting:
                    return ""
            why = "it says something else than VNC"
        except OSError as error:
            why = error.strerror or str(error)
        if daemon is not None and (words := daemon.last_words()):
            return words
        if time.monotonic() > deadline:
            return why
        time.sleep(_POLL_S)


# --- what runs there: sh -euc TEXT NAME ADDRESS KIND NOBODY HOME, no word of which a shell could misread -------------

_HOUSE: Final = f"""\
if [ -d /run/netns ]; then  # else our copies of these mounts would keep deleted namespaces alive
  umount -l /run/netns/* 2>/dev/null || :
fi
own="mount -t tmpfs -o nosuid,nodev"
for folder in /home /root "$4"; do
  case $folder in /|'') continue ;; esac
  [ ! -d "$folder" ] || $own,size=1m,mode=755 tmpfs "$folder"
done
$own,size=16m,mode=755 tmpfs /run
$own,size=512m,mode=1777 tmpfs /tmp
$own,size=256m,mode=1777 tmpfs /dev/shm 2>/dev/null || :
mount -t proc -o nosuid,nodev,noexec proc /proc 2>/dev/null || :  # containers may forbid it
mkdir -m 1777 /tmp/.X11-unix
mkdir -p /run/xrdp
mkdir -m 1777 /run/xrdp/sockdir
mkdir -m 700 {HOME}
who=
if [ -n "$3" ]; then
  chown {NOBODY}:{NOBODY} {HOME}
  who="--reuid={NOBODY} --regid={NOBODY} --clear-groups"
fi
cd {HOME}
setpriv $who --bounding-set=-all --inh-caps=-all --no-new-privs -- \\
  env -i HOME={HOME} PATH={_PATH} LANG=C.UTF-8 USER=via6 SHELL=/bin/sh /bin/sh -euc "$SESSION" "$0" "$1" "$2" &
wait $!
"""

_JWM: Final = """\
<?xml version="1.0"?>
<JWM>
  <RootMenu onroot="123">
    <Program label="Terminal">xterm</Program>
    <Program label="Writer">soffice --writer</Program>
    <Restart label="Restart the window manager"/>
  </RootMenu>
  <Tray x="0" y="-1" autohide="off" height="28">
    <TrayButton label="Menu">root:1</TrayButton>
    <TaskList maxwidth="256"/>
    <Clock format="%H:%M"/>
  </Tray>
  <Desktops width="1" height="1"><Background type="solid">#24506b</Background></Desktops>
  <FocusModel>click</FocusModel>
  <Group><Name>xterm</Name><Option>centered</Option></Group>
</JWM>
"""

# Where no interface has an IPv6 address, as in our hosts, xrdp 0.9 can connect to no IPv4 address but this one.
_XRDP: Final = f"""\
[Globals]
ini_version=1
fork=true
port=tcp://ADDRESS:{RDP_PORT}
tcp_nodelay=true
tcp_keepalive=true
security_layer=tls
certificate={HOME}/.xrdp/cert.pem
key_file={HOME}/.xrdp/key.pem
ssl_protocols=TLSv1.2, TLSv1.3
autorun=desktop
allow_channels=true
max_bpp=32
new_cursors=true
use_fastpath=both
hidelogwindow=true
[Logging]
LogFile={HOME}/.xrdp/log
LogLevel=WARNING
EnableSyslog=false
[desktop]
name=desktop
lib=libvnc.so
username=na
password=na
ip=127.0.0.1
port={VNC_PORT}
"""

_SESSION: Final = f"""\
ulimit -c 0
cat >.jwmrc <<'END'
{_JWM}END
cat >.profile <<END
echo "This is $0, $1: IPv4 over links that have IPv6 only."
PS1='$0\\$ '
END
if [ "$2" = rdp ]; then
  mkdir .xrdp
  openssl req -x509 -newkey rsa:2048 -nodes -subj "/CN=$0" -days 30 \\
    -keyout .xrdp/key.pem -out .xrdp/cert.pem 2>/dev/null
  sed "s/ADDRESS/$1/" >.xrdp/xrdp.ini <<'END'
{_XRDP}END
fi
Xvnc :0 -UseIPv4=1 -UseIPv6=0 -rfbport {VNC_PORT} -SecurityTypes None -UseBlacklist=0 -AlwaysShared -nolisten tcp \\
  -geometry {SIZE[0]}x{SIZE[1]} -depth 24 -desktop "$0" -Log '*:stderr:0' &
screen=$!
export DISPLAY=:0
while [ ! -S /tmp/.X11-unix/X0 ]; do
  kill -0 $screen
  sleep 0.05
done
jwm -f "$HOME/.jwmrc" >/dev/null 2>&1 &
xterm -T "$0 $1" -fa monospace -fs 11 -sl 2000 -e sh -l >/dev/null 2>&1 &
if [ "$2" = rdp ]; then
  xrdp -n -c "$HOME/.xrdp/xrdp.ini" >/dev/null &
fi
wait $screen
"""
