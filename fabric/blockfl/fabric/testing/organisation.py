"""Organisations made for a test: two authorities each, and certificates on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from blockfl.fabric.channel.config import Address, Consenter
from blockfl.fabric.channel.spec import ChannelSpec, Consensus, OrganisationSpec
from blockfl.fabric.identity.authority import Authority, Unit
from blockfl.fabric.identity.membership import msp_config
from blockfl.fabric.identity.msp import Msp
from blockfl.fabric.identity.signing import Identity, PrivateKey, Signer, create_private_key


@dataclass(frozen=True, kw_only=True)
class Organisation:
    """An organisation with its signing and its TLS authority."""

    name: str
    signing: Authority
    tls: Authority
    _signers: dict[tuple[str, str | None], Signer] = field(default_factory=dict)

    def signer(self, common_name: str, unit: Unit | None = "client", key: PrivateKey | None = None) -> Signer:
        """A member of the organisation; the same one for the same name and unit."""
        found = self._signers.get((common_name, unit))
        if found is None or key is not None:
            key = key or create_private_key()
            pem = self.signing.issue(key.public_key(), common_name=common_name, unit=unit)
            found = Signer(Identity(msp_id=self.name, certificate_pem=pem), key)
            self._signers[common_name, unit] = found
        return found

    def msp_config(self, **settings: Any) -> Any:
        """Its definition on a channel (msp.MSPConfig); the settings are those of `membership.msp_config`."""
        return msp_config(self.name, [self.signing.certificate_pem], [self.tls.certificate_pem], **settings)

    def msp(self, **settings: Any) -> Msp:
        """The same as what judges its members."""
        return Msp.from_config(self.msp_config(**settings))

    def tls_certificate(self, common_name: str, *hosts: str) -> bytes:
        """A TLS certificate (PEM) for these hosts, loopback by default; its key is thrown away."""
        key = create_private_key()
        return self.tls.issue(
            key.public_key(), common_name=common_name, unit=None, hosts=hosts or ("127.0.0.1",), tls=True
        )

    def spec(self, *, anchor: int | None = None, orderer: int | None = None) -> OrganisationSpec:
        """Its place in the specification of a channel.

        Args:
            anchor: port of its anchor peer on loopback.
            orderer: port of its ordering node on loopback.
        """
        return OrganisationSpec(
            name=self.name,
            msp_config=self.msp_config(),
            anchor_peers=() if anchor is None else (Address(host="127.0.0.1", port=anchor),),
            orderer_endpoints=() if orderer is None else (Address(host="127.0.0.1", port=orderer),),
        )

    def consenter(self, number: int, port: int) -> Consenter:
        """Its ordering node, as a channel names it."""
        tls = self.tls_certificate(f"orderer{number}.{self.name}")
        return Consenter(
            id=number,
            host="127.0.0.1",
            port=port,
            msp_id=self.name,
            identity_pem=self.signer(f"orderer{number}", "orderer").identity.certificate_pem,
            client_tls_certificate=tls,
            server_tls_certificate=tls,
        )


def make_organisation(name: str) -> Organisation:
    """Make an organisation of this name, which is its MSP id too."""
    return Organisation(
        name=name,
        signing=Authority.create(f"ca.{name}", name),
        tls=Authority.create(f"tlsca.{name}", name),
    )


def channel_spec(
    *organisations: Organisation, consensus: Consensus = "etcdraft", channel_id: str = "testchannel"
) -> ChannelSpec:
    """A channel of these organisations: raft with one node of the first, or BFT with one node of each of four."""
    ordering = organisations[:4] if consensus == "BFT" else organisations[:1]
    return ChannelSpec(
        channel_id=channel_id,
        application=tuple(one.spec(anchor=7100 + n) for n, one in enumerate(organisations)),
        orderers=tuple(one.spec(anchor=7100 + n, orderer=7000 + n) for n, one in enumerate(ordering)),
        consensus=consensus,
        consenters=tuple(one.consenter(n + 1, 7000 + n) for n, one in enumerate(ordering)),
    )
