"""The channel's configuration as one organisation's administrator sees and changes it, by files.

An update is one file. Each administrator looks at what it changes, and returns a signature as a file of its own;
whoever has enough of them submits. Both are Fabric's own messages (common.ConfigUpdate, common.ConfigSignature), so
whatever else speaks Fabric may sign, too. Everything is reached through the connection profile: one's own peer, and
the ordering nodes that the configuration names.

Example:
    administrator = Administrator(ConnectionProfile.load(path))
    config = await administrator.read()
    update = administrator.revoke(config, [stolen_pem], authority)
    config = await administrator.submit(config, update, [administrator.sign(update)])
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockfl.fabric.channel.changes import (
    add_organisation,
    change_consenters,
    remove_organisation,
    revoke_certificates,
)
from blockfl.fabric.channel.config import Address, ChannelConfig
from blockfl.fabric.channel.difference import describe_difference, list_revoked, read_membership
from blockfl.fabric.channel.renewal import add_roots, remove_roots, renew_consenter
from blockfl.fabric.channel.update import (
    build_update_envelope,
    compute_update,
    preview_update,
    read_signature,
    sign_update,
    verify_update,
)
from blockfl.fabric.client.broadcast import broadcast
from blockfl.fabric.client.deliver import read_config
from blockfl.fabric.errors import ConfigError, IdentityError
from blockfl.fabric.identity.authority import Authority
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.remote import RemoteLedger
from blockfl.network.errors import NetworkError
from blockfl.network.member import Membership
from blockfl.network.ordering import (
    describe_tolerance,
    find_silent,
    list_beginning,
    list_nodes,
    orderer_endpoints,
    require_quorum,
)

_IN_FORCE_S = 300.0
"""Ordering nodes that change may need minutes until they order again: a lost leader costs up to four."""


class Administrator:
    """One organisation's administrator.

    Args:
        profile: Of the administrator: ``profiles/admin.json``.
    """

    def __init__(self, profile: ConnectionProfile) -> None:
        self._profile = profile
        self._signer = profile.load_signer()

    @property
    def organisation(self) -> str:
        """Whose administrator it is."""
        return self._profile.organisation

    async def read(self, sequence: int = 0) -> ChannelConfig:
        """Return the configuration in force at the organisation's peer, or wait for one.

        Args:
            sequence: Wait until the configuration has this sequence number, or a later one.

        Raises:
            FabricError: The peer refuses, or cannot be reached.
        """
        if self._profile.gateways:
            # What an administrator looks at before signing is not taken from a foreign peer on trust.
            async with RemoteLedger(self._profile) as ledger:
                return await ledger.read_config(sequence)
        return await read_config(self._profile.make_endpoint(), self._profile.channel, self._signer, sequence=sequence)

    def add(self, config: ChannelConfig, membership: Membership) -> bytes:
        """Return the update by which an organisation joins the channel, with its ordering node if it has one.

        Raises:
            ConfigError: It is there already, or not described as it must be.
        """
        spec = membership.spec()
        wanted = add_organisation(config, spec, has_peer=membership.peer is not None)
        if membership.orderer is not None:
            wanted = add_organisation(_read(config, wanted), spec, orders=True)
            consenter = membership.consenter(max(one.id for one in config.consenters) + 1)
            wanted = change_consenters(_read(config, wanted), [*config.consenters, consenter])
        return _update(config, wanted)

    def remove(self, config: ChannelConfig, organisation: str) -> bytes:
        """Return the update by which an organisation leaves the channel, with its ordering nodes.

        Raises:
            ConfigError: It is not there, is the last one, or too few ordering nodes would be left.
        """
        wanted = remove_organisation(config, organisation)
        if (orders := config.orderer_organisations.get(organisation)) is not None:
            own = list_nodes(config, orders)
            left = [one for one in config.consenters if one not in own]
            try:
                wanted = change_consenters(_read(config, wanted), left)
            except ConfigError as error:
                raise ConfigError(
                    f"{organisation} runs an ordering node, and the {len(left)} left would not do: {error}; let "
                    "another organisation with an ordering node join first"
                ) from error
            wanted = remove_organisation(_read(config, wanted), organisation, orders=True)
        return _update(config, wanted)

    def revoke(self, config: ChannelConfig, certificates: Sequence[bytes], authority: Authority) -> bytes:
        """Return the update that revokes certificates of the organisation, besides those revoked before.

        Raises:
            ConfigError: All of them are revoked already.
            IdentityError: One of them is not of this authority.
        """
        before = list_revoked(read_membership(config, self.organisation), authority)
        revocations = authority.revoke(certificates, serial_numbers=before)
        return self.revoke_by_list(config, revocations)

    def revoke_by_list(self, config: ChannelConfig, revocations: bytes) -> bytes:
        """Return the update that puts a revocation list of the organisation's authority into force.

        Raises:
            ConfigError: It is not one, or leaves out a certificate that is revoked.
        """
        return _update(config, revoke_certificates(config, self.organisation, revocations))

    def renew_consenter(
        self, config: ChannelConfig, address: Address, identity: bytes, tls_certificate: bytes
    ) -> bytes:
        """Return the update that gives an ordering node other certificates.

        Raises:
            ConfigError: It is none of the channel's, has them already, or one is refused.
        """
        wanted = renew_consenter(
            config, address.host, address.port, identity_pem=identity, tls_certificate=tls_certificate
        )
        return _update(config, wanted)

    def add_roots(self, config: ChannelConfig, signing: Sequence[bytes], tls: Sequence[bytes]) -> bytes:
        """Return the update by which further authorities of the organisation count beside those of today.

        Raises:
            ConfigError: None is new, or one is no authority.
        """
        return _update(config, add_roots(config, self.organisation, signing=signing, tls=tls))

    def remove_roots(self, config: ChannelConfig, signing: Sequence[bytes], tls: Sequence[bytes]) -> bytes:
        """Return the update by which authorities of the organisation count no more.

        Raises:
            ConfigError: It does not have one, has no other, or an ordering node still has a certificate of one.
        """
        return _update(config, remove_roots(config, self.organisation, signing=signing, tls=tls))

    def sign(self, update: bytes) -> bytes:
        """Sign an update.

        Raises:
            ConfigError: It is none.
        """
        return sign_update(update, self._signer)

    async def submit(
        self, config: ChannelConfig, update: bytes, signatures: Sequence[bytes], *, force: bool = False
    ) -> ChannelConfig:
        """Send an update to the ordering nodes and wait until the organisation's peer has it in force.

        Args:
            config: The configuration in force.
            update: What the administrators signed.
            signatures: Theirs.
            force: Whether ordering may stand still until the ordering nodes have begun that the update brings.

        Returns:
            The new configuration.

        Raises:
            ConfigError: Signatures are missing, it starts from another configuration, or ordering would stand still
                because too many ordering nodes do not answer.
            NetworkError: The ordering nodes took it, and the peer does not have it in time.
            SubmitError: No ordering node takes it.
        """
        verify_update(config, update, signatures)
        wanted = preview_update(config, update)
        if list_beginning(config, wanted) and not force:
            require_quorum(config, wanted, await find_silent(config, self._signer))
        await broadcast(orderer_endpoints(config), build_update_envelope(update, signatures, self._signer))
        try:
            async with asyncio.timeout(_IN_FORCE_S):
                return await self.read(config.sequence + 1)
        except TimeoutError as error:
            raise NetworkError(
                f"the ordering nodes took the update, and {self._profile.endpoint} does not have it after "
                f"{_IN_FORCE_S:.0f} s; look again: blockfl network config show"
            ) from error


def describe_update(config: ChannelConfig, update: bytes) -> tuple[str, ...]:
    """Say what an update changes, one line for each difference.

    Raises:
        ConfigError: It starts from another configuration, or leads to one that nodes refuse.
    """
    try:
        wanted = preview_update(config, update)
        warning = describe_tolerance(config, wanted)
        return (*describe_difference(config, wanted), *([warning] if warning else []))
    except ConfigError as error:
        raise ConfigError(
            f"{error}; the configuration in force has the sequence number {config.sequence}: either the update is part "
            "of it already (`blockfl network config show`), or it was overtaken and has to be proposed again"
        ) from error


def list_signatories(update: bytes, signatures: Sequence[bytes]) -> list[str]:
    """Return the organisations whose signatures over an update these are, ascending.

    Raises:
        ConfigError: One is over something else.
    """
    return sorted({read_signature(signature, update).msp_id for signature in signatures})


def describe_config(config: ChannelConfig) -> list[dict[str, object]]:
    """Return a row for each organisation of the channel: peers, ordering nodes, revoked certificates."""
    rows: list[dict[str, object]] = []
    for name in sorted({*config.application_organisations, *config.orderer_organisations}):
        peers, orders = config.application_organisations.get(name), config.orderer_organisations.get(name)
        msp_id = next(one.msp_id for one in (peers, orders) if one is not None)
        rows.append(
            {
                "organisation": name,
                "peers": [str(address) for address in peers.anchor_peers] if peers else None,
                "ordering_nodes": list(orders.endpoints) if orders else None,
                "revoked": [f"{serial:x}" for serial in list_revoked(read_membership(config, msp_id))],
            }
        )
    return rows


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet.

    Raises:
        NetworkError: It is, or cannot be written.
    """
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError as error:
        raise NetworkError(f"{path} exists already; name another file, or remove it") from error
    except OSError as error:
        raise NetworkError(f"{path}: cannot be written ({error.strerror})") from error


def _read(config: ChannelConfig, wanted: Any) -> ChannelConfig:
    return ChannelConfig.from_config(wanted, config.channel_id)


def _update(config: ChannelConfig, wanted: Any) -> bytes:
    return compute_update(config.config, wanted, config.channel_id)


def load_authority(certificate: Path, key: Path) -> Authority:
    """Read an authority of the organisation.

    Raises:
        NetworkError: A file is missing, or the two do not belong together.
    """
    try:
        return Authority.from_pem(certificate.read_bytes(), key.read_bytes())
    except OSError as error:
        raise NetworkError(
            f"{error.filename}: cannot be read ({error.strerror}); revoking needs the authority that issued the "
            "certificate, or its own list: --list"
        ) from error
    except IdentityError as error:
        raise NetworkError(f"{certificate}: {error}") from error
