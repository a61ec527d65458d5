"""How the commands of both sides of a dispute print its outcome."""

import json as json_format

from blockfl.cli.output import Output
from blockfl.protocol.claims import Dispute

_MEANING = {
    "claimed": "not settled",
    "upheld": "the wrap is wrong, the claim was right",
    "refuted": "the wrap is right, the claim was false",
}


def print_dispute(dispute: Dispute, *, as_json: bool) -> None:
    """Print who was right."""
    output = Output(as_json=as_json)
    output.result(json_format.loads(dispute.encode()))
    output.line(
        f"round {dispute.round} of {dispute.task}, update of {dispute.organisation}, claim of {dispute.member}: "
        f"{dispute.state} by {dispute.settled_by}: {_MEANING[dispute.state]}"
    )
