"""Changes of a channel's configuration: was this one authorised, and is this what it makes of the channel?

Owns the check that a committer makes of a configuration transaction: the update that it carries starts from the
current versions, whoever must agree to each changed element has signed, and applying it gives exactly the new
configuration. Refuses everything else.

    config = verify_config_update(config, payload.data)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from fabric_protos.common import common_pb2, configtx_pb2
from google.protobuf.message import DecodeError

from .config import ChannelConfig
from .errors import ConfigError, PolicyError
from .policy import ROOT, SignedData

_Kind = Literal["group", "value", "policy"]
_Key = tuple[_Kind, str]  # kind of the element, and its path

_NAME: Final = re.compile(r"[a-zA-Z0-9.-]{1,249}")


@dataclass(frozen=True, kw_only=True)
class _Element:
    """One group, value or policy of a configuration; `policies` is the group whose policies its own rule names."""

    message: Any
    policies: str


def verify_config_update(current: ChannelConfig, encoded: bytes) -> ChannelConfig:
    """Check that a configuration follows from the current one by an authorised update.

    Args:
        current: the configuration in force.
        encoded: the new one (serialised common.ConfigEnvelope), with the update that led to it.

    Returns:
        The new configuration.

    Raises:
        ConfigError: it does not follow, or the new configuration is refused.
    """
    envelope = _decode(configtx_pb2.ConfigEnvelope, encoded, "a configuration")
    if envelope.config.sequence != current.sequence + 1:
        raise ConfigError(
            f"expected the configuration with sequence {current.sequence + 1}, got {envelope.config.sequence}"
        )
    update, signed = _read_update(current, envelope.last_update)
    result = _apply(current, update, signed)
    if result != envelope.config.channel_group:
        raise ConfigError("the new configuration is not what its update makes of the current one")
    return ChannelConfig.from_config(envelope.config, current.channel_id)


def _read_update(current: ChannelConfig, envelope: Any) -> tuple[Any, list[SignedData]]:
    payload = _decode(common_pb2.Payload, envelope.payload, "a payload")
    header = _decode(common_pb2.ChannelHeader, payload.header.channel_header, "a channel header")
    if header.type != common_pb2.CONFIG_UPDATE:
        raise ConfigError(f"expected a configuration update (type {common_pb2.CONFIG_UPDATE}), got {header.type}")
    carrier = _decode(configtx_pb2.ConfigUpdateEnvelope, payload.data, "a configuration update")
    update = _decode(configtx_pb2.ConfigUpdate, carrier.config_update, "a configuration update")
    if update.channel_id != current.channel_id:
        raise ConfigError(f"expected an update of channel {current.channel_id!r}, got one of {update.channel_id!r}")
    signed = [
        SignedData(
            _decode(common_pb2.SignatureHeader, item.signature_header, "a signature header").creator,
            item.signature,
            item.signature_header + carrier.config_update,
        )
        for item in carrier.signatures
    ]
    return update, signed


def _apply(current: ChannelConfig, update: Any, signed: list[SignedData]) -> Any:
    existing = dict(_elements(current.config.channel_group))
    read, written = dict(_elements(update.read_set)), dict(_elements(update.write_set))
    for key, element in read.items():
        if key not in existing or existing[key].message.version != element.message.version:
            raise ConfigError(f"the update was made for another version of the {key[0]} {key[1]}: make it again")
    changes = {
        key: element
        for key, element in written.items()
        if key not in read or read[key].message.version != element.message.version
    }
    if not changes:
        raise ConfigError("the update changes nothing")
    for key, element in changes.items():
        _authorise(current, key, element, existing.get(key), signed)
    proposed = existing | changes
    if missing := written.keys() - proposed.keys():
        raise ConfigError(f"the update writes {missing}, which the configuration does not get")
    return _group(f"/{ROOT}", proposed)


def _authorise(
    current: ChannelConfig, key: _Key, element: _Element, existing: _Element | None, signed: list[SignedData]
) -> None:
    what = f"the {key[0]} {key[1]}"
    rule = element.message.mod_policy
    if not rule or not all(_is_name(part) for part in rule.removeprefix("/").split("/")):
        raise ConfigError(f"expected a policy that says who may change {what}, got {rule!r}")
    version = element.message.version
    expected = 0 if existing is None else existing.message.version + 1
    if version != expected:
        raise ConfigError(f"expected version {expected} of {what}, got {version}")
    if existing is None:
        return
    rule = existing.message.mod_policy
    path = rule if rule.startswith("/") else f"{existing.policies}/{rule}"
    try:
        current.policies.evaluate(path, signed)
    except PolicyError as error:
        raise ConfigError(f"the change of {what} is not authorised: {error}") from error


def _elements(group: Any, path: str = f"/{ROOT}") -> Iterator[tuple[_Key, _Element]]:
    yield ("group", path), _Element(message=group, policies=path)
    for kind, entries in (("value", group.values), ("policy", group.policies)):
        for name, entry in entries.items():
            yield (_kind(kind), _child(path, name)), _Element(message=entry, policies=path)
    for name, child in group.groups.items():
        yield from _elements(child, _child(path, name))


def _group(path: str, elements: Mapping[_Key, _Element]) -> Any:
    """Put the group at a path together again from its elements, which an update may have replaced one by one."""
    stated = elements["group", path].message
    result = configtx_pb2.ConfigGroup(version=stated.version, mod_policy=stated.mod_policy or "Admins")
    for name in stated.groups:
        result.groups[name].CopyFrom(_group(f"{path}/{name}", elements))
    for kind, names, target in (
        ("value", stated.values, result.values),
        ("policy", stated.policies, result.policies),
    ):
        for name in names:
            target[name].CopyFrom(elements[_kind(kind), f"{path}/{name}"].message)
            target[name].mod_policy = target[name].mod_policy or "Admins"
    return result


def _kind(kind: str) -> _Kind:
    return "value" if kind == "value" else "policy"


def _child(path: str, name: str) -> str:
    if not _is_name(name):
        raise ConfigError(f"expected names of letters, digits, dots and dashes in {path}, got {name!r}")
    return f"{path}/{name}"


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name not in (".", "..")


def _decode(kind: Any, encoded: bytes, what: str) -> Any:
    try:
        return kind.FromString(encoded)
    except DecodeError as error:
        raise ConfigError(f"expected {what}, got {len(encoded)} bytes that are none") from error
