"""The same stories told to the embedded node and to real Fabric: what a client sees must be the same.

Where it is not, ``DIFFERENCES`` says why, and docs/embedded.md tells the reader.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_asyncio

from support.consortium import any_consortium
from support.ledgers import LEDGERS
from support.operations import DEFINITION
from support.operations_contract import operations_contract
from support.stories import STORIES, populate

pytestmark = pytest.mark.asyncio(loop_scope="module")

Seen = dict[str, Any]

DIFFERENCES: dict[str, dict[str, Any]] = {
    # Several ordering nodes agree under BFT on each request once, and say so; the embedded node's single one orders a
    # copy as raft does, and the copy turns out a duplicate when it is validated.
    "a_copy_sent_again": {
        "embedded": {"result": "None"},
        "local": {"error": "SubmitError", "status": "UNAVAILABLE"},
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """By ledger and story: what was seen, or why nothing was."""
    if reason := LEDGERS["local"]():
        pytest.skip(f"there is no real Fabric to compare with: {reason}")
    return {name: await tell(name, tmp_path_factory) for name in ("embedded", "local")}


async def tell(ledger: str, directories: pytest.TempPathFactory) -> Seen:
    told: Seen = {}
    async with any_consortium(
        ledger, directories.mktemp(ledger), handler=operations_contract, definition=DEFINITION
    ) as network:
        await populate(network)
        for name, story in STORIES.items():
            told[name] = json.loads(json.dumps(await story(network)))
    return told


@pytest.mark.slow
@pytest.mark.parametrize("story", [name for name in STORIES if name not in DIFFERENCES])
async def test_both_ledgers_show_the_same(seen: dict[str, Seen], story: str) -> None:
    assert seen["embedded"][story] == seen["local"][story]


@pytest.mark.slow
@pytest.mark.parametrize("story", DIFFERENCES)
async def test_the_ledgers_differ_as_documented(seen: dict[str, Seen], story: str) -> None:
    assert {ledger: told[story] for ledger, told in seen.items()} == DIFFERENCES[story]
