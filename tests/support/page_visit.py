"""The auditor's page over evidence, served by the command itself and open in a browser; and one view of every kind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.browser import Browser

VIEWS: Final = {
    "/": "",
    "/tasks/{task}": "tasks/heart",
    "/tasks/{task}/rounds/{number:int}": "tasks/heart/rounds/2",
    "/tasks/{task}/versions/{number:int}": "tasks/heart/versions/3",
    "/credits": "credits",
    "/rejections": "rejections",
    "/members": "members",
    "/organisations/{name}": "organisations/gamma",
    "/contracts": "contracts",
    "/blocks": "blocks",
    "/blocks/{number:int}": "blocks/12",
    "/transactions/{tx_id}": "transactions/12-0",
    "/records/{key:path}": "records/round/heart/000002",
    "what is not there": "search?q=nothing",
}
"""By kind, as the application names them: the address of one of the played ledger's views."""


@dataclass
class Page:
    """The page of some evidence, open in a browser."""

    browser: Browser
    base: str

    def open(self, path: str) -> None:
        """Go to an address below the page's own."""
        self.browser.open(f"{self.base}{path}")


@contextmanager
def visit_page(browser: Browser, bundle: Path, genesis_hash: str) -> Iterator[Page]:
    """Serve a bundle and open its page; the server ends as Ctrl-C ends it."""
    command = ["-m", "blockfl.cli.main", "audit", "serve", str(bundle), "--genesis-hash", genesis_hash]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/#[\w-]{43})\n", line)
        assert found, line
        browser.open(found[1])
        browser.wait_for("document.body.innerText.includes('Verified. All')")
        yield Page(browser, browser.address)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
