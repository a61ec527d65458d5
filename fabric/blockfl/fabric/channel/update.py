"""Changes of a channel's configuration: computed, signed by administrators, checked and put into an envelope.

Owns what configtxlator's compute_update and `peer channel signconfigtx` are for. Versions in an update say which
state of each element it starts from, so that an update of yesterday's configuration is refused. Refuses an update
that changes nothing, that lacks signatures, or that leads to a configuration nodes refuse.

    wanted = change_batch(config, settings)                                # see `config_changes`
    update = compute_update(config.config, wanted, config.channel_id)      # a file for the administrators
    signature = sign_update(update, administrator)                         # each of them returns one as a file
    verify_update(config, update, signatures)
    envelope = build_update_envelope(update, signatures, client)           # for `broadcast.broadcast`
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fabric_protos.common import common_pb2, configtx_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.update_rules import preview_config, propose_config
from blockfl.fabric.errors import BlockError, ConfigError, IdentityError
from blockfl.fabric.identity.signing import Identity, MessageSigner, verify_signature
from blockfl.fabric.transaction.envelope import sign_envelope

_NONCE_SIZE_BYTES: Final = 24


def compute_update(current: Any, wanted: Any, channel_id: str) -> bytes:
    """Compute what turns one configuration into another: read set, write set and versions.

    Args:
        current: the configuration in force (common.Config).
        wanted: how it shall be (common.Config); versions and sequence in it do not matter.
        channel_id: the channel's name.

    Returns:
        A serialised common.ConfigUpdate: what administrators sign, the same bytes for each of them.

    Raises:
        ConfigError: there is nothing to change.
    """
    read, written = configtx_pb2.ConfigGroup(), configtx_pb2.ConfigGroup()
    if not _compare(current.channel_group, wanted.channel_group, read, written):
        raise ConfigError("expected a configuration that differs from the one in force, got the same")
    return _encode(configtx_pb2.ConfigUpdate(channel_id=channel_id, read_set=read, write_set=written))


def sign_update(update: bytes, signer: MessageSigner) -> bytes:
    """Sign an update as an administrator.

    Args:
        update: a serialised common.ConfigUpdate, which one has read before.
        signer: the administrator.

    Returns:
        A serialised common.ConfigSignature, over signature header ‖ update.

    Raises:
        ConfigError: the update does not parse.
    """
    read_update(update)
    header = _signature_header(signer)
    return _encode(configtx_pb2.ConfigSignature(signature_header=header, signature=signer.sign(header + update)))


def read_update(encoded: bytes) -> Any:
    """Read an update.

    Args:
        encoded: a serialised common.ConfigUpdate.

    Returns:
        The common.ConfigUpdate.

    Raises:
        ConfigError: it is none, or one that does not name a channel.
    """
    update = _decode(configtx_pb2.ConfigUpdate, encoded, "a configuration update")
    if not update.channel_id or not update.HasField("write_set"):
        raise ConfigError("expected a configuration update with a channel and a write set, got one without")
    return update


def read_signature(encoded: bytes, update: bytes) -> Identity:
    """Read an administrator's signature and verify that it is one over this update.

    Args:
        encoded: what `sign_update` returned.
        update: the serialised common.ConfigUpdate.

    Returns:
        Who signed; whether the channel knows that identity is another question (see `verify_update`).

    Raises:
        ConfigError: it does not parse, or it is a signature over something else.
    """
    signature = _decode(configtx_pb2.ConfigSignature, encoded, "a signature of a configuration update")
    header = _decode(common_pb2.SignatureHeader, signature.signature_header, "a signature header")
    try:
        identity = Identity.parse(header.creator)
        verify_signature(identity.public_key, signature.signature, signature.signature_header + update)
    except IdentityError as error:
        raise ConfigError(f"expected a signature over this configuration update, got another one: {error}") from error
    return identity


def verify_update(config: ChannelConfig, update: bytes, signatures: Sequence[bytes] = ()) -> ChannelConfig:
    """Check an update as ordering nodes will, before anybody sends it.

    Args:
        config: the configuration in force.
        update: the serialised common.ConfigUpdate.
        signatures: what `sign_update` returned to the administrators.

    Returns:
        The configuration that it leads to.

    Raises:
        ConfigError: it starts from another configuration, signatures are missing, or it leads to a configuration
            that nodes refuse; the text says which.
    """
    for signature in signatures:
        read_signature(signature, update)
    envelope = common_pb2.Envelope(payload=_update_payload(update, signatures, b""))
    try:
        return propose_config(config, envelope).config
    except BlockError as error:
        raise ConfigError(str(error)) from error


def preview_update(config: ChannelConfig, update: bytes) -> ChannelConfig:
    """Apply an update as if enough administrators had signed it: what they look at before they do.

    Args:
        config: the configuration in force.
        update: the serialised common.ConfigUpdate.

    Returns:
        The configuration that it would lead to.

    Raises:
        ConfigError: it starts from another configuration, or leads to one that nodes refuse.
    """
    try:
        return preview_config(config, read_update(update))
    except BlockError as error:
        raise ConfigError(str(error)) from error


def build_update_envelope(update: bytes, signatures: Sequence[bytes], signer: MessageSigner) -> bytes:
    """Put an update and its administrators' signatures into an envelope for the ordering nodes.

    Args:
        update: the serialised common.ConfigUpdate.
        signatures: what `sign_update` returned to the administrators.
        signer: who sends it: any client that may write to the channel.

    Returns:
        A serialised common.Envelope.

    Raises:
        ConfigError: the update or a signature does not parse, or a signature is over something else.
    """
    for signature in signatures:
        read_signature(signature, update)
    return sign_envelope(_update_payload(update, signatures, _signature_header(signer)), signer)


def read_update_envelope(encoded: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Take an envelope apart, such as a file that administrators pass around with `peer channel signconfigtx`.

    Args:
        encoded: a serialised common.Envelope.

    Returns:
        The serialised common.ConfigUpdate, and the signatures that it has already.

    Raises:
        ConfigError: it does not hold a configuration update.
    """
    envelope = _decode(common_pb2.Envelope, encoded, "an envelope")
    payload = _decode(common_pb2.Payload, envelope.payload, "a payload")
    header = _decode(common_pb2.ChannelHeader, payload.header.channel_header, "a channel header")
    if header.type != common_pb2.CONFIG_UPDATE:
        raise ConfigError(
            f"expected an envelope with a configuration update (type {common_pb2.CONFIG_UPDATE}), got {header.type}"
        )
    content = _decode(configtx_pb2.ConfigUpdateEnvelope, payload.data, "a configuration update")
    return content.config_update, tuple(map(_encode, content.signatures))


def _update_payload(update: bytes, signatures: Sequence[bytes], signature_header: bytes) -> bytes:
    channel_header = common_pb2.ChannelHeader(type=common_pb2.CONFIG_UPDATE, channel_id=read_update(update).channel_id)
    channel_header.timestamp.seconds = int(time.time())
    content = configtx_pb2.ConfigUpdateEnvelope(
        config_update=update, signatures=map(configtx_pb2.ConfigSignature.FromString, signatures)
    )
    header = common_pb2.Header(channel_header=_encode(channel_header), signature_header=signature_header)
    return _encode(common_pb2.Payload(header=header, data=_encode(content)))


def _signature_header(signer: MessageSigner) -> bytes:
    header = common_pb2.SignatureHeader(creator=signer.identity.serialized, nonce=os.urandom(_NONCE_SIZE_BYTES))
    return _encode(header)


def _compare(current: Any, wanted: Any, read: Any, written: Any) -> bool:
    """Fill a group's read and write set; what is the same stands there with its version only, or not at all.

    A group whose members or modification policy change gets the next version, and then lists all its members: what
    it does not list is removed.
    """
    read.version = written.version = current.version
    changed = current.mod_policy != wanted.mod_policy
    same: list[tuple[Any, Any, str, Any]] = []
    written_any = False
    for name in ("values", "policies", "groups"):
        before, after = getattr(current, name), getattr(wanted, name)
        changed |= set(before) != set(after)
        for key in sorted(after):
            sets = getattr(read, name), getattr(written, name)
            if name == "groups":
                modified = _compare_member_group(before, after, key, sets, same)
            else:
                modified = _compare_member(before, after, key, sets, same)
            written_any |= modified
    if changed:
        written.version += 1
        written.mod_policy = wanted.mod_policy
        for reads, writes, key, member in same:
            reads[key].CopyFrom(member)
            writes[key].CopyFrom(member)
    return changed or written_any


def _compare_member(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    key: str,
    sets: tuple[Any, Any],
    same: list[tuple[Any, Any, str, Any]],
) -> bool:
    new = after[key]
    if key in before:
        old = type(new)()
        old.CopyFrom(before[key])
        old.version = new.version
        if old == new:
            same.append((*sets, key, type(new)(version=before[key].version)))
            return False
    sets[1][key].CopyFrom(new)
    sets[1][key].version = before[key].version + 1 if key in before else 0
    return True


def _compare_member_group(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    key: str,
    sets: tuple[Any, Any],
    same: list[tuple[Any, Any, str, Any]],
) -> bool:
    read, written = configtx_pb2.ConfigGroup(), configtx_pb2.ConfigGroup()
    if key not in before:
        _compare(configtx_pb2.ConfigGroup(), after[key], read, written)
        written.version = 0
        written.mod_policy = after[key].mod_policy
        sets[1][key].CopyFrom(written)
        return True
    if not _compare(before[key], after[key], read, written):
        same.append((*sets, key, read))
        return False
    sets[0][key].CopyFrom(read)
    sets[1][key].CopyFrom(written)
    return True


def _decode(kind: Any, encoded: bytes, what: str) -> Any:
    try:
        return kind.FromString(encoded)
    except DecodeError as error:
        raise ConfigError(f"expected {what}, got {len(encoded)} bytes that are none") from error


def _encode(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))
