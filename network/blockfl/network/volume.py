"""What a node has written, and whose: a ledger is never started with the keys of another network.

Fabric itself would start and then fail far from the cause ("creator org unknown"), or follow a channel that nobody
else knows. So each node's directory remembers the channel's first block, which holds every organisation's roots.
"""

import hashlib
import json
from pathlib import Path

from blockfl.fabric.channel.block import decode_block
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import Identity
from blockfl.network.errors import NetworkError
from blockfl.network.identities import read_roots, write_file
from blockfl.network.layout import OrganisationLayout
from blockfl.network.organisation import Organisation

_MARKER = "channel.json"


def require_matching_keys(organisation: Organisation, place: OrganisationLayout) -> None:
    """Check that the channel's first block names the organisation's present authorities.

    Raises:
        NetworkError: It names others: the keys were made anew, or belong to another network.
    """
    config = read_genesis(place)
    if organisation.msp_id not in config.msps:
        return  # It joined later: the channel's configuration of today has its authorities.
    msp, authority = config.msps[organisation.msp_id], place.tls_authority("certificate")
    # An authority that came later stands before the one of the first block, in the same file.
    if not set(read_roots(authority)) & set(msp.tls_roots):
        raise NetworkError(_other_keys(place, authority))
    if len(read_roots(place.signing_authority("certificate"))) > 1:
        return
    certificate = (
        place.node("peer", "certificate.pem") if organisation.has_peer else place.user("agent", "certificate.pem")
    )
    try:
        msp.validate(Identity(msp_id=organisation.msp_id, certificate_pem=certificate.read_bytes()))
    except FabricError as error:
        raise NetworkError(_other_keys(place, certificate)) from error


def read_genesis(place: OrganisationLayout) -> ChannelConfig:
    """Return the configuration in the channel's first block.

    Raises:
        NetworkError: It cannot be read.
    """
    try:
        return ChannelConfig.from_block(decode_block(place.genesis.read_bytes()))
    except (OSError, FabricError) as error:
        raise NetworkError(f"{place.genesis}: the channel's first block cannot be read: {error}") from error


def _other_keys(place: OrganisationLayout, certificate: Path) -> str:
    return (
        f"{certificate} is not one that the channel knows: {place.genesis} was made with other keys; put the former "
        "ones back, or start anew: blockfl network down"
    )


def claim_volume(directory: Path, genesis: bytes) -> None:
    """Make a node's directory, or check that what is in it belongs to this channel.

    Args:
        directory: What the node writes.
        genesis: The channel's first block.

    Raises:
        NetworkError: It holds a ledger of another channel, or of the same with other keys.
    """
    digest = hashlib.sha256(genesis).hexdigest()
    marker = directory / _MARKER
    try:
        found = json.loads(marker.read_bytes())["genesis"]
    except FileNotFoundError:
        found = None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise NetworkError(f"{marker} cannot be read: {error}; delete {directory} to fetch its ledger anew") from error
    if found != digest:
        if found is not None or _holds_anything(directory):
            raise NetworkError(
                f"{directory} holds the ledger of another channel, or of one with other keys; put the former keys and "
                f"genesis.block back, or delete {directory}"
            )
        # The marker first: after an interruption there is nothing that the next start would take for a ledger.
        write_file(marker, f"{json.dumps({'genesis': digest})}\n".encode())
    (directory / "tmp").mkdir(exist_ok=True, mode=0o700)


def _holds_anything(directory: Path) -> bool:
    """Whether there is more in a directory than a marker that was not finished."""
    return directory.is_dir() and any(not one.name.startswith(f"{_MARKER}.") for one in directory.iterdir())
