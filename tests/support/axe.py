"""axe-core in a page: what it finds wrong for people who cannot see, or cannot use a mouse.

    axe = Axe.load(browser)
    browser.open("http://127.0.0.1:8080/")
    assert axe.check() == []

Source: https://github.com/dequelabs/axe-core/blob/develop/doc/API.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from support.browser import Browser
from support.npm import install_packages

SOURCES: Final = Path(__file__).parents[1] / "browser"
_TAGS: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
_CHECK: Final = """
const [rules, done] = arguments;
axe.run(document, { runOnly: rules, resultTypes: ["violations"] }).then(
  (found) => done(found.violations.flatMap((rule) => rule.nodes.map((node) =>
    `${rule.id}: ${node.target.join(" ")}: ${node.failureSummary}`))),
  (error) => done([`axe failed: ${error}`]));
"""


_SHORTEN: Final = """
for (const row of document.querySelectorAll("tbody tr:nth-child(n + 5)")) if (!row.querySelector(".bad")) row.remove();
"""


@dataclass(frozen=True)
class Axe:
    """The checker in one browser."""

    browser: Browser

    @classmethod
    def load(cls, browser: Browser) -> Self:
        """Have every page that the browser opens from now on carry the checker; without npm the test is skipped."""
        modules = install_packages(SOURCES, "axe-core checks the accessibility of the page")
        browser.add_script((modules / "axe-core" / "axe.min.js").read_text())
        return cls(browser)

    def check(self, rules: Sequence[str] = ()) -> list[str]:
        """Return what is wrong with the page that is open: rule, element, and what to do.

        Rows of a table are alike: of long ones the first are looked at, and those with a word in another colour.

        Args:
            rules: Only these; by default all of WCAG 2.2 AA and of good practice.
        """
        self.browser.run(_SHORTEN)
        chosen = {"type": "rule", "values": list(rules)} if rules else {"type": "tag", "values": list(_TAGS)}
        found = self.browser.run_until_called(_CHECK, chosen)
        return [str(one) for one in found]
