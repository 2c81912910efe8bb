"""What stands in the way of Babel on a WireGuard device, and the lines that mend it."""

from __future__ import annotations

from via6.observe.allowedips import Peer
from via6.observe.wg_babel import Device, check, parse_endpoints, suggested, wanted_for
from via6.prefix import is_link_local, parse_address, parse_prefix

KEY, OTHER = "A" * 43 + "=", "B" * 43 + "="
LOCAL = parse_address("fe80::1")


def peer(*allowed: str, key: str = KEY) -> Peer:
    return Peer(key, tuple(map(parse_prefix, allowed)))


def device(*peers: Peer, up: bool = True, addresses: tuple[bytes, ...] = (LOCAL,)) -> Device:
    return Device("wg0", up, addresses, peers, "K" * 43 + "=", ((OTHER, "[2001:db8::1]:51820"),))


def kinds(found: Device, families: tuple[int, ...] = (4,)) -> list[str]:
    return [finding.kind for finding in check(found, wanted_for(families))]


def test_a_device_that_is_right() -> None:
    assert kinds(device(peer("::/0", "0.0.0.0/0")), (4, 16)) == []
    assert kinds(device(peer("fe80::/64", "ff02::1:6/128", "0.0.0.0/0"))) == []
    assert kinds(device(peer("fe80::/10", "ff02::/16", "0.0.0.0/1", "128.0.0.0/1"))) == []


def test_allowed_ips_that_are_too_narrow() -> None:
    first, second = check(device(peer("2a0a:e5c1:137::/48", "10.0.0.0/8")))
    assert (first.kind, first.fatal, second.kind, second.fatal) == ("babel-dropped", True, "traffic-dropped", False)
    line = f"wg set wg0 peer {KEY} allowed-ips 0.0.0.0/0,2a0a:e5c1:137::/48,fe80::/64,ff02::1:6/128"
    assert first.lines == second.lines == (line,)
    assert "fe80::/64, ff02::1:6/128" in first.text
    assert str(second).endswith(f"Type\n  {line}")
    assert kinds(device(peer("fe80::1/128", "ff02::1:6/128", "0.0.0.0/0"))) == ["babel-dropped"]
    assert kinds(device(peer("fe80::/64", "ff02::1:6/128", "0.0.0.0/0")), (4, 16)) == ["traffic-dropped"]


def test_who_narrows_ipv4_is_told_of_the_dummy_address() -> None:
    narrow = device(peer("fe80::/64", "ff02::1:6/128", "10.0.0.0/8"))
    (found,) = check(narrow, (parse_prefix("10.0.0.0/8"),))
    assert "192.0.0.8/32" in found.text
    assert found.lines[0].endswith("10.0.0.0/8,192.0.0.8/32,fe80::/64,ff02::1:6/128")


def test_no_link_local_address() -> None:
    (found,) = check(device(peer("::/0", "0.0.0.0/0"), addresses=(parse_address("2001:db8::1"), b"\xa9\xfe\0\1")))
    assert (found.kind, found.fatal) == ("no-link-local", True)
    address = suggested(device())
    assert is_link_local(address)
    assert found.lines[0].startswith("ip address add fe80::")
    # The other end's is another one, and each stays.
    assert suggested(device()) == address != suggested(Device("wg0", True, (), (), "L" * 43 + "="))


def test_a_device_that_is_down_or_alone() -> None:
    assert [f.lines for f in check(device(peer("::/0", "0.0.0.0/0"), up=False))] == [("ip link set wg0 up",)]
    (found,) = check(device())
    assert (found.kind, found.fatal) == ("no-peer", True)


def test_a_device_for_each_peer() -> None:
    (found,) = check(device(peer("::/0", "0.0.0.0/0"), peer("10.0.0.1/32", key=OTHER), peer(key="C" * 43 + "=")))
    assert (found.kind, found.fatal) == ("many-peers", True)
    assert f"wg set wg0 peer {OTHER} remove" in found.lines
    assert any(
        f"wg set wg0-1 private-key /dev/stdin peer {OTHER} endpoint [2001:db8::1]:51820 " in x for x in found.lines
    )
    assert "ip link add wg0-2 type wireguard" in found.lines
    assert not any(KEY in line for line in found.lines)
    addresses = {line.split()[3] for line in found.lines if line.startswith("ip address")}
    assert len(addresses) == 2
    long = Device("a-long-name-123", True, (LOCAL,), (peer(), peer(key=OTHER)))
    assert "ip link add a-long-name-1-1 type wireguard" in check(long)[0].lines


def test_endpoints() -> None:
    text = f"{KEY}\t(none)\n{OTHER}\t192.0.2.1:51820\nnonsense\n\n"
    assert parse_endpoints(text) == ((OTHER, "192.0.2.1:51820"),)
