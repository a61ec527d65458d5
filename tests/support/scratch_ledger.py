"""A ledger in memory with freshly made organisations, and transactions crafted piece by piece.

Every part of a transaction can be changed on its way from the inside out, so that a test breaks exactly one check:

    ledger = scratch_ledger()
    envelope = ledger.craft([writes("app", key=b"value")], channel_header=lambda header: setattr(header, "epoch", 1))
    ledger.validate(envelope).codes
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from fabric_protos.common import common_pb2
from fabric_protos.peer import (
    chaincode_event_pb2,
    chaincode_pb2,
    collection_pb2,
    policy_pb2,
    proposal_pb2,
    proposal_response_pb2,
    transaction_pb2,
)
from fabric_protos.peer.lifecycle import chaincode_definition_pb2, db_pb2

from blockfl.fabric.channel.block import build_block
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.identity.signing import Identity, Signer
from blockfl.fabric.transaction.envelope import compute_tx_id, hash_proposal
from blockfl.fabric.transaction.rwset import (
    VALIDATION_PARAMETER,
    NamespaceReadWriteSet,
    ReadWriteSet,
    Version,
    Write,
    encode_metadata,
)
from blockfl.fabric.validate import BlockValidation, HashedUpdate, PublicUpdate, StateUpdates, validate_block
from blockfl.fabric.validate.memory_state import MemoryState
from support.organisation import Organisation, channel_spec, make_organisation
from support.read_write_sets import encode_read_write_set

NAMES = ("alpha", "beta", "gamma", "delta")
MAJORITY = ("alpha", "beta", "gamma")
ENDORSEMENT = "/Channel/Application/Endorsement"

# What was called does not matter to validation, but that something was.
PROPOSAL_PAYLOAD = proposal_pb2.ChaincodeProposalPayload(input=b"call").SerializeToString()

Change = Callable[[Any], Any]


@cache
def organisations() -> Mapping[str, Organisation]:
    """Four organisations, made once for all tests."""
    return {name: make_organisation(name) for name in NAMES}


@cache
def genesis() -> Any:
    """Block 0 of a BFT channel in which each organisation endorses and runs an ordering node."""
    return build_genesis_block(channel_spec(*organisations().values(), consensus="BFT", channel_id="scratch"))


@cache
def genesis_config() -> ChannelConfig:
    return ChannelConfig.from_block(genesis())


def writes(namespace: str, **values: bytes) -> NamespaceReadWriteSet:
    """A read/write set of one namespace that writes these keys."""
    return NamespaceReadWriteSet(
        namespace=namespace,
        writes=tuple(Write(key=key, value=value, is_delete=not value) for key, value in values.items()),
    )


def reference(path: str = ENDORSEMENT) -> bytes:
    """An application policy that points to one of the channel."""
    return bytes(policy_pb2.ApplicationPolicy(channel_config_policy_reference=path).SerializeToString())


def own_policy(n: int, *names: str) -> bytes:
    """An application policy: the peers of n of these organisations."""
    return bytes(policy_pb2.ApplicationPolicy(signature_policy=signature_policy(n, names)).SerializeToString())


def key_policy(n: int, *names: str) -> bytes:
    """A key's own policy: the peers of n of these organisations."""
    return bytes(signature_policy(n, names).SerializeToString())


def key_metadata(policy: bytes) -> bytes:
    return encode_metadata(((VALIDATION_PARAMETER, policy),))


def definition_values(
    name: str,
    *,
    policy: bytes = reference(),
    collections: Mapping[str, bytes] | None = None,
    block_to_live: int = 0,
    plugin: str = "vscc",
    datatype: str = "ChaincodeDefinition",
) -> dict[str, bytes]:
    """What the lifecycle writes for a chaincode; alpha and beta are the members of its collections."""
    package = collection_pb2.CollectionConfigPackage()
    for collection, own in (collections or {}).items():
        static = package.config.add().static_collection_config
        static.name = collection
        static.block_to_live = block_to_live
        static.member_orgs_policy.signature_policy.CopyFrom(signature_policy(1, ["alpha", "beta"], "member"))
        if own:
            static.endorsement_policy.ParseFromString(own)
    info = chaincode_definition_pb2.ChaincodeValidationInfo(validation_plugin=plugin, validation_parameter=policy)
    fields = {
        "Sequence": db_pb2.StateData(Int64=1),
        "EndorsementInfo": db_pb2.StateData(Bytes=b"\x0a\x031.0"),
        "ValidationInfo": db_pb2.StateData(Bytes=info.SerializeToString()),
        "Collections": db_pb2.StateData(Bytes=package.SerializeToString()),
    }
    metadata = db_pb2.StateMetadata(datatype=datatype, fields=list(fields))
    return {
        f"namespaces/metadata/{name}": metadata.SerializeToString(),
        **{f"namespaces/fields/{name}/{field}": data.SerializeToString() for field, data in fields.items()},
    }


def peer(name: str) -> Signer:
    return organisations()[name].signer("peer0", "peer")


def client(name: str) -> Signer:
    return organisations()[name].signer("user", "client")


class _Changes:
    """What a test does to the parts of a transaction, each before it is put into the next one."""

    def __init__(self, changes: dict[str, Change]) -> None:
        self._changes = changes

    def __call__(self, name: str, part: Any) -> Any:
        result = self._changes.pop(name)(part) if name in self._changes else None
        return part if result is None else result


def _make_response(
    header: Any,
    proposal_payload: bytes,
    chaincode: str,
    namespaces: Sequence[NamespaceReadWriteSet],
    event: bytes,
    changed: _Changes,
) -> bytes:
    """What the endorsers sign."""
    results = changed("results", encode_read_write_set(ReadWriteSet(namespaces=tuple(namespaces))))
    action = proposal_pb2.ChaincodeAction(
        results=results,
        events=event,
        chaincode_id=chaincode_pb2.ChaincodeID(name=chaincode, version="1.0"),
    )
    response = proposal_response_pb2.ProposalResponsePayload(
        proposal_hash=hash_proposal(header, proposal_payload), extension=serialized(changed("action", action))
    )
    signed: bytes = changed("signed_response", serialized(changed("response", response)))
    return signed


class ScratchLedger:
    """State, configuration and height; nothing is on disk and nothing is signed by ordering nodes."""

    def __init__(self, config: ChannelConfig) -> None:
        self.config = config
        self.state = MemoryState()
        self.height = 1

    def seed(self, *updates: PublicUpdate | HashedUpdate, number: int = 0) -> None:
        """Put values into the state as if they had always been there."""
        self.state.apply(
            StateUpdates(
                number=number,
                public=tuple(u for u in updates if isinstance(u, PublicUpdate)),
                hashed=tuple(u for u in updates if isinstance(u, HashedUpdate)),
            ),
            (),
        )

    def put(self, namespace: str, key: str, value: bytes, *, policy: bytes | None = None, at: int = 0) -> None:
        """Put one public value, with a policy of its own, into the state."""
        metadata = b"" if policy is None else key_metadata(policy)
        version = Version(0, at)
        self.seed(PublicUpdate(namespace=namespace, key=key, value=value, version=version, metadata=metadata))

    def define(
        self,
        name: str,
        *,
        policy: bytes = reference(),
        collections: Mapping[str, bytes] | None = None,
        block_to_live: int = 0,
        plugin: str = "vscc",
        datatype: str = "ChaincodeDefinition",
    ) -> None:
        """Put a chaincode's definition into the state as the lifecycle writes it."""
        values = definition_values(
            name, policy=policy, collections=collections, block_to_live=block_to_live, plugin=plugin, datatype=datatype
        )
        for key, value in values.items():
            self.put("_lifecycle", key, value)

    def craft(
        self,
        namespaces: Sequence[NamespaceReadWriteSet] = (),
        *,
        chaincode: str = "app",
        creator: Signer | None = None,
        endorsers: Sequence[str | Signer] = MAJORITY,
        nonce: bytes | None = None,
        event: bytes = b"",
        **changes: Change,
    ) -> bytes:
        """Make a transaction; by default a valid one.

        Args:
            namespaces: the read/write set.
            chaincode: the chaincode that is called.
            creator: who signs it; a client of alpha by default.
            endorsers: organisations whose peers endorse, or any signers.
            nonce: random by default.
            event: a serialised event.
            changes: for a part's name, what to do with it before it is put into the next one: change the message in
                place, or return something else. Parts, from the inside out: extension, channel_header,
                signature_header, proposal_payload (bytes), results (bytes), action, response, signed_response
                (bytes), endorsements (list), endorsed, action_header (bytes), transaction, payload, envelope.
        """
        creator = creator or client("alpha")
        changed = _Changes(changes)
        header = self._make_header(chaincode, creator, os.urandom(24) if nonce is None else nonce, changed)
        proposal_payload = changed("proposal_payload", PROPOSAL_PAYLOAD)
        response = _make_response(header, proposal_payload, chaincode, namespaces, event, changed)
        signers = [peer(one) if isinstance(one, str) else one for one in endorsers]
        endorsements = changed("endorsements", [endorsement(signer, response) for signer in signers])
        endorsed = transaction_pb2.ChaincodeActionPayload(chaincode_proposal_payload=proposal_payload)
        endorsed.action.proposal_response_payload = response
        endorsed.action.endorsements.extend(endorsements)
        transaction = transaction_pb2.Transaction()
        transaction.actions.add(
            header=changed("action_header", header.signature_header), payload=serialized(changed("endorsed", endorsed))
        )
        payload = common_pb2.Payload(header=header, data=serialized(changed("transaction", transaction)))
        payload_bytes = serialized(changed("payload", payload))
        envelope = common_pb2.Envelope(payload=payload_bytes, signature=creator.sign(payload_bytes))
        encoded = serialized(changed("envelope", envelope))
        assert not changes, f"no such part of a transaction: {sorted(changes)}"
        return encoded

    def _make_header(self, chaincode: str, creator: Signer, nonce: bytes, changed: _Changes) -> Any:
        chaincode_id = chaincode_pb2.ChaincodeID(name=chaincode)
        extension = changed("extension", proposal_pb2.ChaincodeHeaderExtension(chaincode_id=chaincode_id))
        channel_header = common_pb2.ChannelHeader(
            type=common_pb2.ENDORSER_TRANSACTION,
            tx_id=compute_tx_id(nonce, creator.identity.serialized),
            channel_id=self.config.channel_id,
            extension=serialized(extension),
        )
        signature_header = common_pb2.SignatureHeader(creator=creator.identity.serialized, nonce=nonce)
        return common_pb2.Header(
            channel_header=serialized(changed("channel_header", channel_header)),
            signature_header=serialized(changed("signature_header", signature_header)),
        )

    def validate(self, *envelopes: bytes) -> BlockValidation:
        """Validate the next block without committing it."""
        return validate_block(build_block(self.height, b"", envelopes), self.config, self.state)

    def commit(self, *envelopes: bytes) -> BlockValidation:
        """Validate and apply the next block."""
        validation = self.validate(*envelopes)
        self.state.apply(validation.updates, validation.tx_ids)
        self.config = validation.config or self.config
        self.height += 1
        return validation

    def code(self, envelope: bytes) -> str:
        """The name of the code of one transaction, alone in the next block."""
        (code,) = self.validate(envelope).codes
        return str(transaction_pb2.TxValidationCode.Name(code))


def scratch_ledger() -> ScratchLedger:
    """A new ledger with two chaincodes: `app` with the collections `sealed` (own policy: alpha and beta) and
    `notes` (none), and `other` without; both need the majority."""
    ledger = ScratchLedger(genesis_config())
    ledger.define("app", collections={"sealed": own_policy(2, "alpha", "beta"), "notes": b""})
    ledger.define("other")
    return ledger


def endorsement(signer: Signer, signed_response: bytes) -> Any:
    endorser = signer.identity.serialized
    return proposal_response_pb2.Endorsement(endorser=endorser, signature=signer.sign(signed_response + endorser))


def event(chaincode: str = "app") -> bytes:
    message = chaincode_event_pb2.ChaincodeEvent(chaincode_id=chaincode, event_name="happened", payload=b"x")
    return bytes(message.SerializeToString())


def serialized(part: Any) -> bytes:
    return part if isinstance(part, bytes) else bytes(part.SerializeToString())


def same_key_elsewhere(signer: Signer, msp_id: str) -> Signer:
    """The signer's key and certificate under another organisation's name."""
    identity = Identity(msp_id=msp_id, certificate_pem=signer.identity.certificate_pem)
    return Signer(identity, signer.private_key)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
