"""Before a wheel or an sdist is built: the browser libraries of `via6 web` must be there, and be the right ones.

An editable installation (`make demo`, `make test`) needs none: `sh web/build` fetches them when they are wanted.
VIA6_WITHOUT_WEB=1 builds a wheel without them, for machines without npm; `via6 web` then has tables and no picture.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WebLibraries(BuildHookInterface):  # type: ignore[type-arg]
    """Runs web/build."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raises if they cannot be had; the words of web/build say why."""
        if version == "editable" or os.environ.get("VIA6_WITHOUT_WEB") == "1":
            return
        build = os.path.join(self.root, "web", "build")
        # An sdist brings them along, but not what only the tests use: so look first.
        if subprocess.run(["sh", build, "--check"], check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return
        done = subprocess.run(["sh", build], check=False, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"{done.stderr.strip()}\nor build without the picture: VIA6_WITHOUT_WEB=1")
