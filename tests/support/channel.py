"""A channel of three organisations for tests of the ledger: transactions endorsed and signed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fabric_protos.common import common_pb2
from fabric_protos.peer import collection_pb2, policy_pb2
from fabric_protos.peer.lifecycle import chaincode_definition_pb2, db_pb2

from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.embedded.ordering.ledger import PrivateSet
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.identity.signing import Signer, private_key_pem
from blockfl.fabric.transaction.envelope import (
    assemble_payload,
    build_proposal,
    encode_response_payload,
    endorse,
    sign_envelope,
)
from blockfl.fabric.transaction.rwset import (
    CollectionReadWriteSet,
    HashedWrite,
    MetadataWrite,
    NamespaceReadWriteSet,
    Read,
    ReadWriteSet,
    Version,
    Write,
)
from support.organisation import Organisation, channel_spec, make_organisation
from support.read_write_sets import (
    PrivateWriteSet,
    encode_private_write_set,
    encode_read_write_set,
    hash_private_write_set,
)

ORGANISATIONS = ("alpha", "beta", "gamma")
CHANNEL = "testchannel"
CONTRACT = "app"
MEMBERS = ("alpha", "beta")
_VSCC = "vscc"


@dataclass(frozen=True, kw_only=True)
class PrivateWrites:
    """What a transaction writes to a private collection; None deletes, a purge deletes the history, too."""

    collection: str
    values: Mapping[str, bytes | None]
    purges: tuple[str, ...] = ()

    def encode(self) -> tuple[PrivateSet, CollectionReadWriteSet]:
        private = PrivateWriteSet(
            writes=tuple(
                Write(key=key, value=value or b"", is_delete=value is None) for key, value in self.values.items()
            )
        )
        part = PrivateSet(namespace=CONTRACT, collection=self.collection, rwset=encode_private_write_set(private))
        return part, hash_private_write_set(self.collection, private, purges=self.purges)


@dataclass(frozen=True, kw_only=True)
class Endorsed:
    """A transaction that is ready to be ordered."""

    tx_id: str
    envelope: bytes
    sets: tuple[PrivateSet, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Channel:
    """Block 0 and everybody's keys; the organisations' authorities where they are at hand (not after loading)."""

    genesis: Any
    orderer: Signer
    peers: Mapping[str, Signer]
    client: Signer
    organisations: Mapping[str, Organisation] = field(default_factory=dict)

    def endorse(
        self, readwrites: ReadWriteSet, *, endorsers: Sequence[str] = ORGANISATIONS, chaincode: str = CONTRACT
    ) -> Endorsed:
        """Endorse and sign a transaction with these results."""
        proposal = build_proposal(CHANNEL, chaincode, [b"Do"], self.client)
        response = encode_response_payload(proposal, results=encode_read_write_set(readwrites), version="1.0")
        endorsements = [endorse(response, self.peers[name]) for name in endorsers]
        return Endorsed(
            tx_id=proposal.tx_id,
            envelope=sign_envelope(assemble_payload(proposal, response, endorsements), self.client),
        )

    def write(
        self,
        values: Mapping[str, bytes | None],
        *,
        private: Sequence[PrivateWrites] = (),
        reads: Mapping[str, tuple[int, int] | None] | None = None,
        policies: Sequence[MetadataWrite] = (),
        endorsers: Sequence[str] = ORGANISATIONS,
        namespace: str = CONTRACT,
    ) -> Endorsed:
        """A transaction of the contract that reads and writes these keys."""
        encoded = [part.encode() for part in private]
        readwrites = NamespaceReadWriteSet(
            namespace=namespace,
            reads=tuple(Read(key=k, version=v and Version(*v)) for k, v in (reads or {}).items()),
            writes=tuple(Write(key=k, value=v or b"", is_delete=v is None) for k, v in values.items()),
            metadata_writes=tuple(policies),
            collections=tuple(public for _, public in encoded),
        )
        endorsed = self.endorse(ReadWriteSet(namespaces=(readwrites,)), endorsers=endorsers, chaincode=namespace)
        return Endorsed(tx_id=endorsed.tx_id, envelope=endorsed.envelope, sets=tuple(part for part, _ in encoded))

    def write_hashes(self, collection: str, digest: bytes = b"\x01" * 32) -> Endorsed:
        """A transaction that writes to a collection by hashes alone, whatever the collection."""
        public = CollectionReadWriteSet(
            collection=collection,
            writes=(HashedWrite(key_hash=b"\x02" * 32, value_hash=b"\x03" * 32),),
            private_hash=digest,
        )
        readwrites = NamespaceReadWriteSet(namespace=CONTRACT, collections=(public,))
        return self.endorse(ReadWriteSet(namespaces=(readwrites,)))

    def write_private_policy(self, collection: str, write: MetadataWrite) -> Endorsed:
        """A transaction that gives a private key a policy of its own."""
        private = PrivateWriteSet(metadata_keys=(write.key,))
        public = hash_private_write_set(collection, private, metadata={write.key: write.entries})
        part = PrivateSet(namespace=CONTRACT, collection=collection, rwset=encode_private_write_set(private))
        readwrites = NamespaceReadWriteSet(namespace=CONTRACT, collections=(public,))
        endorsed = self.endorse(ReadWriteSet(namespaces=(readwrites,)))
        return Endorsed(tx_id=endorsed.tx_id, envelope=endorsed.envelope, sets=(part,))

    def define(self, *collections: str | tuple[str, int], name: str = CONTRACT) -> Endorsed:
        """The transaction that commits the contract's definition; collections have members alpha and beta."""
        policy = policy_pb2.ApplicationPolicy(channel_config_policy_reference="/Channel/Application/Endorsement")
        endorsement = chaincode_definition_pb2.ChaincodeEndorsementInfo(version="1.0", endorsement_plugin="escc")
        validation = chaincode_definition_pb2.ChaincodeValidationInfo(
            validation_plugin=_VSCC, validation_parameter=policy.SerializeToString()
        )
        package = collection_pb2.CollectionConfigPackage(config=[_collection(entry) for entry in collections])
        fields = {
            "Sequence": db_pb2.StateData(Int64=1),
            "EndorsementInfo": db_pb2.StateData(Bytes=endorsement.SerializeToString()),
            "ValidationInfo": db_pb2.StateData(Bytes=validation.SerializeToString()),
            "Collections": db_pb2.StateData(Bytes=package.SerializeToString()),
        }
        metadata = db_pb2.StateMetadata(datatype="ChaincodeDefinition", fields=list(fields))
        values = {f"namespaces/metadata/{name}": metadata.SerializeToString()}
        values |= {f"namespaces/fields/{name}/{key}": value.SerializeToString() for key, value in fields.items()}
        return self.write(values, namespace="_lifecycle")

    def save(self, directory: Path) -> None:
        """Write everything for another process, see `load_channel`."""
        directory.mkdir()
        (directory / "genesis.block").write_bytes(self.genesis.SerializeToString())
        for name, signer in {**self.peers, "orderer": self.orderer, "client": self.client}.items():
            (directory / f"{name}.msp").write_text(signer.identity.msp_id)
            (directory / f"{name}.pem").write_bytes(signer.identity.certificate_pem)
            (directory / f"{name}.key").write_bytes(private_key_pem(signer.private_key))


@cache
def make_channel() -> Channel:
    """The channel; made once for all tests of a process."""
    organisations = [make_organisation(name) for name in ORGANISATIONS]
    return Channel(
        genesis=build_genesis_block(channel_spec(*organisations, channel_id=CHANNEL)),
        orderer=organisations[0].signer("orderer1", "orderer"),
        peers={one.name: one.signer(f"peer0.{one.name}", "peer") for one in organisations},
        client=organisations[0].signer("client"),
        organisations={one.name: one for one in organisations},
    )


def load_channel(directory: Path) -> Channel:
    """Read what `Channel.save` wrote."""

    def signer(name: str) -> Signer:
        msp_id = (directory / f"{name}.msp").read_text()
        return Signer.load(msp_id, directory / f"{name}.pem", directory / f"{name}.key")

    return Channel(
        genesis=common_pb2.Block.FromString((directory / "genesis.block").read_bytes()),
        orderer=signer("orderer"),
        peers={name: signer(name) for name in ORGANISATIONS},
        client=signer("client"),
    )


def _collection(entry: str | tuple[str, int]) -> Any:
    name, blocks = (entry, 0) if isinstance(entry, str) else entry
    members = collection_pb2.CollectionPolicyConfig(signature_policy=signature_policy(1, MEMBERS, "member"))
    return collection_pb2.CollectionConfig(
        static_collection_config=collection_pb2.StaticCollectionConfig(
            name=name, member_orgs_policy=members, block_to_live=blocks
        )
    )
