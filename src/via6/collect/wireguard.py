"""AllowedIPs of a WireGuard device, asked of `wg`. Never `wg show DEV dump`: that prints the private key."""

from __future__ import annotations

import os

from via6.model import Link


def is_wireguard(link: Link) -> bool:
    """True for a kernel WireGuard device, and for a tun device that a userspace WireGuard (wireguard-go) holds."""
    if link.kind == "wireguard":
        return True
    return link.kind == "tun" and any(
        os.path.exists(f"{place}/wireguard/{link.name}.sock") for place in ("/run", "/var/run")
    )


def allowed_ips(device: str) -> tuple[str, str]:
    """(output of `wg show DEVICE allowed-ips`, "") or ("", why it could not be had)."""
    import subprocess

    try:
        done = subprocess.run(
            ["wg", "show", device, "allowed-ips"], capture_output=True, text=True, timeout=5, check=False
        )
    except FileNotFoundError:
        return "", "the program wg is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"wg did not answer: {error}"
    if done.returncode:
        return "", (done.stderr.strip().splitlines() or [f"wg ended with {done.returncode}"])[-1]
    return done.stdout, ""
