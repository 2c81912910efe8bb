"""plan, apply, confirm and undo on real namespaces: what they change, what they leave alone, and the way back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon_support import declare, objects, ours, router, running
from support import Net, Nets, via6, wait_until

pytestmark = pytest.mark.root

Verb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return tmp_path / "via6.toml"


@pytest.fixture
def net(nets: Nets) -> Net:
    return router(nets)[0]


@pytest.fixture
def verb(net: Net, tmp_path: Path) -> Verb:
    """`via6 -n NET …` with a state folder of this test."""

    def run(*words: object, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        return via6(*words, netns=net, env={"VIA6_STATE": str(tmp_path / "state"), **(env or {})})

    return run


def table(net: Net) -> str:
    """Everything that plan must not touch and undo must restore, as the kernel shows it; ids of objects change."""
    routes = net.json("route", "show", "table", "all") + net.json("-6", "route", "show", "table", "all")
    return json.dumps([{k: v for k, v in r.items() if k not in ("nhid", "expires")} for r in routes], sort_keys=True)


# --- plan ----------------------------------------------------------------------------------------------------------


def test_plan_changes_nothing(net: Net, conf: Path, verb: Verb) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0")
    before = table(net), net.ip("nexthop")
    code, out, _ = verb("plan", conf)
    assert code == 0
    assert out.startswith("+ 10.0.0.0/8 via inet6 fe80::9 dev eth0")
    assert "1 to add, 0 to change, 0 to remove" in out
    assert (table(net), net.ip("nexthop")) == before
    assert not (conf.parent / "state").exists()


def test_plan_exit_code(net: Net, conf: Path, verb: Verb) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0")
    assert verb("plan", "--exit-code", conf)[0] == 3
    assert verb("apply", conf)[0] == 0
    assert verb("plan", "--exit-code", conf)[:2] == (0, "nothing to change\n")
    assert len(ours(net)) == 1


def test_plan_json(conf: Path, verb: Verb) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0", "to=10.1.0.0/16 via=fe80::9%nosuch")
    code, out, _ = verb("plan", "-j", conf)
    found = json.loads(out)
    assert code == 1
    assert [r["dst"] for r in found["add"]] == ["10.0.0.0/8"]
    assert found["refused"][0]["dst"] == "10.1.0.0/16"
    assert "nosuch" in found["refused"][0]["message"]


# --- apply ---------------------------------------------------------------------------------------------------------


def test_apply_makes_it_so_and_removes_what_is_no_longer_declared(net: Net, conf: Path, verb: Verb) -> None:
    net.ip("route add 10.9.0.0/16 via inet6 fe80::7 dev eth0 proto static")
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0", "to=10.1.0.0/16 via=fe80::9%eth1")
    assert verb("apply", conf)[0] == 0
    assert len(ours(net)) == 2
    declare(conf, "to=10.0.0.0/8 via=fe80::8%eth0")
    code, out, _ = verb("apply", conf)
    assert code == 0
    assert "0 added, 1 changed, 1 removed" in out
    assert "fe80::8" in "".join(ours(net))
    assert len(ours(net)) == 1
    assert len(objects(net)) == 1
    assert "fe80::7" in net.ip("route show proto static")


def test_a_refused_route_leaves_its_slot_and_the_others_are_done(net: Net, conf: Path, verb: Verb) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0")
    assert verb("apply", conf)[0] == 0
    declare(conf, "to=10.0.0.0/8 via=fe80::9%nosuch", "to=10.1.0.0/16 via=fe80::9%eth1")
    code, out, err = verb("apply", conf)
    assert code == 1
    assert "there is no device 'nosuch'" in out + err
    assert sorted(r.split()[0] for r in ours(net)) == ["10.0.0.0/8", "10.1.0.0/16"]


def test_multipath_is_all_or_nothing(net: Net, conf: Path, verb: Verb) -> None:
    conf.write_text('[[route]]\nto = "10.0.0.0/8"\nvia = ["fe80::9%eth0", "fe80::9%nosuch"]\n')
    assert verb("apply", conf)[0] == 1
    assert ours(net) == []


def test_a_next_hop_behind_a_router_is_refused(net: Net, conf: Path, verb: Verb) -> None:
    net.ip("-6 route add 2001:db8:77::/48 via fe80::5 dev eth0")
    declare(conf, "to=10.0.0.0/8 via=2001:db8:77::1")
    code, out, _ = verb("apply", conf)
    assert code == 1
    assert "not on link" in out
    assert "via6 run" in out
    assert ours(net) == []


def test_another_hands_route_is_not_overwritten(net: Net, conf: Path, verb: Verb) -> None:
    net.ip("route add 10.0.0.0/8 via inet6 fe80::7 dev eth0 proto static")
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0")
    before = table(net)
    assert "holds" in verb("plan", conf)[1]
    code, out, _ = verb("apply", conf)
    assert code == 1
    assert "holds this slot" in out
    assert table(net) == before


def test_a_file_with_a_mistake_does_nothing(net: Net, conf: Path, verb: Verb) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0")
    assert verb("apply", conf)[0] == 0
    before = table(net)
    conf.write_text('[[route]]\nto = "10.0.0.1/8"\nvia = "fe80::1"\n')
    code, out, err = verb("apply", conf)
    assert (code, out) == (1, "")
    assert "host bits" in err
    assert "nothing was done" in err
    assert table(net) == before


def test_apply_is_refused_while_a_daemon_keeps_the_routes(net: Net, conf: Path, verb: Verb) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0")
    with running(net, conf) as daemon:
        code, _, err = verb("apply", conf)
        assert code == 1
        assert f"pid {daemon.pid}" in err


def test_without_a_journal_nothing_is_begun(net: Net, conf: Path, verb: Verb) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0")
    (conf.parent / "file").write_text("")
    code, _, err = verb("apply", conf, env={"VIA6_STATE": str(conf.parent / "file" / "state")})
    assert code == 1
    assert "VIA6_STATE" in err
    assert ours(net) == []


# --- undo ----------------------------------------------------------------------------------------------------------


def test_undo_restores_what_was(net: Net, conf: Path, verb: Verb) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0", "to=10.1.0.0/16 via=fe80::9%eth1")
    assert verb("apply", conf)[0] == 0
    before = table(net)
    declare(conf, "to=10.0.0.0/8 via=fe80::8%eth0", "to=10.2.0.0/16 via=fe80::9%eth1 metric=7")
    assert verb("apply", conf)[0] == 0
    assert table(net) != before
    assert verb("undo")[0] == 0
    assert table(net) == before
    code, _, err = verb("undo")
    assert code == 1
    assert "no apply to take back" in err


def test_undo_leaves_what_another_hand_changed_since(net: Net, conf: Path, verb: Verb) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0", "to=10.1.0.0/16 via=fe80::9%eth1")
    assert verb("apply", conf)[0] == 0
    net.ip("route replace 10.0.0.0/8 via inet6 fe80::7 dev eth0 proto static")
    code, _, err = verb("undo")
    assert code == 0
    assert "10.0.0.0/8 was changed by another hand" in err
    assert ours(net) == []
    assert "fe80::7" in net.ip("route")


def test_an_apply_killed_in_the_middle_can_be_undone(net: Net, conf: Path, verb: Verb) -> None:
    conf.write_text("".join(f'[[route]]\nto="10.{i}.0.0/16"\nvia="fe80::9%eth0"\n' for i in range(200)))
    before = table(net)
    state = conf.parent / "state"
    argv = [sys.executable, "-m", "via6", "-n", net.name, "apply", str(conf)]
    process = subprocess.Popen(argv, env={**os.environ, "VIA6_STATE": str(state)}, stdout=subprocess.DEVNULL)
    wait_until(lambda: list(state.glob("apply-*.json")), timeout=20, every=0.0005)
    process.kill()
    process.wait()
    assert verb("undo")[0] == 0
    assert table(net) == before


def test_a_journal_that_cannot_be_read(net: Net, conf: Path, verb: Verb) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0")
    assert verb("apply", conf)[0] == 0
    (journal,) = (conf.parent / "state").glob("apply-*.json")
    journal.write_text("{")
    code, _, err = verb("undo")
    assert code == 1
    assert str(journal) in err
    assert len(ours(net)) == 1


# --- confirm -------------------------------------------------------------------------------------------------------


def test_not_confirmed_is_taken_back_even_without_the_terminal(net: Net, conf: Path) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0")
    env = {**os.environ, "VIA6_STATE": str(conf.parent / "state")}
    argv = [sys.executable, "-m", "via6", "-n", net.name, "apply", "--confirm", "2", str(conf)]
    # A session of its own stands for the terminal; SIGHUP to it is what a lost connection sends.
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    out, _ = process.communicate(timeout=20)
    assert "taken back in 2 s" in out
    assert len(ours(net)) == 1
    wait_until(lambda: ours(net) == [], timeout=15)


def test_confirmed_stays(net: Net, conf: Path, verb: Verb) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0")
    assert verb("apply", "--confirm", "600", conf)[0] == 0
    code, _, err = verb("apply", conf)
    assert code == 1
    assert "waits for confirmation" in err
    (journal,) = (conf.parent / "state").glob("apply-*.json")
    watcher = json.loads(journal.read_text())["confirm_pid"]
    assert verb("confirm")[0] == 0
    wait_until(lambda: not Path(f"/proc/{watcher}").exists(), what="the watcher has gone")
    assert len(ours(net)) == 1
    code, _, err = verb("confirm")
    assert code == 1
    assert "nothing waits" in err
    assert verb("undo")[0] == 0
    assert ours(net) == []


def test_undo_ends_the_wait(net: Net, conf: Path, verb: Verb) -> None:
    declare(conf, "to=10.0.0.0/8 via=fe80::9%eth0")
    assert verb("apply", "--confirm", "600", conf)[0] == 0
    (journal,) = (conf.parent / "state").glob("apply-*.json")
    watcher = json.loads(journal.read_text())["confirm_pid"]
    assert verb("undo")[0] == 0
    wait_until(lambda: not Path(f"/proc/{watcher}").exists(), what="the watcher has gone")
    assert ours(net) == []


# --- the ssh session -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "server", "route"),
    [
        ("2001:db8:77::1", "2001:db8:1::1", "to=2001:db8:77::/48 via=fe80::9%eth1"),
        ("10.7.7.7", "192.0.2.1", "to=10.7.0.0/16 via=fe80::9%eth1"),
    ],
)
def test_the_session_is_not_cut(net: Net, conf: Path, verb: Verb, client: str, server: str, route: str) -> None:
    net.ip("-6 route add default via fe80::5 dev eth0")
    net.ip("addr add 192.0.2.1/32 dev lo")
    net.ip("-4 route add 0.0.0.0/0 via inet6 fe80::5 dev eth0")
    session = {"SSH_CONNECTION": f"{client} 50000 {server} 22"}
    declare(conf, route)
    before = table(net)
    code, _, err = verb("apply", conf, env=session)
    assert code == 1
    assert client in err
    assert "--accept-risk=lose-ssh" in err
    assert table(net) == before
    assert verb("apply", "--accept-risk=lose-ssh", conf, env=session)[0] == 0
    # Nothing changes for the client any more, so nothing is refused.
    declare(conf, route, "to=10.200.0.0/16 via=fe80::9%eth1")
    assert verb("apply", conf, env=session)[0] == 0


def test_the_session_is_found_behind_sudo(net: Net, conf: Path) -> None:
    """sudo cleans the environment: the shell around it still has it."""
    net.ip("-6 route add default via fe80::5 dev eth0")
    declare(conf, "to=2001:db8:77::/48 via=fe80::9%eth1")
    inner = f"env -u SSH_CONNECTION {sys.executable} -m via6 -n {net.name} apply {conf}; exit $?"
    done = subprocess.run(
        ["sh", "-c", inner], capture_output=True, text=True, check=False, timeout=30,
        env={**os.environ, "SSH_CONNECTION": "2001:db8:77::1 5 2001:db8:1::1 22", "VIA6_STATE": str(conf.parent / "s")},
    )  # fmt: skip
    assert done.returncode == 1
    assert "lose-ssh" in done.stderr
    assert ours(net) == []
