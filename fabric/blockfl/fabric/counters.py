"""What the endpoint of a node has done since it started: how often and how much, not how long.

Seconds depend on the machine and on its other work; these counts do not. `make counts` holds a round to them.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

What = Literal[
    "requests",
    "request_bytes",
    "answer_bytes",
    "endorsements",
    "evaluations",
    "contract_messages",
    "contract_bytes_sent",
    "contract_bytes_received",
]
DESCRIPTIONS: Final[dict[What, str]] = {
    "requests": "Calls of clients that the endpoint took.",
    "request_bytes": "Bytes of requests that the endpoint took.",
    "answer_bytes": "Bytes of answers, those of streams too.",
    "endorsements": "Proposals that the peer simulated to endorse them.",
    "evaluations": "Proposals that the peer simulated for their answer alone.",
    "contract_messages": "Messages from and to the contract service.",
    "contract_bytes_sent": "Bytes sent to the contract service.",
    "contract_bytes_received": "Bytes received from the contract service.",
}


class Counters:
    """What one endpoint has done, counted by the event loop alone."""

    def __init__(self) -> None:
        self._counts: Counter[What] = Counter()

    def add(self, what: What, amount: int = 1) -> None:
        """Adds to a count."""
        self._counts[what] += amount

    def read(self, what: What) -> int:
        """Returns a count."""
        return self._counts[what]
