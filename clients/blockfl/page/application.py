"""The page's addresses: each makes one page of the verified ledger, and one tells what is new as it happens.

app = make_application(watch, Access.draw())
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from blockfl.audit.errors import VerificationError
from blockfl.fabric.errors import FabricError
from blockfl.ledger.errors import LedgerError
from blockfl.page import contents
from blockfl.page.access import Access, AccessGuard
from blockfl.page.rendering import HERE, Renderer
from blockfl.page.watch import Watch
from blockfl.page.words import list_news

Content = Callable[[Watch, Mapping[str, Any]], Awaitable[contents.Content]]
_KEEPALIVE_S: Final = 15.0
_MAX_STREAMS: Final = 32

PAGES: Final[dict[str, Content]] = {
    "/": contents.show_overview,
    "/tasks/{task}": contents.show_task,
    "/tasks/{task}/rounds/{number:int}": contents.show_round,
    "/tasks/{task}/versions/{number:int}": contents.show_version,
    "/credits": contents.show_credits,
    "/rejections": contents.show_rejections,
    "/members": contents.show_members,
    "/organisations/{name}": contents.show_organisation,
    "/contracts": contents.show_contracts,
    "/blocks": contents.show_blocks,
    "/blocks/{number:int}": contents.show_block,
    "/transactions/{tx_id}": contents.show_transaction,
    "/records/{key:path}": contents.show_record,
}
"""By its path below the base: what makes a page."""


def make_application(watch: Watch, access: Access) -> ASGIApp:
    """Return the page as an ASGI application.

    Args:
        watch: The chain.
        access: The secrets of this run.
    """
    return AccessGuard(_Pages(watch, access).build(), access)


class _Pages:
    def __init__(self, watch: Watch, access: Access) -> None:
        self._watch = watch
        self._access = access
        self._renderer = Renderer(access.base)
        self._streams = 0

    def build(self) -> Starlette:
        inside = [Route(path, self._serve(content), methods=["GET"]) for path, content in PAGES.items()]
        inside += [Route("/events", self._events, methods=["GET"]), Route("/search", self._search, methods=["GET"])]
        return Starlette(
            routes=[
                Route("/", self._entrance, methods=["GET"]),
                Route("/enter", self._enter, methods=["GET"]),
                Mount("/static", StaticFiles(directory=HERE / "static")),
                Mount(self._access.base, routes=inside),
            ],
            exception_handlers={404: self._show_missing},
        )

    async def _entrance(self, _request: Request) -> Response:
        """What the printed address shows until its script has handed the token over: nothing about the ledger."""
        return HTMLResponse(self._renderer.render("entrance.html", {}))

    async def _enter(self, request: Request) -> Response:
        if not self._access.has_token(request):
            return PlainTextResponse("this is not the token of this run\n", 401)
        return self._access.let_in()

    def _serve(self, content: Content) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                made = await content(self._watch, {**request.query_params, **request.path_params})
            except VerificationError as error:
                return self._render("problem.html", _problem("A record is not as it must be", error), 500)
            except (LedgerError, FabricError) as error:
                return self._render("problem.html", _problem("Not found", error), 404)
            return self._render(made.template, made.context)

        return answer

    def _render(self, template: str, context: Mapping[str, Any], status: int = 200) -> Response:
        watch = self._watch
        about = {"label": watch.source.label, "is_live": watch.source.is_live, "contract": watch.source.contract}
        shown = {"height": watch.height, "expected": watch.expected, "state": watch.state, "failure": watch.failure}
        return HTMLResponse(self._renderer.render(template, {"watch": about | shown, **context}), status)

    async def _show_missing(self, request: Request, _error: Exception) -> Response:
        if not request.url.path.startswith(f"{self._access.base}/"):
            return PlainTextResponse("there is nothing here\n", 404)
        return self._render("problem.html", _problem("Not found", LedgerError("there is no such page")), 404)

    async def _search(self, request: Request) -> Response:
        """Lead to what a number, an id or a name is."""
        wanted = request.query_params.get("q", "").strip()
        found = contents.find(self._watch, wanted)
        if found is None:
            said = LedgerError("no block, transaction, task, organisation or record is called so, as far as verified")
            return self._render("problem.html", _problem("Nothing found", said) | {"wanted": wanted}, 404)
        return RedirectResponse(f"{self._access.base}{found}", 303)

    async def _events(self, _request: Request) -> Response:
        if self._streams >= _MAX_STREAMS:
            return PlainTextResponse("too many pages are open already\n", 503)
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[str]:
        """Tell a reader what is new, in one event for all that happened meanwhile."""
        self._streams += 1
        try:
            version, told = 0, len(self._watch.chain.entries)
            while True:
                entries = self._watch.chain.entries
                news, told = list_news(entries[told:]), len(entries)
                yield f"data: {json.dumps(self._describe(news))}\n\n"
                waiting = asyncio.ensure_future(self._watch.wait_beyond(version))
                while not (await asyncio.wait([waiting], timeout=_KEEPALIVE_S))[0]:
                    yield ": still here\n\n"
                version = await waiting
        finally:
            self._streams -= 1
            with suppress(UnboundLocalError):
                waiting.cancel()

    def _describe(self, news: list[str]) -> dict[str, object]:
        watch = self._watch
        return {"height": watch.height, "expected": watch.expected, "state": watch.state, "news": news[-3:]}


def _problem(title: str, error: Exception) -> dict[str, object]:
    return {"title": title, "problem": str(error), "wanted": ""}
