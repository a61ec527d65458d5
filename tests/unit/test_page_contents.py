"""Every page of a played ledger: what it tells, and that nothing in it is ever more than text."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
from starlette.types import ASGIApp

from blockfl.audit.bundle import Bundle, BundleChain
from blockfl.fabric.channel.block import header_hash
from blockfl.ledger.errors import LedgerError
from blockfl.page import contents
from blockfl.page.access import Access
from blockfl.page.application import PAGES, make_application
from blockfl.page.lineage import PART_WORDS, draw_lineage
from blockfl.page.rendering import Renderer
from blockfl.page.source import BundleSource
from blockfl.page.steps import STATE_WORDS, list_steps
from blockfl.page.watch import Watch
from support.asgi import Answer, ask
from support.bent import BENT, bend
from support.played_ledger import HOSTILE, Played

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "/tasks/{task}": [{"task": "heart"}],
    "/tasks/{task}/rounds/{number:int}": [{"task": "heart", "number": one} for one in (1, 2, 3)],
    "/tasks/{task}/versions/{number:int}": [{"task": "heart", "number": one} for one in (0, 3)],
    "/organisations/{name}": [{"name": "gamma"}, {"name": "coordinator"}],
    "/blocks/{number:int}": [{"number": 0}, {"number": 12}],
    "/records/{key:path}": [{"key": "round/heart/000002"}, {"key": "update/heart/000002/gamma"}],
}
"""Of each kind of page, some that there are; transactions come from the ledger."""


@pytest.fixture(scope="module")
def watch(played: Played) -> Iterator[Watch]:
    with Bundle.open(played.bundle) as bundle:
        watch = Watch(BundleSource(BundleChain([bundle])), played.genesis_hash)
        asyncio.run(watch.run())
        assert watch.state == "complete", watch.failure
        yield watch


@pytest.fixture
def access() -> Access:
    return Access.draw()


@pytest.fixture
def app(watch: Watch, access: Access) -> ASGIApp:
    return make_application(watch, access)


def list_pages(watch: Watch) -> list[tuple[str, dict[str, Any]]]:
    """Every kind of page, and every transaction."""
    pages = [(path, given) for path in PAGES for given in EXAMPLES.get(path, [{}]) if "tx_id" not in path]
    return pages + [("/transactions/{tx_id}", {"tx_id": contents._name(one)}) for one in watch.book.entries]


class Outline(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " " if tag in ("td", "th", "li", "dd") else ""

    def handle_data(self, data: str) -> None:
        self.text += data

    def list_attributes(self) -> list[tuple[str, str, str | None]]:
        return [(tag, name, value) for tag, attributes in self.elements for name, value in attributes.items()]


async def get(app: ASGIApp, access: Access, path: str) -> Answer:
    return await ask(app, f"{access.base}{path}", headers=[("Authorization", f"Bearer {access.token}")])


def fill(path: str, given: Mapping[str, Any]) -> str:
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda found: str(given[found[1]]), path)


async def test_every_page_of_every_kind_is_there_and_every_link_leads_somewhere(
    watch: Watch, app: ASGIApp, access: Access
) -> None:
    links: set[str] = set()
    visited = [fill(path, given) for path, given in list_pages(watch)]
    for path in visited:
        answer = await get(app, access, path)
        assert answer.status == 200, (path, Outline(answer.body).text)
        found = Outline(answer.body).list_attributes()
        links |= {value for _, name, value in found if name == "href" and value and value.startswith(access.base)}
    assert len(links) > 100
    for link in links - {f"{access.base}{path}" for path in visited}:
        assert (await get(app, access, link.removeprefix(access.base))).status == 200, link


@pytest.mark.parametrize(
    "path",
    [
        "/tasks/nope",
        "/tasks/heart/rounds/9",
        "/tasks/heart/versions/9",
        "/organisations/nobody",
        "/blocks/999999",
        "/transactions/nothing",
        "/records/nothing/here",
        "/search?q=%3Cscript%3E",
        "/no/such/page",
    ],
)
async def test_what_is_not_there_is_said_so(app: ASGIApp, access: Access, path: str) -> None:
    answer = await get(app, access, path)
    assert answer.status == 404
    assert answer.body.count("<script") == 1
    assert "there" in answer.body or "called so" in answer.body


async def test_a_search_leads_to_blocks_transactions_tasks_organisations_and_records(
    watch: Watch, app: ASGIApp, access: Access
) -> None:
    entry, head = watch.book.entries[-1], watch.heads[5]
    for wanted, place in {
        "7": "/blocks/7",
        head.digest: "/blocks/5",
        entry.tx_id: f"/transactions/{entry.tx_id}",
        "heart": "/tasks/heart",
        "gamma": "/organisations/gamma",
        "round/heart/000002": "/records/round/heart/000002",
    }.items():
        answer = await get(app, access, f"/search?q={wanted}")
        assert (answer.status, answer.headers["location"]) == (303, f"{access.base}{place}")


async def test_the_pages_answer_who_was_rejected_why_what_it_cost_and_who_overturned_it(
    app: ASGIApp, access: Access
) -> None:
    rejections = Outline((await get(app, access, "/rejections")).body).text
    for word in ("BFL416", "BFL408", "gamma", "beta", "alpha, beta, coordinator, delta"):
        assert word in re.sub(r"\s+", " ", rejections)
    version = Outline((await get(app, access, "/tasks/heart/versions/3")).body).text
    assert "the same" in version
    assert HOSTILE in Outline((await get(app, access, "/tasks/heart")).body).text


async def test_steps_and_lineage_say_what_became_of_every_update(watch: Watch) -> None:
    steps = {one.name: one for one in list_steps(watch.book, "heart", 2)}
    assert [one.state for one in steps.values()] == ["done"] * 8
    assert steps["judged"].text == "accepted: alpha, beta, delta; rejected: gamma"
    assert steps["published"].text == "version 2, by the votes of coordinator, regulator"
    assert "gamma pays" in steps["settled"].text
    assert all(one.transaction and one.time for one in steps.values())
    assert "two different ones were signed by beta" in list_steps(watch.book, "heart", 3)[1].text
    picture = draw_lineage(watch.book, "heart")
    assert [(one.round, one.version) for one in picture.columns] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert dict(picture.columns[2].parts) == {
        "alpha": "accepted",
        "beta": "accepted",
        "delta": "accepted",
        "gamma": "rejected",
    }
    assert dict(picture.columns[3].parts)["beta"] == "equivocated"
    assert len(picture.links) == 3


async def test_a_transaction_is_told_down_to_what_it_read_and_wrote(watch: Watch, app: ASGIApp, access: Access) -> None:
    judged = next(one for one in watch.book.entries if one.function == "JudgeUpdate")
    text = re.sub(r"\s+", " ", Outline((await get(app, access, f"/transactions/{judged.tx_id}")).body).text)
    for words in (
        "update of alpha in round 1 of heart",
        "changed,",
        "state submitted accepted",
        "piece 0 of the sealed update of alpha in round 1 of heart",
        "Endorsed by",
        "UpdateJudged",
    ):
        assert words in text, (words, text)
    submitted = next(one for one in watch.book.entries if one.function == "SubmitUpdate")
    text = Outline((await get(app, access, f"/transactions/{submitted.tx_id}")).body).text
    assert "2 of coordinator, regulator, university" in text


async def test_a_chain_that_is_not_as_it_must_be_is_shown_up_to_there(played: Played) -> None:
    with Bundle.open(played.bundle) as bundle:

        class Forged(BundleSource):
            async def blocks(self) -> AsyncIterator[Any]:
                async for block in super().blocks():
                    if block.header.number == 9:
                        block.data.data[0] += b"\0"
                    yield block

        watch = Watch(Forged(BundleChain([bundle])), played.genesis_hash)
        await watch.run()
        assert (watch.state, watch.height) == ("failed", 9)
        assert "block 9" in watch.failure
        access = Access.draw()
        app = make_application(watch, access)
        assert "Not as it must be" in (await get(app, access, "/")).body
        assert (await get(app, access, "/blocks/8")).status == 200
        assert (await get(app, access, "/blocks/9")).status == 404


async def test_another_ledger_than_the_pinned_one_shows_nothing(played: Played) -> None:
    with Bundle.open(played.bundle) as bundle:
        watch = Watch(BundleSource(BundleChain([bundle])), header_hash(bundle.block(1).header))  # type: ignore[union-attr]
        await watch.run()
        access = Access.draw()
        app = make_application(watch, access)
        assert "another ledger than the one you pinned" in (await get(app, access, "/")).body
        for path in ("/", "/credits", "/rejections", "/members", "/contracts", "/blocks"):
            assert (await get(app, access, path)).status == 200, path


async def test_a_peer_that_cannot_be_reached_is_no_verdict_on_the_chain(played: Played) -> None:
    class Silent(BundleSource):
        async def height(self) -> int:
            raise LedgerError("nobody answers")

    with Bundle.open(played.bundle) as bundle:
        watch = Watch(Silent(BundleChain([bundle])), played.genesis_hash)
        await watch.run()
        assert watch.state == "lost"
        access = Access.draw()
        page = (await get(make_application(watch, access), access, "/")).body
        assert "can no longer be read" in page
        assert "nobody answers" in page
        assert "Not as it must be" not in page


KEPT = {
    *STATE_WORDS,
    *PART_WORDS,
    "VALID",
    "accepted",
    "rejected",
    "failed",
    "in force",
    "certificate",
    "changed",
    "new",
}
"""Words that templates go by, which no organisation can choose."""


async def test_whatever_names_titles_and_reasons_say_the_page_has_the_same_elements(watch: Watch) -> None:
    renderer = Renderer("/base")
    about = {"label": BENT, "contract": BENT, "failure": BENT, "state": "failed", "height": 9, "expected": 9}
    checked = 0
    for path, given in list_pages(watch):
        content = await PAGES[path](watch, given)
        honest = Outline(renderer.render(content.template, {"watch": about | {"is_live": True}, **content.context}))
        page = renderer.render(content.template, {"watch": about | {"is_live": True}, **bend(content.context, KEPT)})
        assert not any(one in page for one in "\u202e\u2066\x00"), path
        outline = Outline(page)
        assert {tag for tag, _ in outline.elements} <= {tag for tag, _ in honest.elements} | {"td", "li"}, path
        assert [one for tag, one in outline.elements if tag == "script"] == [{"src": "/static/page.js", "defer": None}]
        for _, name, value in outline.list_attributes():
            assert not name.startswith("on"), (path, name)
            if name in ("href", "src", "action"):
                assert (value or "").startswith(("/base", "/static/", "#")), (path, value)
        assert "<script>alert(1)</script>" in outline.text
        checked += 1
    assert checked > 80
