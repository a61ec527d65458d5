"""Who may read the page: the printed address on this machine, and nobody by way of another site."""

from __future__ import annotations

import pytest
from starlette.types import ASGIApp

from blockfl.page.access import COOKIE, HEADERS, Access
from blockfl.page.application import PAGES, make_application
from blockfl.page.source import BundleSource
from blockfl.page.watch import Watch
from support.asgi import ask
from support.recording import recorded_blocks


class _Blocks(BundleSource):
    """The recorded blocks."""

    contract = "app"
    label = "recorded"

    def __init__(self) -> None:
        pass


@pytest.fixture
def access() -> Access:
    return Access.draw()


@pytest.fixture
def app(access: Access) -> ASGIApp:
    return make_application(Watch(_Blocks(), recorded_blocks()[0].header.data_hash), access)


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


def cookie(value: str) -> tuple[str, str]:
    return "Cookie", f"other=1; {COOKIE}={value}"


async def test_the_token_opens_the_door_and_the_cookie_keeps_it_open(app: ASGIApp, access: Access) -> None:
    entered = await ask(app, "/enter", headers=[bearer(access.token)])
    assert entered.status == 200
    assert entered.body == f'{{"base":"{access.base}/"}}'
    made = entered.headers["set-cookie"]
    assert made == f"{COOKIE}={access.session}; HttpOnly; Path={access.base}; SameSite=strict"
    assert (await ask(app, f"{access.base}/", headers=[cookie(access.session)])).status == 200
    assert (await ask(app, f"{access.base}/", headers=[bearer(access.token)])).status == 200


@pytest.mark.parametrize("path", ["/", *(path.split("{")[0] for path in PAGES), "/events", "/search?q=1", "/nowhere"])
async def test_nothing_is_told_without_it(app: ASGIApp, access: Access, path: str) -> None:
    for headers in ([], [cookie("")], [cookie(access.token)], [bearer(access.session)], [bearer(access.token[:-1])]):
        answer = await ask(app, f"{access.base}{path}", headers=headers)
        assert answer.status == 401, (path, headers)
        assert "recorded" not in answer.body


async def test_a_wrong_token_opens_nothing(app: ASGIApp, access: Access) -> None:
    for headers in ([], [bearer("")], [bearer("x" * 43)], [("Authorization", f"Basic {access.token}")], [bearer("ä")]):
        answer = await ask(app, "/enter", headers=headers)
        assert answer.status == 401
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
async def test_nothing_but_get_is_answered(app: ASGIApp, access: Access, method: str) -> None:
    answer = await ask(app, f"{access.base}/", method=method, headers=[bearer(access.token)])
    assert answer.status == 405
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize(
    "host",
    [None, "", "attacker.example", "127.0.0.1.attacker.example:80", "localhost.:80", "127.0.0.1:x", "127.1", "[::2]:1"],
)
async def test_another_sites_name_for_this_machine_is_refused(app: ASGIApp, access: Access, host: str | None) -> None:
    for path in ("/", "/enter", "/static/page.js", f"{access.base}/"):
        assert (await ask(app, path, host=host, headers=[bearer(access.token)])).status == 421
    two = await ask(app, "/enter", headers=[("Host", "attacker.example"), bearer(access.token)])
    assert two.status == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "localhost:65535", "LOCALHOST", "[::1]:80", "[::1]"])
async def test_this_machines_names_are_answered_on_any_port(app: ASGIApp, access: Access, host: str) -> None:
    assert (await ask(app, "/enter", host=host, headers=[bearer(access.token)])).status == 200


async def test_every_answer_forbids_what_comes_from_elsewhere(app: ASGIApp, access: Access) -> None:
    ways = [("/", 200), ("/enter", 401), ("/static/page.css", 200), ("/static/nothing", 404), ("/nothing", 404)]
    inside = [(f"{access.base}/", 200), (f"{access.base}/blocks/7", 404), (f"{access.base}/nothing", 404)]
    for path, status in [*ways, *inside]:
        answer = await ask(app, path, headers=[cookie(access.session)])
        assert answer.status == status, path
        for name, value in HEADERS.items():
            assert answer.headers[name.lower()] == value, path
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


async def test_the_entrance_tells_nothing_of_the_ledger_and_no_path_leads_out_of_the_static_files(
    app: ASGIApp, access: Access
) -> None:
    answer = await ask(app, "/")
    assert answer.status == 200
    assert access.base not in answer.body
    assert "recorded" not in answer.body
    for path in ("/static/../access.py", "/static/%2e%2e/access.py", "/static//etc/passwd", "/static/"):
        assert (await ask(app, path)).status in (404, 405), path


def test_secrets_are_drawn_anew_and_are_not_shown() -> None:
    one, other = Access.draw(), Access.draw()
    assert len({one.token, other.token, one.session, other.session, one.base, other.base}) == 6
    assert len(one.token) == 43
    assert one.token not in repr(one)
    assert one.session not in repr(one)
