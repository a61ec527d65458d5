"""What the embedded node does not order: what would stop real peers (`validate.orderable`), and what is lost."""

from __future__ import annotations

from collections.abc import Callable

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.embedded.storage.definition import read_collection
from blockfl.fabric.validate import SignatureCache, StateView
from blockfl.fabric.validate.orderable import Orderable, read_orderable, refuse, require_collections, require_new


def verify_orderable(
    encoded: bytes,
    config: ChannelConfig,
    state: StateView,
    signatures: SignatureCache,
    holds: Callable[[bytes], bool],
) -> Orderable:
    """Refuse an envelope that must not be ordered.

    1. peers could not commit it: see `validate.orderable`;
    2. a private collection that it names does not exist;
    3. it changes keys' policies and is on the ledger already;
    4. no organisation holds the private data that it writes any more, so that they would be lost.

    Args:
        encoded: a serialised common.Envelope.
        config: the channel's configuration.
        state: the ledger's state.
        signatures: good signatures known already.
        holds: tells whether some organisation has the private set with a digest.

    Returns:
        The transaction's id, and which private sets it writes.

    Raises:
        BlockError: the first check that fails.
    """
    orderable = read_orderable(encoded, config, signatures)
    organisations = frozenset(config.application_msp_ids)
    require_collections(
        orderable,
        lambda namespace, collection: read_collection(state, namespace, collection, organisations) is not None,
    )
    is_known = state.has_transaction(orderable.transaction_id)
    require_new(orderable, is_known)
    for reference in orderable.references:
        # A transaction that is on the ledger already becomes a duplicate: its private data is not needed.
        if not is_known and not holds(reference.digest):
            raise refuse(
                f"no organisation holds its private data for collection {reference.collection!r} any more: "
                "have it endorsed again"
            )
    return orderable
