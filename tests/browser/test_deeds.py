"""What can be changed from the pages with --allow-changes: a link is cut and mended, a finding is mended and that is
taken back."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page

from browser.pages import Chromium, faults_of_access, until
from support import PREFIX, leftover_namespaces, run, via6
from via6.lab import state

pytestmark = pytest.mark.root

LAB = """
[lab]
name = "NAME"
[router.r1]
lan = "10.1.0.0/24"
[router.r2]
lan = "10.2.0.0/24"
[[link]]
ends = ["r1", "r2"]
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    name = PREFIX + "deeds"
    file = tmp_path / "pair.toml"
    file.write_text(LAB.replace("NAME", name))
    try:
        code, out, err = via6("lab", "up", file, timeout=120)
        assert code == 0, out + err
        yield name
    finally:
        with state.lock():
            for one in state.read_all():
                if one.name == name:
                    state.remove(one)
    assert not leftover_namespaces()


@contextmanager
def opened(browser: Chromium, lab: str) -> Iterator[tuple[Page, str]]:
    """A page that came in by the address that is printed, and the server's address."""
    argv = [sys.executable, "-m", "via6", "web", "--lab", lab, "--allow-changes", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            assert "?token=" in address
            context = browser.browser.new_context()
            context.set_default_timeout(15_000)
            page = context.new_page()
            complaints: list[str] = []
            page.on("console", lambda said: said.type in ("error", "warning") and complaints.append(said.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(address)
            assert "token" not in page.url
            yield page, address.partition("?")[0]
            context.close()
            assert not complaints
        finally:
            process.terminate()


def state_of(page: Page) -> str:
    return page.inner_text("#links tr[data-id='r1.eth1--r2.eth1'] .state")


def test_a_link_is_cut_and_mended(lab: str, browser: Chromium) -> None:
    with opened(browser, lab) as (page, _):
        until(page, lambda: page.input_value("#deeds-link") == "r1.eth1--r2.eth1", "the link may be chosen")
        assert state_of(page) == "up"
        page.get_by_role("button", name="Cut it").click()
        until(page, lambda: state_of(page) == "down", "the link is down")
        until(page, lambda: "eth1 of r2 set down" in page.inner_text("#deeds"), "what was done is said")
        browser.keep(page, "deeds")
        page.get_by_role("button", name="Mend it").click()
        until(page, lambda: state_of(page) == "up", "the link is up")
        until(page, lambda: "set up, fe80::2/64" in page.inner_text("#deeds"), "what was done is said")
        assert not faults_of_access(page)


def test_a_finding_is_mended_and_taken_back(lab: str, browser: Chromium) -> None:
    key = "net.ipv4.icmp_ratelimit"
    where = ("ip", "netns", "exec", f"{lab}.r2", "sysctl")
    run(*where, "-qw", f"{key}=100000")
    with opened(browser, lab) as (page, address):
        until(page, lambda: re.search("1 warning", page.inner_text("#finding-counts")), "the doctor has looked")
        page.goto(f"{address}nodes/r2")
        until(page, lambda: "icmp_ratelimit=1000" in page.inner_text("#deeds .remedy"), "what would be done")
        assert not faults_of_access(page)
        page.get_by_role("button", name="Mend it").click()
        until(page, lambda: f"{key} = 1000 (was 100000)" in page.inner_text("#deeds"), "what was done is said")
        assert run(*where, "-n", key).stdout.strip() == "1000"
        page.get_by_role("button", name="Take it back").click()
        until(page, lambda: f"{key} = 100000" in page.inner_text("#deeds [aria-live]"), "it is taken back")
        assert run(*where, "-n", key).stdout.strip() == "100000"
