"""A ledger of the embedded node in the test's process, on a channel of three organisations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from fabric_protos.peer import transaction_pb2

from blockfl.fabric.embedded.ordering.committer import CommitterOptions
from blockfl.fabric.embedded.ordering.ledger import ChannelLedger
from blockfl.fabric.embedded.storage.files import Files
from support.channel import CONTRACT, Endorsed, PrivateWrites, make_channel

VALID = transaction_pb2.VALID
LARGE = bytes(range(256)) * 200


@contextmanager
def opened(directory: Path, files: Files | None = None, *, page_limit: int | None = None) -> Iterator[ChannelLedger]:
    channel = make_channel()
    options = CommitterOptions(files=files or Files(), page_limit=page_limit)
    with ChannelLedger.open(directory, channel.genesis, orderer=channel.orderer, options=options) as ledger:
        yield ledger


async def define(ledger: ChannelLedger) -> None:
    status = await ledger.order(make_channel().define("sealed", ("brief", 2)).envelope)
    assert status.code == VALID


async def submit(ledger: ChannelLedger, endorsed: Endorsed, organisations: Sequence[str] = ("alpha", "beta")) -> int:
    for name in organisations if endorsed.sets else ():
        await ledger.stage_private(name, endorsed.tx_id, endorsed.sets)
    return (await ledger.order(endorsed.envelope)).code


def seal(values: Mapping[str, bytes | None], purges: tuple[str, ...] = ()) -> Endorsed:
    """A transaction that writes or deletes these values of the collection ``sealed``, and purges others."""
    writes = PrivateWrites(collection="sealed", values=values, purges=purges)
    return make_channel().write({}, private=[writes])


def public(ledger: ChannelLedger, key: str) -> bytes | None:
    with ledger.snapshot() as view:
        found = view.get(CONTRACT, key)
        return None if found is None else found.value


def private(ledger: ChannelLedger, organisation: str, key: str, collection: str = "sealed") -> bytes | None:
    with ledger.snapshot(organisation) as view:
        found = view.private_get(organisation, CONTRACT, collection, key)
        return None if found is None else found.value
