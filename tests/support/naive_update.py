"""What an update leads to, straight from the definition: for cases that peers judge, without our own rules."""

from __future__ import annotations

from typing import Any, Final

from fabric_protos.common import common_pb2, configtx_pb2
from google.protobuf.message import DecodeError

_KINDS: Final = ("groups", "values", "policies")


def merge_update(base: Any, envelope: bytes) -> Any:
    """The channel group after an update, allowed or not; as it was if the update cannot be read.

    Args:
        base: the common.ConfigGroup in force.
        envelope: a serialised common.Envelope with the update.
    """
    try:
        payload = common_pb2.Payload.FromString(common_pb2.Envelope.FromString(envelope).payload)
        update = configtx_pb2.ConfigUpdate.FromString(
            configtx_pb2.ConfigUpdateEnvelope.FromString(payload.data).config_update
        )
        merged = _merge_group(base, update.read_set, update.write_set)
    except (DecodeError, LookupError):
        return base
    return base if merged is None else merged


def _merge_group(base: Any, read: Any, written: Any) -> Any:
    """Of each group's members those that its new version lists, each in its newest version."""
    shell = _newer(base, read, written)
    if shell is None:
        raise LookupError("a group that nobody has written")
    merged = configtx_pb2.ConfigGroup()
    merged.CopyFrom(shell)
    for kind in _KINDS:
        for name in getattr(shell, kind):
            members = tuple(_member(group, kind, name) for group in (base, read, written))
            member = _merge_group(*members) if kind == "groups" else _newer(*members)
            if member is None:
                raise LookupError("a member that nobody has written")
            getattr(merged, kind)[name].CopyFrom(member)
    for element in (merged, *merged.values.values(), *merged.policies.values()):
        element.mod_policy = element.mod_policy or "Admins"
    return merged


def _newer(base: Any, read: Any, written: Any) -> Any:
    is_changed = written is not None and (read is None or read.version != written.version)
    return written if is_changed else base


def _member(group: Any, kind: str, name: str) -> Any:
    return None if group is None or name not in getattr(group, kind) else getattr(group, kind)[name]
