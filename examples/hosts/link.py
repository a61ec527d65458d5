"""What lies between two hosts: how long a packet takes, how many are lost, how many pass in a second.

Example:
    >>> Link(delay_ms=40, loss=0.001).delay_ms
    40
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Link(BaseModel):
    """One direction between two hosts.

    Attributes:
        delay_ms: What each packet takes; there and back is twice that.
        jitter_ms: What may be added to it, evenly spread; packets stay in order.
        loss: The part of all packets that never arrives.
        rate_kbit: What passes in a second; None: no limit.
        is_cut: Whether nothing passes at all.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    delay_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    jitter_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    loss: Annotated[float, Field(ge=0, le=1)] = 0.0
    rate_kbit: Annotated[float, Field(gt=0)] | None = None
    is_cut: bool = False
