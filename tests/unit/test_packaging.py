"""What is installed beside the program: units that systemd accepts, and a script that touches nothing of others."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from support import ROOT, run
from via6.cli.main import VERBS
from via6.model import PROTO_VIA6

PACKAGING = ROOT / "packaging"
UNITS = sorted(PACKAGING.glob("*.service"))


def settings(unit: Path) -> dict[str, str]:
    lines = (line.partition("=") for line in unit.read_text().splitlines() if not line.startswith(("#", "[")))
    return {key: value for key, mark, value in lines if mark}


def test_there_are_units() -> None:
    assert [unit.name for unit in UNITS] == ["via6-host@.service", "via6.service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_says_what_the_daemon_does(unit: Path) -> None:
    found = settings(unit)
    assert (found["Type"], found["Restart"]) == ("notify", "on-failure")
    assert found["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert (found["RuntimeDirectory"], found["StateDirectory"]) == ("via6", "via6")
    assert set(found["CapabilityBoundingSet"].split()) == {"CAP_NET_ADMIN", "CAP_NET_RAW"}
    assert found["ExecStart"].split()[:1] == ["/usr/local/bin/via6"]
    assert found["ExecStart"].split()[1] in VERBS


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_a_unit(unit: Path, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    # Neither the program nor its man pages are installed where the tests run.
    text = re.sub(r"(?m)^Documentation=.*\n", "", unit.read_text()).replace("/usr/local/bin/via6", "/bin/true")
    copy = tmp_path / unit.name
    copy.write_text(text)
    done = run("systemd-analyze", "verify", copy, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    copy.write_text(text.replace("Restart=on-failure", "Restart=sometimes"))
    assert "sometimes" in run("systemd-analyze", "verify", copy, check=False).stderr


def test_the_name_of_the_protocol() -> None:
    lines = (PACKAGING / "rt_protos.d/via6.conf").read_text().splitlines()
    assert [line.split() for line in lines if not line.startswith("#")] == [[str(PROTO_VIA6), "via6"]]


def install(folder: Path, *words: str) -> tuple[int, str]:
    env = {**os.environ, "PREFIX": str(folder / "usr"), "SYSCONF": str(folder / "etc"), "UNITS": str(folder / "units")}
    done = run("sh", PACKAGING / "install.sh", *words, check=False, env=env)
    return done.returncode, done.stdout + done.stderr


def test_what_is_not_ours_is_left(tmp_path: Path) -> None:
    theirs = [tmp_path / "usr/bin/via6", tmp_path / "usr/lib/via6/x", tmp_path / "etc/via6/via6.toml"]
    for file in theirs:
        file.parent.mkdir(parents=True)
        file.write_text("theirs")
    code, said = install(tmp_path)
    assert (code, "is there already and not from here" in said) == (1, True), said
    shutil.rmtree(tmp_path / "usr/lib/via6")
    code, said = install(tmp_path)
    assert (code, "bin/via6 is there already" in said) == (1, True), said
    (tmp_path / "usr/lib/via6").mkdir()
    (tmp_path / "usr/lib/via6/x").write_text("theirs")
    assert install(tmp_path, "--uninstall")[0] == 0
    assert [file.read_text() for file in theirs] == ["theirs"] * 3


def test_uninstall_takes_what_install_puts(tmp_path: Path) -> None:
    """As it is after an installation, without the packages that pip would fetch."""
    script = (PACKAGING / "install.sh").read_text()
    for name in ("via6.service", "via6-host@.service", "via6.conf", "completions/_via6", "completions/via6.bash"):
        assert name in script
    home = tmp_path / "usr/lib/via6"
    (home / "bin").mkdir(parents=True)
    (home / ".via6-install").touch()
    (home / "bin/via6").touch()
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/via6").symlink_to(home / "bin/via6")
    for place in ("units/via6.service", "etc/iproute2/rt_protos.d/via6.conf", "usr/share/man/man1/via6-run.1"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    code, said = install(tmp_path, "--uninstall")
    assert (code, "gone from" in said) == (0, True), said
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert install(tmp_path, "--nonsense")[0] == 1
