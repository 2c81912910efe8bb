"""Finds the programs to compare with, and fetches iproute2 of bookworm-backports into the bench cache, unpacked.

The mirror is the one this machine uses for its own packages.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from common import CACHE


def _mirror() -> str | None:
    for path in [*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list")]:
        text = path.read_text() if path.exists() else ""
        found = re.search(r"^URIs:\s*(\S+/debian)/?\s*$|^deb\s+(?:\[.*?\]\s+)?(\S+/debian)/?\s", text, re.MULTILINE)
        if found:
            return found[1] or found[2]
    return None


def new_iproute2() -> str | None:
    """Path of `ip` 6.15 (bookworm-backports), or None where it cannot be had."""
    target = CACHE / "iproute2"
    ready = [p for p in (target / "bin/ip", target / "sbin/ip", target / "usr/bin/ip") if p.exists()]
    if ready:
        return str(ready[0])
    mirror = _mirror()
    if mirror is None or not shutil.which("apt-get"):
        return None
    work = CACHE / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    sources = work / "backports.list"
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources.write_text(f"deb [signed-by={key}] {mirror} bookworm-backports main\n")
    options = [
        f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=/dev/null", f"Dir::State::lists={work}/lists",
        f"Dir::Cache={work}", "APT::Sandbox::User=root",
    ]  # fmt: skip
    apt = ["apt-get", "-qq", *(w for o in options for w in ("-o", o))]
    for words in (["update"], ["download", "iproute2/bookworm-backports"]):
        if subprocess.run([*apt, *words], cwd=work, capture_output=True, check=False).returncode:
            return None
    package = max(work.glob("iproute2_*.deb"), default=None)
    if package is None:
        return None
    subprocess.run(["dpkg", "-x", str(package), str(target)], check=True)
    return new_iproute2()


def version(program: str) -> str:
    """`6.1.0` out of `ip utility, iproute2-6.1.0, …`."""
    text = subprocess.run([program, "-V"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"iproute2-(\d+\.\d+)", text)
    return found[1] if found else "?"
