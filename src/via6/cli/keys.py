"""Reading the key files that a configuration names: whoever can read them can speak for every router."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import Final

from via6.babel.model import Key
from via6.config import Config, KeySpec
from via6.config_babel import MAX_KEY_FILE, parse_keys
from via6.errors import Refusal

_OTHERS: Final = stat.S_IRWXO


def read_keys(path: str) -> tuple[Key, ...]:
    """The keys of a file. Raises Refusal, which never shows a secret."""
    shown = os.fsencode(path).decode(errors="backslashreplace")
    try:
        # Opening a FIFO would wait for somebody who writes.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Refusal(f"{shown} is no file that holds keys", "name a file with NAME ALGORITHM SECRET lines")
            if found.st_mode & _OTHERS:
                raise Refusal(f"{shown} can be read or changed by everybody", f"chmod o= {shown}")
            data = file.read(MAX_KEY_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refusal(f"cannot read the key file {shown}: {reason}", "name a file that this user may read") from None
    keys, problems = parse_keys(data, shown)
    if problems:
        rest = f"\n… and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise Refusal("\n".join(map(str, problems[:5])) + rest, problems[0].remedy)
    return keys


def with_keys(config: Config, folder: str = "") -> Config:
    """The configuration with its key files read. Relative paths begin in `folder`, where the configuration is. Raises
    Refusal."""
    babel = config.babel
    if babel is None:
        return config
    files = tuple((path, read_keys(os.path.join(folder, path))) for path in babel.key_files)
    for spec in babel.keys:
        if spec.file:
            _check(spec, dict(files)[spec.file])
    return replace(config, babel=replace(babel, files=files))


def _check(spec: KeySpec, keys: tuple[Key, ...]) -> None:
    """The file has the key, of the algorithm that was written down."""
    found = next((key for key in keys if key.name == spec.name), None)
    if found is None:
        names = ", ".join(key.name for key in keys[:20])
        raise Refusal(f"{spec.file} has no key {spec.name!r}: those in it are {names}", "take one of these names")
    if spec.algorithm not in ("", found.algorithm):
        raise Refusal(
            f"{spec.file}: the key {spec.name!r} is for {found.algorithm}, the configuration says {spec.algorithm}",
            "leave `algorithm` out of the configuration, or mend the file",
        )


def secrets_shown(config: Config, path: str) -> bool:
    """Secrets stand in a configuration file that everybody may read."""
    if config.babel is None or not any(key.secret for key in config.babel.keys):
        return False
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and bool(found.st_mode & _OTHERS)
