"""The auditor's page in a real browser: live over a whole task, and over a bundle of evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from support.axe import Axe
from support.browser import Browser
from support.page_story import Story, tell_story
from support.page_visit import Page, visit_page
from support.played_ledger import HOSTILE, Played

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser.start(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def axe(browser: Browser) -> Axe | None:
    try:
        return Axe.load(browser)
    except pytest.skip.Exception:
        return None


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str, browser: Browser, axe: Axe | None) -> Story:
    return asyncio.run(tell_story(tmp_path_factory.mktemp("story"), ledger_kind, browser, axe))


@pytest.fixture(scope="module")
def page(played: Played, browser: Browser) -> Iterator[Page]:
    with visit_page(browser, played.bundle, played.genesis_hash.hex()) as page:
        yield page


def test_a_whole_task_is_seen_as_it_happens(story: Story) -> None:
    steps = ("opened done", "closed done", "summed done", "published done", "evaluated under way")
    assert set(steps) <= set(story.seen)
    assert story.seen["judged under way"] == "rejected: gamma"
    assert "BFL416" in story.seen["not settled"]
    assert "BFL408" in story.seen["equivocated BFL408"]
    assert story.loads == 3, "the reader followed three links, everything else came by itself"


def test_axe_finds_nothing_while_blocks_come_in_and_a_key_stops_the_updates(story: Story, axe: Axe | None) -> None:
    assert story.is_paused
    if axe is None:
        pytest.skip("axe-core is missing: npm installs it")
    assert story.faults == []


def test_a_hostile_title_is_text_and_nothing_else(page: Page) -> None:
    page.open("tasks/heart")
    assert page.browser.run("return document.querySelector('.said').textContent") == HOSTILE
    scripts = page.browser.run("return [...document.scripts].map(one => one.getAttribute('src'))")
    assert scripts == ["/static/page.js"]
