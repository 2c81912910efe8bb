"""Fixtures for all tests; names what an ordinary user's run leaves out; fails when a run leaves something behind."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from types import FrameType

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

import support

TIME_LIMIT_S = 300

# No database: a run leaves nothing in the tree. A failing example is printed and goes into a test of its own.
hypothesis.settings.register_profile("local", deadline=None, database=None)
hypothesis.settings.register_profile("ci", deadline=None, database=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

_left_out: list[str] = []


@pytest.fixture
def nets() -> Iterator[support.Nets]:
    """Makes throwaway namespaces; see support.py."""
    made = support.Nets()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    """A test that hangs fails, and its fixtures clean up."""

    def late(_signal: int, _frame: FrameType | None) -> None:
        pytest.fail(f"not done within {TIME_LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(TIME_LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True, scope="session")
def _nothing_left_behind() -> Iterator[None]:
    """A run that leaves a namespace or a process behind has failed, whatever its tests say."""
    before = support.namespaces()
    yield
    left = support.leftover_namespaces(before) + support.leftover_processes()
    assert not left, f"left behind: {left}"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    os.environ[support.RUN_MARK] = str(os.getpid())
    # pytest's own folders under /tmp outlive the run; this one does not.
    if config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="via6-test-")
    set_hypothesis_home_dir(os.path.join(config.option.basetemp, "hypothesis"))


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.option.basetemp, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    out = [item for item in items if item.get_closest_marker("root")]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if not item.get_closest_marker("root")]
    _left_out.extend(item.nodeid for item in out)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tells scripts/tests the names of what failed."""
    told = os.environ.get("VIA6_FAILED")
    if told and report.failed:
        with open(told, "a") as file:
            file.write(report.nodeid + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _left_out:
        terminalreporter.section(f"{len(_left_out)} tests left out, they need root: sudo make test")
        for nodeid in _left_out:
            terminalreporter.write_line(nodeid)
