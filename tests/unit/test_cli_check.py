"""`via6 check`: text, JSON, exit codes, and files that cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path

from support import via6

BAD = "[[route]]\nto = '10.0.0.1/8'\nvia = 'fe80::1'\n"


def test_good(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[[route]]\nto = '10/8'\nvia = 'fe80::1%eth1'\n")
    assert via6("check", file) == (0, f"{file}: good, 1 route\n", "")
    assert via6("-j", "check", file) == (0, "[]\n", "")


def test_every_mistake_one_per_line_with_remedy(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(BAD)
    code, out, err = via6("check", file)
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        f"{file}:2: route[0].to: '10.0.0.1/8' has host bits set",
        "  write 10.0.0.0/8 for the network or 10.0.0.1/32 for the one address",
        f"{file}:3: route[0].via: fe80::1 is link-local: it means nothing without a device",
        '  write via = "fe80::1%eth1" or add dev =',
    ]


def test_json_and_standard_input() -> None:
    code, out, _ = via6("check", "-j", "-", input=BAD)
    assert code == 1
    rows = json.loads(out)
    assert [list(row) for row in rows] == [["place", "line", "severity", "message", "remedy"]] * 2
    assert (rows[0]["place"], rows[0]["line"], rows[0]["severity"]) == ("route[0].to", 2, "error")
    assert via6("check", "-", input=BAD)[1].startswith("stdin:2: route[0].to: ")


def test_warnings_leave_it_good() -> None:
    code, out, _ = via6("check", "-", input="")
    assert code == 0
    assert "warning: declares no routes" in out


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    code, out, err = via6("check", tmp_path / "none.toml")
    assert (code, out) == (1, "")
    assert "No such file" in err
    assert "folder" in via6("check", tmp_path)[2]
    assert via6("check")[0] == 2
    # An endless file is read up to the bound and no further.
    code, out, err = via6("check", "/dev/zero")
    assert code == 1
    assert "larger than 64 MB" in out
    if os.geteuid():
        secret = tmp_path / "secret"
        secret.touch(mode=0)
        assert "not allowed" in via6("check", secret)[2]


def test_names_and_texts_the_terminal_cannot_show(tmp_path: Path) -> None:
    """Neither a name that is not UTF-8 nor a terminal that is not ends in a traceback."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.toml")
    Path(name).write_text(BAD)
    for encoding in ("utf-8:strict", "ascii:strict"):
        code, out, err = via6("check", name, env={"PYTHONIOENCODING": encoding})
        assert code == 1
        assert "caf\\xe9.toml:2: route[0].to: " in out
        assert not err
    code, out, err = via6("check", "-", input="[[route]]\nto = 'ü'\n", env={"PYTHONIOENCODING": "ascii:strict"})
    assert code == 1
    assert not err
