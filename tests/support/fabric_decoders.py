"""Decoders of what peers, ordering nodes, contract services and administrators send or keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from fabric_protos.common import common_pb2
from fabric_protos.ledger.rwset.kvrwset import kv_rwset_pb2
from fabric_protos.msp import msp_config_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel import block, config
from blockfl.fabric.channel import update as config_update
from blockfl.fabric.channel.changes import change_batch
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.duration import parse_duration
from blockfl.fabric.embedded.endorsing.admission import Refused, parse_headers
from blockfl.fabric.embedded.endorsing.package import Package
from blockfl.fabric.embedded.storage import private_set
from blockfl.fabric.encoding import wire
from blockfl.fabric.errors import BlockError, ConfigError, IdentityError, NodeError, PolicyError
from blockfl.fabric.identity import policy
from blockfl.fabric.identity import signing as identity
from blockfl.fabric.identity.msp import Msp
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.transaction import collection, package, reading, rwset
from blockfl.fabric.transaction.envelope import build_proposal
from blockfl.fabric.validate import SignatureCache, validate_block, validate_transaction
from support.channel import make_channel
from support.decoders import Decoder, of
from support.organisation import make_organisation
from support.read_write_sets import encode_read_write_set
from support.recording import recorded_block_bytes, recorded_blocks
from support.replay import Step, replayed

BLOCK = (BlockError,)


@cache
def small_blocks() -> Sequence[bytes]:
    """Recorded blocks that are not large, the genesis block not among them."""
    return tuple(one for one in recorded_block_bytes()[1:] if len(one) < 16_000)[:24]


@cache
def envelopes() -> Sequence[bytes]:
    found = [bytes(envelope) for one in recorded_blocks()[1:] for envelope in one.data.data]
    return tuple(one for one in found if len(one) < 12_000)[::7][:32]


@cache
def read_write_sets() -> Sequence[bytes]:
    found = []
    for one in envelopes():
        try:
            found.append(reading.decode_transaction(one).results)
        except BlockError:
            continue
    return tuple(dict.fromkeys(one for one in found if one))


@cache
def proposals() -> Sequence[bytes]:
    signer = make_organisation("alpha").signer("client")
    built = build_proposal("fed", "app", [b"Put", b"k", b"v"], signer, {"secret": b"x" * 40})
    return (bytes(built.signed_proposal.SerializeToString()),)


@cache
def configurations() -> Sequence[bytes]:
    return (bytes(make_channel().genesis.data.data[0]),)


@cache
def identities() -> Sequence[bytes]:
    return tuple(make_organisation("alpha").signer("someone", unit).identity.serialized for unit in ("client", "peer"))


def decode_block(content: bytes) -> None:
    found = block.decode_block(content)
    assert block.encode_block(found) == content
    block.decode_metadata(found)


@cache
def last_step() -> Step:
    return replayed().steps[-1]


def validate(content: bytes) -> None:
    """Whatever stands in a block, a committer has a code for it."""
    step = last_step()
    code = validate_transaction(content, step.config, step.state, signatures=SignatureCache())
    assert isinstance(code, int)


def validate_whole_block(content: bytes) -> None:
    step = last_step()
    found = block.decode_block(content)
    codes = validate_block(found, step.config, step.state, signatures=SignatureCache()).codes
    assert len(codes) == len(found.data.data)


def read_tx_id(content: bytes) -> None:
    found = reading.read_tx_id(content)
    assert found is None or isinstance(found, str)


def decode_rwset(content: bytes) -> None:
    found = rwset.decode_read_write_set(content)
    again = encode_read_write_set(found)
    assert encode_read_write_set(rwset.decode_read_write_set(again)) == again


def private_sets() -> Sequence[bytes]:
    write = kv_rwset_pb2.KVWrite
    built = kv_rwset_pb2.KVRWSet(
        writes=[write(key="k", value=b"value"), write(key="gone", is_delete=True), write(key="e", value=b"")],
        metadata_writes=[kv_rwset_pb2.KVMetadataWrite(key="m")],
    )
    return (bytes(built.SerializeToString()),)


def scan_private_set(content: bytes) -> None:
    for _, key, _, position, length in private_set.scan_entries(b"digest", content):
        assert isinstance(key, bytes)
        assert length == -1 or 0 <= position <= len(content) - length


def metadata_seeds() -> Sequence[bytes]:
    entry = kv_rwset_pb2.KVMetadataEntry(name="VALIDATION_PARAMETER", value=b"policy")
    return (bytes(kv_rwset_pb2.KVMetadataWrite(key="k", entries=[entry]).SerializeToString()),)


def collection_fields() -> Sequence[bytes]:
    step = last_step()
    found = []
    for key in ("namespaces/fields/app/Collections", "namespaces/fields/nodeapp/Collections"):
        value = step.state.get("_lifecycle", key)
        if value is not None:
            found.append(value.value)
    return found


def decode_collections(content: bytes) -> None:
    for name, found in collection.decode_collections(content).items():
        assert found.name == name
        assert all(isinstance(one, str) for one in found.organisations)


def policies() -> Sequence[bytes]:
    built = [signature_policy(2, ["alpha", "beta", "gamma"], "peer"), signature_policy(1, ["alpha"], "member")]
    return tuple(bytes(one.SerializeToString()) for one in built)


def decode_policy(content: bytes) -> None:
    found = policy.SignaturePolicy.parse(content)
    assert not found.satisfied_by((), make_channel_config().msps) or is_satisfied_by_nobody(content)


def is_satisfied_by_nobody(content: bytes) -> bool:
    """A rule that asks for none of several is satisfied by none."""
    return b"\x12" in content


@cache
def make_channel_config() -> ChannelConfig:
    return ChannelConfig.from_block(make_channel().genesis)


def decode_config(content: bytes) -> None:
    found = config.ChannelConfig.from_envelope(content)
    assert found.consenters
    assert found.application_msp_ids == tuple(sorted(found.application_msp_ids))


def msps() -> Sequence[bytes]:
    organisation = make_organisation("alpha")
    crl = organisation.signing.revoke([organisation.signer("thief").identity.certificate_pem])
    return (
        bytes(organisation.msp_config().SerializeToString()),
        bytes(organisation.msp_config(crls=[crl]).SerializeToString()),
    )


def decode_msp(content: bytes) -> None:
    try:
        message = msp_config_pb2.MSPConfig.FromString(content)
    except DecodeError as error:
        raise IdentityError("not an MSP") from error
    found = Msp.from_config(message)
    assert found.msp_id


@cache
def updates() -> Sequence[bytes]:
    now = make_channel_config()
    wanted = change_batch(now, replace(now.batch, max_message_count=3))
    return (config_update.compute_update(now.config, wanted, now.channel_id),)


@cache
def update_envelopes() -> Sequence[bytes]:
    channel = make_channel()
    signature = config_update.sign_update(updates()[0], channel.organisations["alpha"].signer("admin", "admin"))
    return (config_update.build_update_envelope(updates()[0], [signature], channel.client),)


@cache
def update_signatures() -> Sequence[bytes]:
    admin = make_channel().organisations["alpha"].signer("admin", "admin")
    return (config_update.sign_update(updates()[0], admin),)


def read_update_envelope(content: bytes) -> None:
    update, _ = config_update.read_update_envelope(content)
    config_update.read_update(update)


def private_keys() -> Sequence[bytes]:
    return (identity.private_key_pem(identity.create_private_key()),)


def certificates() -> Sequence[bytes]:
    return tuple(identity.Identity.parse(one).certificate_pem for one in identities())


def signatures() -> Sequence[bytes]:
    return tuple(make_organisation("alpha").signer("client").sign(bytes([one])) for one in range(3))


def decode_signature(content: bytes) -> None:
    r, s = identity.parse_ecdsa_signature(content)
    assert r > 0
    assert s > 0
    if s < identity.CURVE_ORDERS["secp256r1"]:
        assert identity.has_low_s(identity.low_s(content))


def scan(content: bytes) -> None:
    """The fields cover the content, and the official decoder takes what was scanned and put together again."""
    fields = list(wire.scan_fields(memoryview(content)))
    assert sum(len(value) for _, value in fields if isinstance(value, memoryview)) <= len(content)


def decode_headers(content: bytes) -> None:
    try:
        envelope = common_pb2.Envelope.FromString(content)
    except DecodeError as error:
        raise Refused("not an envelope") from error
    parse_headers(envelope)


def decode_package(content: bytes) -> None:
    found = Package.parse(content)
    assert found.package_id.startswith(f"{found.label}:")
    found.service({"addr": "127.0.0.1:1", "root": "r", "cert": "c", "key": "k"})


def packages() -> Sequence[bytes]:
    return (package.package_contract("app_1.0"),)


def decode_duration(content: bytes) -> None:
    assert isinstance(parse_duration(content.decode("utf-8", "replace")), float)


DECODERS: tuple[Decoder, ...] = (
    of("block", decode_block, BLOCK, small_blocks, max_bytes=16_384),
    of("block to validate", validate_whole_block, BLOCK, small_blocks, max_bytes=16_384),
    of("transaction", reading.decode_transaction, BLOCK, envelopes, max_bytes=12_288),
    of("transaction id", read_tx_id, (), envelopes, max_bytes=12_288),
    of("transaction to validate", validate, BLOCK, envelopes, max_bytes=12_288),
    of("read/write set", decode_rwset, BLOCK, read_write_sets),
    of("private write set in store", scan_private_set, BLOCK, private_sets),
    of("key metadata", rwset.decode_metadata, BLOCK, metadata_seeds),
    of("collections", decode_collections, BLOCK, collection_fields),
    of("endorsement policy", decode_policy, (PolicyError,), policies),
    of("channel configuration", decode_config, (ConfigError,), configurations, max_bytes=32_768),
    of("membership provider", decode_msp, (IdentityError,), msps, max_bytes=8192),
    of("configuration update", config_update.read_update, (ConfigError,), updates),
    of("configuration update in an envelope", read_update_envelope, (ConfigError,), update_envelopes),
    of(
        "signature of a configuration update",
        lambda content: config_update.read_signature(content, updates()[0]),
        (ConfigError,),
        update_signatures,
    ),
    of("identity", identity.Identity.parse, (IdentityError,), identities),
    of("certificate", identity.parse_certificate, (IdentityError,), certificates, form="text"),
    of("private key", identity.parse_private_key, (IdentityError,), private_keys, form="text"),
    of("ecdsa signature", decode_signature, (IdentityError,), signatures, form="bytes", max_bytes=256),
    of("wire format", scan, (ValueError,), read_write_sets, max_bytes=12_288),
    of("node: headers of an envelope", decode_headers, (Refused,), envelopes, max_bytes=12_288),
    of("node: package", decode_package, (NodeError,), packages, form="bytes", max_bytes=24_576),
    of("package id", package.package_id, (ConfigError,), packages, form="bytes", max_bytes=24_576),
    of(
        "duration",
        decode_duration,
        (ConfigError,),
        lambda: (b"1h2m3.5s", b"-500ms", b"0", b".5us"),
        form="text",
        max_bytes=128,
    ),
)
