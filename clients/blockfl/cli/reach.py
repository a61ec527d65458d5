"""The ledger as a command reaches it: through the organisation's own peer, or others' gateways."""

from pathlib import Path

from blockfl.cli.output import Output
from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.remote import open_ledger


def reach(profile: Path) -> Ledger:
    """Return the ledger, to be used in ``async with``; a gateway that does not do is named on standard error."""
    return open_ledger(ConnectionProfile.load(profile), tell=Output(as_json=False).progress)
