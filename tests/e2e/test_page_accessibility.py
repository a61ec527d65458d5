"""The auditor's page for people who cannot see it, cannot use a mouse, or have a small screen: in a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockfl.audit.pages import render_page
from blockfl.audit.report import make_report
from blockfl.page.application import PAGES
from support.axe import Axe
from support.browser import Browser
from support.page_visit import VIEWS, Page, visit_page
from support.played_ledger import Played

pytestmark = pytest.mark.slow

NARROW_PX = (400, 320)
_FOCUSABLE = "a[href], button, input, summary, [tabindex='0']"
_REACHED = """
const one = document.activeElement, all = [...document.querySelectorAll(arguments[0])].filter(
  (each) => !each.closest("details:not([open])") || each.localName === "summary");
const style = getComputedStyle(one), place = one.getBoundingClientRect();
return {
  index: all.indexOf(one), count: all.length,
  is_seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && place.width > 0 && place.height > 0
    && place.left < innerWidth && place.right > 0 && place.top < innerHeight && place.bottom > 0,
  element: one.outerHTML.slice(0, 200),
};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser.start(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(played: Played, browser: Browser) -> Iterator[Page]:
    with visit_page(browser, played.bundle, played.genesis_hash.hex()) as page:
        yield page


@pytest.fixture(scope="module")
def axe(browser: Browser) -> Axe:
    return Axe.load(browser)


@pytest.fixture(autouse=True)
def wide(browser: Browser) -> None:
    browser.resize(1280, 900)
    browser.emulate("light")


def test_there_is_a_view_of_every_kind() -> None:
    assert set(PAGES) < set(VIEWS)


@pytest.mark.parametrize("kind", VIEWS)
def test_axe_finds_nothing_in_light_and_no_faint_text_in_dark(page: Page, axe: Axe, kind: str) -> None:
    page.open(VIEWS[kind])
    assert axe.check() == []
    # Everything but colours is the same in both.
    page.browser.emulate("dark")
    assert page.browser.run("return matchMedia('(prefers-color-scheme: dark)').matches")
    assert axe.check(rules=["color-contrast"]) == []


def test_axe_finds_what_is_wrong(page: Page, axe: Axe) -> None:
    page.open("")
    page.browser.run("document.querySelector('label').remove(); document.querySelector('h1').style.color = '#eee'")
    found = axe.check()
    assert {one.split(":")[0] for one in found} >= {"label", "color-contrast"}


def test_no_view_is_wider_than_a_narrow_window(page: Page) -> None:
    for path in VIEWS.values():
        page.open(path)
        for width in NARROW_PX:
            page.browser.narrow(width)
            shown = page.browser.run("const e = document.documentElement; return [innerWidth, e.scrollWidth]")
            assert shown == [width, width], path
    page.browser.narrow(None)


@pytest.mark.parametrize("path", ["", "tasks/heart", "transactions/12-0"])
def test_everything_is_reached_by_the_tab_key_in_its_order_and_is_seen_to_be(page: Page, path: str) -> None:
    page.open(path)
    reached: list[int] = []
    while len(reached) < 500:
        page.browser.press("Tab")
        at = page.browser.run(_REACHED, _FOCUSABLE)
        if at["index"] < 0:
            break
        assert at["is_seen"], at["element"]
        reached.append(at["index"])
        count = at["count"]
    assert reached == list(range(count))
    assert count >= 10


def test_a_person_without_a_mouse_asks_follows_opens_and_scrolls(page: Page) -> None:
    browser = page.browser
    page.open("")
    browser.press("Tab", "Enter")
    assert browser.run("return document.activeElement.id") == "content", "the first link skips the menu"
    page.open("")
    _tab_to(browser, "[name=q]")
    browser.write("gamma")
    browser.press("Enter")
    browser.wait_for("document.title.startsWith('Organisation gamma')")
    _tab_to(browser, "nav a[href$='/rejections']")
    browser.press("Enter")
    browser.wait_for("document.title.startsWith('Rejections')")
    page.open("tasks/heart")
    _tab_to(browser, "summary")
    browser.press("Enter")
    assert browser.run("return document.querySelector('details').open")
    browser.narrow(400)
    _tab_to(browser, "#rounds-scroll")
    browser.press("Right", "Right")
    browser.wait_for("document.getElementById('rounds-scroll').scrollLeft > 0")
    browser.narrow(None)


def _tab_to(browser: Browser, selector: str) -> None:
    """Press the tab key until an element has the focus."""
    for _ in range(500):
        if browser.run("return document.activeElement.matches(arguments[0])", selector):
            return
        browser.press("Tab")
    raise AssertionError(f"the tab key does not reach {selector}")


def test_axe_finds_nothing_in_the_report_either(played: Played, axe: Axe, tmp_path: Path) -> None:
    made = asyncio.run(make_report([played.bundle], played.genesis_hash, lambda _: None))
    path = tmp_path / "report.html"
    path.write_text(render_page(made))
    axe.browser.open(path.as_uri())
    assert axe.check() == []
    axe.browser.emulate("dark")
    assert axe.check(rules=["color-contrast"]) == []
