"""Configuration transactions: whether an update was allowed, and whether it led to the new configuration.

Ordering nodes check an update before they order it (`propose_config`); peers check it again (`apply_config`), so that
orderers alone cannot change a channel. Ordering nodes refuse more: what they could not go on ordering under.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fabric_protos.common import common_pb2, configtx_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.element import is_name
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import BlockError, ConfigError, PolicyError
from blockfl.fabric.identity.policy import SignedData, signing_identities

if TYPE_CHECKING:
    from blockfl.fabric.channel.config import ApplicationOrganisation, OrdererOrganisation
    from blockfl.fabric.identity.policy import Policy

_ROOT: Final = ("Channel",)
# Channels of old had elements without a modification policy; where this element exists they get a default.
_ORDERER_CAPABILITIES: Final = ("value", ("Channel", "Orderer", "Capabilities"))
_DEFAULT_MOD_POLICY: Final = "Admins"
_KNOWN_TO_ORDERERS: Final = frozenset(("V1_1", "V1_4_2", "V2_0"))
Element = tuple[str, tuple[str, ...]]  # "group", "value" or "policy", and its path


def apply_config(current: ChannelConfig, encoded: bytes) -> ChannelConfig:
    """Check a configuration transaction against the configuration in force.

    Args:
        current: the configuration in force.
        encoded: the serialised `common.ConfigEnvelope`.

    Returns:
        The new configuration.

    Raises:
        BlockError: the update was not allowed, or does not lead to this configuration. Real peers stop there.
    """
    envelope = _parse(configtx_pb2.ConfigEnvelope, encoded, "a configuration")
    expected = current.sequence + 1
    if envelope.config.sequence != expected:
        raise BlockError(f"expected configuration sequence {expected}, got {envelope.config.sequence}")
    if _lead_to(current, envelope.last_update) != envelope.config.channel_group:
        raise BlockError("the configuration update does not lead to the configuration that comes with it")
    return _accept(current, envelope.config)


@dataclass(frozen=True, kw_only=True)
class ProposedConfig:
    """What an update leads to.

    Attributes:
        encoded: the serialised `common.ConfigEnvelope` for the ledger.
        config: the new configuration.
    """

    encoded: bytes
    config: ChannelConfig


def propose_config(current: ChannelConfig, update: Any) -> ProposedConfig:
    """Apply an update to the configuration in force, as ordering nodes do before they order the result.

    Args:
        current: the configuration in force.
        update: the `common.Envelope` with the update and its administrators' signatures.

    Returns:
        The new configuration and its envelope, which `apply_config` accepts.

    Raises:
        BlockError: the update is not allowed, starts from another configuration, or leads to one that is refused.
    """
    group = _lead_to(current, update)
    config = configtx_pb2.Config(sequence=current.sequence + 1, channel_group=group)
    envelope = configtx_pb2.ConfigEnvelope(config=config, last_update=update)
    new = _accept(current, envelope.config)
    _check_orderable(new)
    return ProposedConfig(encoded=envelope.SerializeToString(deterministic=True), config=new)


def preview_config(current: ChannelConfig, update: Any) -> ChannelConfig:
    """Apply an update to the configuration in force as if enough administrators had signed it.

    Args:
        current: the configuration in force.
        update: the `common.ConfigUpdate`.

    Returns:
        The configuration that it would lead to.

    Raises:
        BlockError: it starts from another configuration, or leads to one that is refused.
    """
    existing, delta = _read_delta(current, update)
    group = _assemble(_ROOT, {**existing, **delta})
    return _accept(current, configtx_pb2.Config(sequence=current.sequence + 1, channel_group=group))


def _lead_to(current: ChannelConfig, last_update: Any) -> Any:
    update, signed = _read_update(last_update)
    existing, delta = _read_delta(current, update)
    _authorise(current, existing, delta, signed)
    return _assemble(_ROOT, {**existing, **delta})


def _accept(current: ChannelConfig, config: Any) -> ChannelConfig:
    try:
        new = type(current).from_config(config, current.channel_id, lenient=True)
    except ConfigError as error:
        raise BlockError(f"the new configuration is not acceptable: {error}") from error
    refused = next((part for part in new.unjudged if part.is_refused and part not in current.unjudged), None)
    if refused is not None:
        raise BlockError(f"the new configuration is not acceptable: {refused}")
    _check_same_organisations(current, new)
    return new


def _check_orderable(new: ChannelConfig) -> None:
    """Check what ordering nodes ask of a configuration, and peers do not."""
    unknown = new.orderer_capabilities - _KNOWN_TO_ORDERERS
    if unknown:
        raise BlockError(f"ordering nodes do not have the capabilities {', '.join(sorted(unknown))}")
    if not new.orderer_organisations:
        raise BlockError("the new configuration leaves no organisation that runs ordering nodes")


def _read_update(last_update: Any) -> tuple[Any, list[SignedData]]:
    payload = _parse(common_pb2.Payload, last_update.payload, "the update's payload")
    header = _parse(common_pb2.ChannelHeader, payload.header.channel_header, "the update's channel header")
    if header.type != common_pb2.CONFIG_UPDATE:
        raise BlockError(f"expected a configuration update, got a transaction of type {header.type}")
    envelope = _parse(configtx_pb2.ConfigUpdateEnvelope, payload.data, "a configuration update")
    signed = [
        SignedData(
            identity=_parse(common_pb2.SignatureHeader, item.signature_header, "a signature header").creator,
            signature=item.signature,
            data=item.signature_header + envelope.config_update,
        )
        for item in envelope.signatures
    ]
    return _parse(configtx_pb2.ConfigUpdate, envelope.config_update, "a configuration update"), signed


def _read_delta(current: ChannelConfig, update: Any) -> tuple[dict[Element, Any], dict[Element, Any]]:
    """The elements of the configuration in force, and those that an update writes."""
    if update.channel_id != current.channel_id:
        raise BlockError(
            f"expected a configuration update of channel {current.channel_id!r}, got {update.channel_id!r}"
        )
    existing = dict(_elements("group", _ROOT, current.config.channel_group))
    read = dict(_elements("group", _ROOT, update.read_set)) if update.HasField("read_set") else {}
    written = dict(_elements("group", _ROOT, update.write_set)) if update.HasField("write_set") else {}
    for element, item in read.items():
        if element not in existing or existing[element].version != item.version:
            raise BlockError(f"the configuration update read {_name(element)} at another version than it has")
    delta = {
        element: item
        for element, item in written.items()
        if element not in read or read[element].version != item.version
    }
    if not delta:
        raise BlockError("the configuration update changes nothing")
    for element, item in delta.items():
        _check_mod_policy(element, item.mod_policy)
        before = existing.get(element)
        if item.version != (0 if before is None else before.version + 1):
            raise BlockError(f"the configuration update gives {_name(element)} version {item.version}")
    return existing, delta


def _authorise(
    current: ChannelConfig, existing: Mapping[Element, Any], delta: Mapping[Element, Any], signed: list[SignedData]
) -> None:
    identities = signing_identities(signed, current.msps)
    for element in delta:
        before = existing.get(element)
        if before is not None and not _mod_policy(current, element, before.mod_policy).satisfied_by(
            identities, current.msps
        ):
            who = ", ".join(sorted({identity.msp_id for identity in identities})) or "nobody"
            raise BlockError(
                f"the configuration update changes {_name(element)}, for which the signatures of {who} "
                f"do not satisfy {before.mod_policy!r}"
            )


def _check_same_organisations(current: ChannelConfig, new: ChannelConfig) -> None:
    for before, after in (
        (_msp_ids(current.orderer_organisations), _msp_ids(new.orderer_organisations)),
        (_msp_ids(current.application_organisations), _msp_ids(new.application_organisations)),
    ):
        for name, msp_id in after.items():
            if before.get(name, msp_id) != msp_id:
                raise BlockError(
                    f"the configuration update changes the MSP id of the organisation {name!r} from "
                    f"{before[name]!r} to {msp_id!r}"
                )


def _msp_ids(
    organisations: Mapping[str, OrdererOrganisation] | Mapping[str, ApplicationOrganisation],
) -> dict[str, str]:
    return {name: organisation.msp_id for name, organisation in organisations.items()}


def _elements(kind: str, path: tuple[str, ...], item: Any) -> Iterator[tuple[Element, Any]]:
    if not is_name(path[-1]):
        raise BlockError(f"expected letters, digits, dots and hyphens as a name in a configuration, got {path[-1]!r}")
    yield (kind, path), item
    if kind != "group":
        return
    for name, value in item.values.items():
        yield from _elements("value", (*path, name), value)
    for name, policy in item.policies.items():
        yield from _elements("policy", (*path, name), policy)
    for name, group in item.groups.items():
        yield from _elements("group", (*path, name), group)


def _check_mod_policy(element: Element, mod_policy: str) -> None:
    if not all(is_name(part) for part in mod_policy.removeprefix("/").split("/")):
        raise BlockError(
            f"the configuration update leaves {_name(element)} without a modification policy: expected the name of "
            f"a policy, got {mod_policy!r}"
        )


def _mod_policy(current: ChannelConfig, element: Element, mod_policy: str) -> Policy:
    kind, path = element
    group = path if kind == "group" else path[:-1]
    name = mod_policy if mod_policy.startswith("/") else "/" + "/".join((*group, mod_policy))
    try:
        return current.policies.get(name)
    except PolicyError as error:
        raise BlockError(f"{_name(element)} cannot be changed: {error}") from error


def _assemble(path: tuple[str, ...], elements: dict[Element, Any]) -> Any:
    found = elements.get(("group", path))
    if found is None:
        raise BlockError(f"the configuration update lacks the group {'/'.join(path)}")
    group = configtx_pb2.ConfigGroup(version=found.version, mod_policy=found.mod_policy)
    for name in found.groups:
        group.groups[name].CopyFrom(_assemble((*path, name), elements))
    for kind, names, target in (
        ("value", found.values, group.values),
        ("policy", found.policies, group.policies),
    ):
        for name in names:
            target[name].CopyFrom(elements[kind, (*path, name)])
    if _ORDERER_CAPABILITIES in elements:
        for item in (group, *group.values.values(), *group.policies.values()):
            item.mod_policy = item.mod_policy or _DEFAULT_MOD_POLICY
    return group


def _name(element: Element) -> str:
    kind, path = element
    return f"the {kind} /{'/'.join(path)}"


def _parse(message_type: Any, encoded: bytes, what: str) -> Any:
    try:
        return parse(message_type, encoded)
    except DecodeError as error:
        raise BlockError(f"expected {what}, got {len(encoded)} bytes that do not parse") from error
