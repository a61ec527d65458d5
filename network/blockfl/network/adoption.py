"""BlockFL on a Fabric channel that is there already: one organisation's contract service, profiles and keys.

Peers, ordering nodes and identities stay where they are and belong to their operators. What is added on each
organisation's host is a contract service beside its peer, and the files of this directory. The private keys of the
organisation's users are named, not copied. What the peer has to be told stands in ``peer.env``.

Example:
    host = adopt(directory, organisation, access, consortium, print)
    AdoptedPart(host).up(print, Agreement(), timeout_s=600)
"""

import asyncio
import json
import secrets
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from blockfl.fabric.channel.block import encode_block, verify_genesis
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.errors import FabricError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.administration import Administrator
from blockfl.network.channel_check import check_channel
from blockfl.network.code_change import Agreement, agree_on_code
from blockfl.network.contract_service import embed_connection, provision_service
from blockfl.network.deployment import deploy
from blockfl.network.errors import NetworkError
from blockfl.network.guest import NoNodes
from blockfl.network.host import Host
from blockfl.network.identities import USERS, provision_contract_identities, write_file
from blockfl.network.keeper import keeper_process
from blockfl.network.layout import OrganisationLayout
from blockfl.network.node import ADOPTED_PEER_SETTINGS
from blockfl.network.organisation import Organisation
from blockfl.network.process import ProcessTable
from blockfl.network.runtime import ProcessRuntime, Report
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.records import Consortium

_BANNER = "peers and ordering nodes belong to the channel that was there"


@dataclass(frozen=True, kw_only=True)
class PeerAccess:
    """How the organisation's people reach its peer today.

    Attributes:
        address: ``host:port`` of the peer.
        tls_roots: File with the authorities of its TLS certificate.
        certificates: File of the certificate of each user: ``admin`` and ``agent``.
        private_keys: File of the key of each.
    """

    address: str
    tls_roots: Path
    certificates: dict[str, Path]
    private_keys: dict[str, Path]


def adopt(
    directory: Path, organisation: Organisation, access: PeerAccess, consortium: Consortium, report: Report
) -> Host:
    """Write everything that one organisation's part needs; what is there is kept.

    Args:
        directory: The organisation's own.
        organisation: What it is called, and where its contract service listens.
        access: How its peer is reached.
        consortium: The record that all organisations agree to.
        report: Told what was read and written.

    Raises:
        NetworkError: The channel does not fit, the organisation is no member, or a file cannot be read or written.
        FabricError: The peer refuses, or cannot be reached.
    """
    place = OrganisationLayout(directory)
    roles = {one.organisation: list(one.roles) for one in consortium.members}
    if organisation.msp_id not in roles:
        raise NetworkError(
            f"{organisation.msp_id} is no member of the consortium; its members are {', '.join(sorted(roles))}"
        )
    if organisation.msp_id in consortium.without_peer:
        raise NetworkError(f"{organisation.msp_id} is a member without a peer, so there is no peer to take BlockFL on")
    host = Host(organisation.model_copy(update={"roles": roles[organisation.msp_id]}), place)
    host.keep_description()
    _write_profiles(host, access, consortium)
    config, genesis = asyncio.run(_read_channel(ConnectionProfile.load(place.profile("admin"))))
    misfits = check_channel(config, consortium.endorsing, [one.organisation for one in consortium.members])
    if fatal := [one for one in misfits if one.is_fatal]:
        told = "; ".join(f"{one.what}: expected {one.expected}, found {one.found}: {one.remedy}" for one in fatal)
        raise NetworkError(f"the channel {config.channel_id} does not fit: {told}")
    if place.genesis.exists() and place.genesis.read_bytes() != genesis:
        raise NetworkError(f"{directory} belongs to another channel: its first block is not the peer's")
    write_file(place.genesis, genesis)
    report(f"channel {config.channel_id}, first block {compute_digest(genesis)}: compare it with the others")
    provision_contract_identities(host.organisation, place)
    if "committee" in host.organisation.roles and not place.opening_key.exists():
        write_file(place.opening_key, secrets.token_hex(32).encode() + b"\n", private=True)
    write_file(place.consortium, consortium.encode())
    provision_service(host.organisation, place, consortium)
    _write_peer_environment(host)
    write_file(place.adopted, f"{json.dumps({'peer': access.address})}\n".encode())
    report(f"for the peer {access.address}: set what {place.peer_environment} says, and restart it")
    return host


class AdoptedPart:
    """One organisation's part on a channel whose nodes others run: it is its contract service.

    Args:
        host: The organisation, and where its files lie.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._processes = ProcessTable(host.layout.directory)

    def up(self, report: Report, agreement: Agreement, timeout_s: float) -> None:
        """Start the contract service, and bring the contract up together with the others.

        Raises:
            NetworkError: The service ends, or too few organisations approve in time.
        """
        host, agreed = self._host, agreement.remember()
        consortium = host.load_consortium()
        agree_on_code(host.layout.package, consortium.contract, agreed)
        runtime = self.runtime()
        runtime.start_services()
        self._processes.start(keeper_process(host.layout.directory))
        asyncio.run(deploy([host], report, agreed, timeout_s, serve=partial(runtime.serve, [host])))
        report(
            f"{host.name} takes part in the network {consortium.network} on channel {consortium.channel}; its "
            f"connection profiles: {host.layout.profile('agent').parent}"
        )

    def runtime(self) -> ProcessRuntime:
        """Return what tells how the contract service is, and stops it."""
        return ProcessRuntime([self._host], self._host.layout.directory, NoNodes(_BANNER), self._processes)


def _write_profiles(host: Host, access: PeerAccess, consortium: Consortium) -> None:
    place = host.layout
    try:
        write_file(place.peer_tls_roots, access.tls_roots.read_bytes())
    except OSError as error:
        raise NetworkError(f"{error.filename}: cannot be read or written ({error.strerror})") from error
    for user in USERS:
        for path in (access.certificates[user], access.private_keys[user]):
            if not path.is_file():
                raise NetworkError(f"{path}: there is no such file; name the {user}'s certificate and key")
        is_opener = "committee" in host.organisation.roles and user == "agent"
        ConnectionProfile(
            network=consortium.network,
            channel=consortium.channel,
            contract=consortium.contract,
            organisation=host.organisation.msp_id,
            endpoint=access.address,
            tls_roots=str(place.peer_tls_roots.resolve()),
            certificate=str(access.certificates[user].resolve()),
            private_key=str(access.private_keys[user].resolve()),
            opening_key=str(place.opening_key.resolve()) if is_opener else None,
            genesis=str(place.genesis.resolve()),
        ).save(place.profile(user))


async def _read_channel(profile: ConnectionProfile) -> tuple[ChannelConfig, bytes]:
    """Return the configuration in force and the first block, both from the organisation's own peer."""
    config = await Administrator(profile).read()
    async with (
        Gateway(profile.make_endpoint(), profile.load_signer(), profile.channel) as gateway,
        aclosing(gateway.blocks(0)) as blocks,
    ):
        block = await anext(blocks)
    try:
        verify_genesis(block)
    except FabricError as error:
        raise NetworkError(f"the peer {profile.endpoint} gives a first block that is none: {error}") from error
    return config, encode_block(block)


def _write_peer_environment(host: Host) -> None:
    """Write what the peer must be told: what BlockFL rests on, and how it reaches the contract service.

    The key in it is good for nothing but dialling the contract service.
    """
    place = host.layout
    connection = embed_connection(host.organisation, place)
    lines = [f"{name}={value}" for name, value in {**ADOPTED_PEER_SETTINGS, **connection}.items()]
    write_file(place.peer_environment, ("\n".join(lines) + "\n").encode(), private=True)
