"""The channel's first block, from the description and the organisations' certificates."""

from pathlib import Path

from blockfl.fabric.channel.block import encode_block
from blockfl.fabric.channel.config import Address, Consenter
from blockfl.fabric.channel.genesis import ChannelSpec, OrganisationSpec, build_genesis_block
from blockfl.fabric.identity.msp import msp_config
from blockfl.network.description import Description, LedgerKind, Organisation
from blockfl.network.errors import NetworkError
from blockfl.network.identities import write_file
from blockfl.network.layout import Layout, OrganisationLayout
from blockfl.network.source import Fault


def provision_genesis(description: Description, layout: Layout, ledger: LedgerKind) -> None:
    """Write the channel's first block, unless it is there already.

    Raises:
        NetworkError: The description does not give a channel on this ledger.
    """
    if layout.genesis.exists():
        return
    block = build_genesis_block(describe_channel(description, layout, ledger))
    write_file(layout.genesis, encode_block(block))


def describe_channel(description: Description, layout: Layout, ledger: LedgerKind) -> ChannelSpec:
    """Return the channel: as described on Fabric, a single orderer on the embedded node."""
    orderers = description.orderers
    if ledger == "embedded":
        orderers = orderers[:1]
    else:
        require_orderers(description)
    return ChannelSpec(
        channel_id=description.channel,
        application=tuple(_organisation(one, layout, orders=one in orderers) for one in description.organisations),
        orderers=tuple(_organisation(one, layout, orders=True) for one in orderers),
        consensus="BFT" if ledger != "embedded" and description.consensus == "BFT" else "etcdraft",
        consenters=tuple(
            _consenter(number, one, layout.organisation(one.name)) for number, one in enumerate(orderers, start=1)
        ),
    )


def require_orderers(description: Description) -> None:
    """Check that there are enough ordering nodes for the consensus.

    Raises:
        NetworkError: There are fewer.
    """
    try:
        description.check_orderers()
    except Fault as fault:
        raise NetworkError(str(fault)) from fault


def _organisation(organisation: Organisation, layout: Layout, *, orders: bool) -> OrganisationSpec:
    place = layout.organisation(organisation.name)
    return OrganisationSpec(
        name=organisation.name,
        msp_config=msp_config(
            organisation.name,
            [_read(place.signing_authority("certificate"))],
            [_read(place.tls_authority("certificate"))],
        ),
        anchor_peers=(Address(host=organisation.peer_host, port=organisation.ports.peer),),
        orderer_endpoints=(Address(host=organisation.orderer_host, port=organisation.ports.orderer),) if orders else (),
    )


def _consenter(number: int, organisation: Organisation, place: OrganisationLayout) -> Consenter:
    tls = _read(place.node("orderer", "tls-certificate.pem"))
    return Consenter(
        id=number,
        host=organisation.orderer_host,
        port=organisation.ports.orderer,
        msp_id=organisation.name,
        identity_pem=_read(place.node("orderer", "certificate.pem")),
        client_tls_certificate=tls,
        server_tls_certificate=tls,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror})") from error
