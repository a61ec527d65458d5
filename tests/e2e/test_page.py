"""The auditor's page in a real browser: live over a whole task, and over a bundle of evidence."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.browser import AxeCheck, Browser
from support.node_runtime import install_runtime
from support.page_story import Story, tell_story
from support.played_ledger import HOSTILE, Played

pytestmark = [pytest.mark.slow, pytest.mark.node]

PAGES = (
    "",
    "tasks/heart",
    "tasks/heart/rounds/1",
    "tasks/heart/rounds/2",
    "tasks/heart/versions/0",
    "tasks/heart/rounds/3",
    "tasks/heart/versions/3",
    "credits",
    "rejections",
    "members",
    "organisations/gamma",
    "contracts",
    "blocks",
    "blocks/0",
    "blocks/9",
    "records/round/heart/000001",
    "records/update/heart/000001/gamma",
    "search?q=nothing",
)


@dataclass
class Page:
    """The page of the evidence, open in a browser."""

    browser: Browser
    base: str
    axe: AxeCheck

    def open(self, path: str) -> None:
        self.browser.open(f"{self.base}{path}")

    def list_paths(self) -> list[str]:
        """Every kind of page, and a transaction of each kind."""
        self.open("blocks")
        sentences = self.browser.run(
            "return [...document.querySelectorAll('main li a')].map(a => [a.textContent, a.getAttribute('href')])"
        )
        kinds = {re.sub(r"^\w+ | \(.*$|, about .*$|: .*$", "", text): href for text, href in sentences}
        base = self.browser.run("return location.pathname").removesuffix("blocks")
        return [*PAGES, *(href.removeprefix(base) for href in kinds.values())]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser.start(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str, browser: Browser) -> Story:
    return asyncio.run(tell_story(tmp_path_factory.mktemp("story"), ledger_kind, browser))


@pytest.fixture(scope="module")
def page(played: Played, browser: Browser) -> Iterator[Page]:
    """A bundle of evidence, served by the command itself."""
    axe = AxeCheck(browser, install_runtime().modules)
    command = ["-m", "blockfl.cli.main", "audit", "serve", str(played.bundle)]
    command += ["--genesis-hash", played.genesis_hash.hex()]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/#[\w-]{43})\n", line)
        assert found, line
        browser.open(found[1])
        browser.wait_for("document.body.innerText.includes('Verified. All')")
        yield Page(browser, browser.address, axe)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_a_whole_task_is_seen_as_it_happens(story: Story) -> None:
    steps = ("opened done", "closed done", "summed done", "published done", "evaluated under way")
    assert set(steps) <= set(story.seen)
    assert story.seen["judged under way"] == "rejected: gamma"
    assert "BFL416" in story.seen["not settled"]
    assert "BFL408" in story.seen["equivocated BFL408"]
    assert story.loads == 3, "the reader followed three links, everything else came by itself"


def test_a_hostile_title_is_text_and_nothing_else(page: Page) -> None:
    page.open("tasks/heart")
    assert page.browser.run("return document.querySelector('.said').textContent") == HOSTILE
    scripts = page.browser.run("return [...document.scripts].map(one => one.getAttribute('src'))")
    assert scripts == ["/static/page.js"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_anybodys_way(page: Page, scheme: str) -> None:
    page.browser.emulate(scheme)
    found = {}
    paths = page.list_paths()
    assert len(paths) > len(PAGES) + 10
    for path in paths:
        page.open(path)
        if violations := page.axe.list_violations():
            found[path] = violations
    assert found == {}
    assert page.browser.run("return matchMedia('(prefers-color-scheme: dark)').matches") is (scheme == "dark")


def test_axe_would_say_so(page: Page) -> None:
    page.open("")
    page.browser.run("document.querySelector('main').insertAdjacentElement('beforeend', document.createElement('img'))")
    assert any(one.startswith("image-alt") for one in page.axe.list_violations())


def test_the_keyboard_alone_leads_everywhere(page: Page) -> None:
    page.open("")
    browser = page.browser
    focused = "document.activeElement"
    browser.press("Tab")
    assert browser.run(f"return {focused}.textContent") == "Skip to the content"
    assert browser.run(f"return {focused}.getBoundingClientRect().left") >= 0, "it shows itself when it has the focus"
    browser.press("Enter", "Tab")
    assert browser.run(f"return {focused}.closest('main') !== null"), "the link leads past the navigation"
    page.open("")
    reached = set()
    wanted = browser.run("return [...document.querySelectorAll('a, input, button, summary, [tabindex=\"0\"]')].length")
    for _ in range(wanted):
        browser.press("Tab")
        outline = browser.run(f"return getComputedStyle({focused}).outlineStyle")
        assert outline != "none", browser.run(f"return {focused}.outerHTML")
        reached.add(browser.run(f"return [...document.querySelectorAll('*')].indexOf({focused})"))
    assert len(reached) == wanted, "every link, field and scrolled region is reached, each once"
    browser.run("document.getElementById('find').focus()")
    browser.write("9")
    browser.press("Enter")
    browser.wait_for("document.querySelector('h1').textContent === 'Block 9'")
    browser.run("document.querySelector('a[rel=next]').focus()")
    browser.press("Enter")
    browser.wait_for("document.querySelector('h1').textContent === 'Block 10'")
    page.open("tasks/heart")
    browser.run("document.querySelector('svg a[href$=\"versions/1\"]').focus()")
    browser.press("Enter")
    browser.wait_for("document.querySelector('h1').textContent === 'Version 1 of heart'")


def test_a_narrow_window_needs_no_scrolling_sideways(page: Page) -> None:
    page.browser.resize(500, 900)
    try:
        for path in PAGES:
            page.open(path)
            assert page.browser.run("return document.documentElement.scrollWidth <= innerWidth"), path
    finally:
        page.browser.resize(1280, 900)


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    for path in PAGES:
        page.open(path)
        loaded = page.browser.run(
            "return performance.getEntriesByType('resource').map(one => new URL(one.name).origin)"
        )
        assert set(loaded) <= {page.browser.run("return location.origin")}, path


def test_scripts_cannot_read_the_cookie_and_the_token_is_gone_from_the_address(page: Page) -> None:
    page.open("")
    assert page.browser.run("return document.cookie") == ""
    assert "#" not in page.browser.address
    page.browser.run("history.back()")
    assert page.browser.run("return location.hash") == ""
