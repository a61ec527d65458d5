"""What a change of a channel's configuration means, in words, for the administrators who are to sign it.

Every element that differs is named, those that nobody thought of by their path: a signature covers all of them.

    for line in describe_difference(config, preview_update(config, update)):
        print(line)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from fabric_protos.msp import msp_config_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import APPLICATION, ORDERER, ChannelConfig, Consenter
from blockfl.fabric.channel.group import ADMINS, application_organisation
from blockfl.fabric.channel.spec import OrganisationSpec
from blockfl.fabric.errors import ConfigError, IdentityError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import parse_certificate

_KINDS: Final = {"values": "value", "policies": "policy"}
_ADDRESSES: Final = ("AnchorPeers", "Endpoints")
_ORGANISATIONS: Final = {APPLICATION: "peers", ORDERER: "ordering nodes"}


def describe_difference(before: ChannelConfig, after: ChannelConfig) -> tuple[str, ...]:
    """Say what is another after a change, one line for each difference.

    Args:
        before: the configuration in force.
        after: what it is to become, see `config_update.preview_update`.

    Raises:
        ConfigError: an organisation's membership holds what cannot be read, so that nobody can tell what it means.
    """
    try:
        lines = list(_group((), before.config.channel_group, after.config.channel_group))
    except (ValueError, DecodeError, IdentityError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise ConfigError(f"a membership in the configuration cannot be read: {error}; do not sign this") from error
    # An organisation that is in both groups has one membership: it changes once.
    return tuple(dict.fromkeys([*_consenters(before, after), *lines]))


def describe_membership(encoded: Any) -> str:
    """Name an organisation's authorities by the fingerprints that its people can read out to others.

    Args:
        encoded: msp.MSPConfig.
    """
    fabric = msp_config_pb2.FabricMSPConfig.FromString(encoded.config)
    return f"authority {_fingerprints(fabric.root_certs)}, of TLS {_fingerprints(fabric.tls_root_certs)}"


def list_revoked(encoded: Any, authority: Authority | None = None) -> tuple[int, ...]:
    """The serial numbers that an organisation's revocation lists name, ascending.

    Args:
        encoded: msp.MSPConfig.
        authority: only the lists of this authority.
    """
    lists = map(_read_list, msp_config_pb2.FabricMSPConfig.FromString(encoded.config).revocation_list)
    wanted = [one for one in lists if authority is None or one.is_signature_valid(authority.key.public_key())]
    return tuple(sorted({entry.serial_number for one in wanted for entry in one}))


def read_membership(config: ChannelConfig, msp_id: str) -> Any:
    """The membership of an organisation of the channel (msp.MSPConfig).

    Raises:
        ConfigError: nobody has this MSP id.
    """
    for kind, known in ((APPLICATION, config.application_organisations), (ORDERER, config.orderer_organisations)):
        for name, organisation in known.items():
            if organisation.msp_id == msp_id:
                group = config.config.channel_group.groups[kind].groups[name]
                return msp_config_pb2.MSPConfig.FromString(group.values["MSP"].value)
    raise ConfigError(f"expected an organisation of the channel ({', '.join(sorted(config.msps))}), got {msp_id!r}")


def _consenters(before: ChannelConfig, after: ChannelConfig) -> Iterator[str]:
    old, new = (_by_address(config.consenters) for config in (before, after))
    for address in sorted({*old, *new}):
        if address not in new:
            yield f"the ordering node {address} leaves"
        elif address not in old:
            yield f"the ordering node {address} joins{_owner(new[address])}"
        elif old[address] != new[address]:
            yield f"the ordering node {address} gets other certificates or another number"
    if before.consensus_type != after.consensus_type:
        yield f"the consensus becomes {after.consensus_type}"
    if before.batch != after.batch:
        yield f"batches: {before.batch} becomes {after.batch}"


def _by_address(consenters: Sequence[Consenter]) -> dict[str, Consenter]:
    return {f"{one.host}:{one.port}": one for one in consenters}


def _owner(consenter: Consenter) -> str:
    return f", of {consenter.msp_id}" if consenter.msp_id else ""


def _group(path: tuple[str, ...], before: Any, after: Any) -> Iterator[str]:
    """Differences of one group and all below it."""
    if before.version != after.version and _outline(before) == _outline(after):
        yield f"the group {_name(path)} is written again as it is"
    if before.mod_policy != after.mod_policy:
        yield f"who may change the group {_name(path)}: {before.mod_policy!r} becomes {after.mod_policy!r}"
    for kind in _KINDS:
        old, new = getattr(before, kind), getattr(after, kind)
        for key in sorted({*old, *new}):
            yield from _element((*path, key), kind, old.get(key), new.get(key))
    for key in sorted({*before.groups, *after.groups}):
        place = (*path, key)
        if key not in after.groups:
            yield f"the organisation {key} leaves ({_what(path)})"
        elif key not in before.groups:
            yield from _joining(path, key, after.groups[key])
        else:
            yield from _group(place, before.groups[key], after.groups[key])


def _outline(group: Any) -> tuple[str, *tuple[frozenset[str], ...]]:
    """What a group's own version stands for: its keys, and who may change them."""
    return group.mod_policy, *(frozenset(getattr(group, kind)) for kind in (*_KINDS, "groups"))


def _joining(path: tuple[str, ...], key: str, group: Any) -> Iterator[str]:
    """A newcomer, and whatever of its group is not as newcomers' groups are; its addresses go without saying."""
    membership = msp_config_pb2.MSPConfig.FromString(group.values["MSP"].value)
    spec = OrganisationSpec(name=key, msp_config=membership)
    alias = "" if spec.msp_id == key else f", with the MSP id {spec.msp_id}"
    yield f"the organisation {key} joins ({_what(path)}){alias}: {describe_membership(membership)}"
    usual = application_organisation(spec)
    place = (*path, key)
    if group.mod_policy != usual.mod_policy:
        yield f"who may change the group {_name(place)} is not as usual: {group.mod_policy!r}"
    for kind, content in _KINDS.items():
        given, expected = getattr(group, kind), getattr(usual, kind)
        for name in sorted({*given, *expected}):
            what = f"the {content} {_name((*place, name))}"
            if name not in given:
                yield f"{what} is missing"
            elif name not in _ADDRESSES and (
                name not in expected or getattr(given[name], content) != getattr(expected[name], content)
            ):
                yield f"{what} is not as usual"
            elif given[name].mod_policy != ADMINS:
                yield f"who may change {what} is not as usual: {given[name].mod_policy!r}"
    for name in sorted(group.groups):
        yield f"the group {_name((*place, name))} is not as usual"


def _element(path: tuple[str, ...], kind: str, before: Any, after: Any) -> Iterator[str]:
    what = f"the {_KINDS[kind]} {_name(path)}"
    if before is None or after is None:
        yield f"{what} {'is new' if before is None else 'is removed'}"
        return
    if before.mod_policy != after.mod_policy:
        yield f"who may change {what}: {before.mod_policy!r} becomes {after.mod_policy!r}"
    if kind == "values" and before.value != after.value:
        yield from _value(path, what, before.value, after.value)
    elif kind == "policies" and before.policy != after.policy:
        yield f"{what} changes"
    elif before.version != after.version and before.mod_policy == after.mod_policy:
        yield f"{what} is written again as it is"


def _value(path: tuple[str, ...], what: str, before: bytes, after: bytes) -> Iterator[str]:
    if path[-1] == "MSP":
        yield from _membership(path[-2], *map(msp_config_pb2.MSPConfig.FromString, (before, after)))
    else:
        yield f"{what} changes"


def _membership(name: str, before: Any, after: Any) -> Iterator[str]:
    old, new = (set(list_revoked(one)) for one in (before, after))
    for serial in sorted(new - old):
        yield f"{name} revokes the certificate with serial number {serial:x}"
    for serial in sorted(old - new):
        yield f"{name} no longer revokes the certificate with serial number {serial:x}"
    rest = [msp_config_pb2.FabricMSPConfig.FromString(one.config) for one in (before, after)]
    for one in rest:
        del one.revocation_list[:]
    if rest[0] != rest[1] or before.type != after.type:
        yield f"{name} changes its membership: {describe_membership(after)}"
    elif old == new:
        yield f"{name} renews its revocation list"


def _what(path: tuple[str, ...]) -> str:
    return _ORGANISATIONS.get(path[-1] if path else "", "unknown group")


def _name(path: tuple[str, ...]) -> str:
    return "/" + "/".join(("Channel", *path))


def _fingerprints(certificates: Sequence[bytes]) -> str:
    return ", ".join(parse_certificate(pem).fingerprint(hashes.SHA256()).hex() for pem in certificates)


def _read_list(encoded: bytes) -> x509.CertificateRevocationList:
    pem = encoded.startswith(b"-----BEGIN")
    return x509.load_pem_x509_crl(encoded) if pem else x509.load_der_x509_crl(encoded)
