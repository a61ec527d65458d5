"""A whole task that moves credits, played on a real network while a browser looks at its page.

The page is open all the time and nobody loads it again: what it shows comes as it happens.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from blockfl.fabric.channel.block import header_hash
from blockfl.page.serve import serve
from blockfl.page.source import LiveSource
from blockfl.page.watch import Watch
from blockfl.protocol.economics import DEFAULT_ECONOMICS
from blockfl.protocol.task import Deadlines
from support.axe import Axe
from support.browser import Browser
from support.contract_network import ClientOfNetwork, contract_network
from support.paid_task import PaidTask, make_paid_spec
from support.world import World

T = TypeVar("T")

HOSTILE = "<script>alert(1)</script> [/x] \"double\" 'single' \u202eturned\u202c {{ 7*7 }} &amp; " + "x" * 300
"""A title that tries everything."""
SHOWN = HOSTILE.replace("\u202e", "\\u202e").replace("\u202c", "\\u202c")
"""What readers see of it."""


@dataclass
class Story:
    """What the browser saw, and what is left of the network.

    Attributes:
        seen: By what the page was waited for: how it looked then.
        loads: How often the browser loaded a page while the task went on.
        faults: What the checker of accessibility found wrong with pages that were live.
        is_paused: Whether the key pressed on the button in the end stopped the updates.
    """

    seen: dict[str, str] = field(default_factory=dict)
    loads: int = 0
    faults: list[str] = field(default_factory=list)
    is_paused: bool = False


class _Reader:
    """The person in front of the browser."""

    def __init__(self, browser: Browser, story: Story, axe: Axe | None) -> None:
        self._browser = browser
        self._story = story
        self._axe = axe

    async def go(self, link: str) -> None:
        """Follow a link of the page by its text."""
        script = "const one = [...document.querySelectorAll('a')].find(a => a.textContent.trim() === arguments[0]);"
        await self._do(lambda: self._browser.run(f"{script} one.click()", link))
        self._story.loads += 1

    async def open(self, address: str) -> None:
        """Open an address."""
        await self._do(lambda: self._browser.open(address))

    async def see(self, *texts: str) -> None:
        """Wait until the page shows these texts, without loading it again."""
        for text in texts:
            await self._wait_for("document.body.innerText.includes(arguments[0])", text)
            self._story.seen[text] = await self._do(lambda: str(self._browser.run("return document.body.innerText")))

    async def see_step(self, name: str, state: str, text: str = "") -> None:
        """Wait until a step of the round is so far."""
        await self._wait_for(_STEP, name, state, text)
        self._story.seen[f"{name} {state}"] = text

    async def check(self) -> None:
        """Have the page checked as it stands, where there is what checks it."""
        if self._axe is not None:
            self._story.faults += await self._do(self._axe.check)

    async def pause(self) -> None:
        """Stop the updates by keyboard."""
        await self._do(lambda: self._browser.run("document.getElementById('pause').focus()"))
        await self._do(lambda: self._browser.press("Enter"))
        pressed = "return document.getElementById('pause').getAttribute('aria-pressed') === 'true'"
        self._story.is_paused = await self._do(lambda: bool(self._browser.run(pressed)))

    async def _wait_for(self, condition: str, *arguments: str) -> None:
        await self._do(lambda: self._browser.wait_for(condition, *arguments))

    async def _do(self, action: Callable[[], T]) -> T:
        return await asyncio.to_thread(action)


_STEP = """[...document.querySelectorAll('#steps li')].some(
    one => one.querySelector('.name').textContent === arguments[0]
        && one.querySelector('.state').textContent === arguments[1]
        && one.textContent.includes(arguments[2]))"""


async def tell_story(directory: Path, ledger: str, browser: Browser, axe: Axe | None) -> Story:
    """Play the task and look at its page.

    Args:
        directory: For the network.
        ledger: Which one.
        browser: Shows the page.
        axe: Checks it, if there is one.
    """
    story = Story()
    spec, model = make_paid_spec(DEFAULT_ECONOMICS)
    # Nobody waits for a deadline here, and a busy machine misses none.
    patient = Deadlines(submit_s=3600, judge_s=3600, publish_s=3600)
    spec = spec.model_copy(update={"title": HOSTILE, "rounds": 2, "deadlines": patient})
    async with contract_network(directory, ledger, (spec, model)) as (scenario, network):
        client = ClientOfNetwork(network, "university")
        async for block in client.gateway.blocks(0):
            anchor = header_hash(block.header)
            break
        addresses: asyncio.Queue[str] = asyncio.Queue()
        serving = asyncio.create_task(serve(Watch(LiveSource(client), anchor), 0, addresses.put_nowait))
        try:
            task = PaidTask(
                scenario.ledger, scenario.consortium, scenario.signers, scenario.opening_keys, (spec, model)
            )
            task.world, task.file = cast(World, network), model
            await _play(task, _Reader(browser, story, axe), await addresses.get())
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
    return story


async def _play(task: PaidTask, reader: _Reader, address: str) -> None:
    await reader.open(address)
    await reader.see("no task yet", "Verified, and live.")
    await task.register()
    await task.create()
    await reader.see("heart", SHOWN)
    await reader.check()
    await reader.go("heart")
    await task.fund()
    await task.enrol()
    await task.open(1)
    await reader.see_step("opened", "done", "by coordinator, on version 0, for 4 institutions")
    await task.contribute("alpha", "beta", "delta")
    await reader.see_step("submitted", "under way", "3 of 4 institutions have submitted an update; missing: gamma")
    await task.submit("gamma", 1, np.full(task.spec.manifest.dimension, 32767, np.int16))
    await task.upload("gamma")
    await reader.see_step("judged", "under way", "not judged yet: gamma")
    await task.judge("gamma")
    await reader.see_step("judged", "under way", "rejected: gamma")
    await task.close()
    await reader.see_step("closed", "done", "with 3 accepted updates")
    await reader.see_step("summed", "under way")
    await task.attest()
    await reader.see_step("summed", "done", "by coordinator")
    task.file = await task.publish(1, task.file)
    await reader.see_step("published", "done", "version 1")
    for name in ("alpha", "beta"):
        await task.ledger.submit(name, "ReportMetrics", task.metrics(name, 1, task.file).encode())
    await reader.see_step("evaluated", "under way", "2 of 4 institutions have reported, all of the same model")
    await reader.check()
    await reader.go("Rejections")
    await reader.see("BFL416", "not settled")
    settlement = await task.settle(1)
    (penalty,) = [one.penalty for one in settlement.outcomes if one.organisation == "gamma"]
    assert penalty > 0
    await reader.see(str(penalty))
    for name in ("alpha", "beta", "coordinator", "delta"):
        await task.ledger.submit(name, "OverturnPenalty", "heart", "1", "gamma")
    await reader.see("alpha, beta, coordinator, delta")
    await task.open(2)
    await task.contribute("alpha", "beta", "delta", number=2)
    await task.submit("gamma", 2)
    other, _ = await task.seal("gamma", 2, salt=1)
    await task.ledger.submit("gamma", "SubmitUpdate", task.sign(other).encode())
    await reader.see("BFL408")
    await task.upload("gamma", 2)
    await task.judge("gamma", 2)
    await task.close(2)
    await task.attest(2)
    task.file = await task.publish(2, task.file)
    await task.settle(2)
    await reader.check()
    await reader.go("Credits")
    await reader.see("equivocated BFL408")
    await reader.check()
    await reader.pause()
