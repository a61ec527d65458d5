"""The corpus' updates of a configuration: as administrators send them, and as ordering nodes put them on the ledger.

An ordering node takes or refuses an `update`; a peer takes or refuses a `change`, the block that an update leads to.
Both are judged under the configuration of `base_group`, whose elements have modification policies of every form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from typing import Any, Final

from fabric_protos.common import common_pb2, configtx_pb2, configuration_pb2, policies_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2
from fabric_protos.peer import configuration_pb2 as peer_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.block import build_block, sign_block
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.group import encode
from blockfl.fabric.channel.update_rules import propose_config
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.validate import validate_block
from blockfl.fabric.validate.memory_state import MemoryState
from support.corpus_drafts import (
    CHANNEL,
    MOST_BYTES,
    Draft,
    base_elements,
    base_group,
    encode_base,
    find_element,
    list_elements,
    members_of,
)
from support.corpus_memberships import CHANGED, make_membership
from support.corpus_world import FixedSigner, corpus_organisations, first_block
from support.der_mutation import mutate_der
from support.naive_update import merge_update
from support.wire_mutation import mutate_wire

COUNTS: Final = {"update": 1000, "change": 150}
TAKEN: Final = 0
REFUSED: Final = 252
_NONCE: Final = b"n" * 24
_APPLICATION: Final = ("Application",)
_NEW_POLICIES: Final = (
    *("Admins",) * 12,
    *("Writers", "", "/", "a/b", "Nothing", "/Channel/Admins", "//Admins", "a//b", "é", ".", ".."),
    *("Admins/", "/Channel/Application/Admins", "a_b", "x" * 249, "x" * 250, "\n", "Admins\n"),
)


@cache
def updates_genesis(channel: str = CHANNEL) -> Any:
    """Block 0."""
    return first_block(channel, encode_base())


@cache
def _config() -> ChannelConfig:
    return ChannelConfig.from_block(updates_genesis())


def make_update_case(kind: str, number: int, channel: str = CHANNEL) -> bytes:
    """An envelope: an administrator's update, or the configuration that stands in a block of its own."""
    return _MAKERS[kind](Random(f"{kind} {number}"), channel)


def make_update_block(envelope: bytes, previous: bytes) -> Any:
    """Block 1 with a configuration, as alpha's ordering node signs it."""
    block = build_block(1, previous, [envelope])
    sign_block(block, [corpus_organisations()["alpha"].signer("orderer1", "orderer")], last_config=1, nonce=_NONCE)
    return block


def judge_update(kind: str, envelope: bytes) -> int:
    """What we say of an envelope: `TAKEN` or `REFUSED`, or its code in the block that holds it alone."""
    try:
        if kind == "update":
            propose_config(_config(), parse(common_pb2.Envelope, envelope))
            return TAKEN
        block: Any = build_block(1, b"", [envelope])
        (code,) = validate_block(block, _config(), MemoryState()).codes
    except (FabricError, DecodeError):
        return REFUSED
    return code


def _make_update(random: Random, channel: str) -> bytes:
    draft = Draft(channel)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        random.choice(_CHANGES)(random, draft)
    for _ in range(random.choice((0, 0, 0, 0, 0, 0, 1, 2))):
        random.choice(_DAMAGES)(random, draft)
    encoded = encode(draft.message)
    if random.random() < 0.18:
        encoded = mutate_wire(random, encoded)
    return _wrap(random, encoded, channel)


def _change_value(random: Random, draft: Draft) -> None:
    """Another content of a value, of which some are as they should be."""
    name = random.choice(("BatchTimeout", "BatchTimeout", "BatchSize", "ACLs", "MSP", "Capabilities"))
    if name == "BatchTimeout":
        text = random.choice(("1s", "2s", "0s", "x", "300ms"))
        draft.change("value", ("Orderer", name)).value = encode(orderer_pb2.BatchTimeout(timeout=text))
    elif name == "BatchSize":
        size = orderer_pb2.BatchSize(max_message_count=random.choice((0, 1, 9)), absolute_max_bytes=MOST_BYTES)
        size.preferred_max_bytes = random.choice((0, 1, MOST_BYTES, MOST_BYTES + 1))
        draft.change("value", ("Orderer", name)).value = encode(size)
    elif name == "ACLs":
        rules = {
            "qscc/GetChainInfo": peer_pb2.APIResource(policy_ref=random.choice(("Admins", "/Channel/Writers", "")))
        }
        draft.change("value", (*_APPLICATION, name)).value = encode(peer_pb2.ACLs(acls=rules))
    elif name == "MSP":
        place = (*_APPLICATION, random.choice((CHANGED, CHANGED, CHANGED, "gamma")), name)
        draft.change("value", place).value = make_membership(random)
    else:
        names = random.sample(("V3_0", "V2_5", "V2_0", "V9_9"), random.choice((0, 1, 1, 2)))
        value = configuration_pb2.Capabilities(capabilities={one: configuration_pb2.Capability() for one in names})
        draft.change("value", (*random.choice(((), _APPLICATION, ("Orderer",))), name)).value = encode(value)


def _change_policy(random: Random, draft: Draft) -> None:
    """Another content of a policy."""
    places = [place for kind, place in base_elements() if kind == "policy"]
    own = [place for place in places if place[:2] == (*_APPLICATION, CHANGED)]
    written = draft.change("policy", random.choice((*own, *own, *own, *places)))
    if random.random() < 0.6:
        written.policy.type = policies_pb2.Policy.SIGNATURE
        written.policy.value = encode(signature_policy(1, [CHANGED], random.choice(("member", "admin"))))
    elif random.random() < 0.5:
        written.policy.value = mutate_wire(random, written.policy.value)
    else:
        written.policy.type = random.choice((0, 1, 2, 3, 9))


def _change_policy_of_modification(random: Random, draft: Draft) -> None:
    kind, path = random.choice(base_elements())
    draft.change(kind, path).mod_policy = random.choice(_NEW_POLICIES)


def _change_in_bytes(random: Random, draft: Draft) -> None:
    """Any element, its fields changed in one place."""
    kind, path = random.choice(base_elements())
    written = draft.change(kind, path)
    try:
        changed = type(written).FromString(mutate_wire(random, encode(written)))
    except DecodeError:
        return
    written.CopyFrom(changed)


def _touch(random: Random, draft: Draft) -> None:
    """A new version of what stays the same."""
    kind, path = random.choice(base_elements())
    draft.change(kind, path)


def _add_member(random: Random, draft: Draft) -> None:
    place = random.choice(((), _APPLICATION, ("Orderer",), (*_APPLICATION, CHANGED), (*_APPLICATION, CHANGED)))
    written = draft.change_group(place)
    kind = random.choice(("group", "value", "policy", "policy"))
    name = random.choice((*("Odd", "other", "Endpoints", "AnchorPeers") * 6, "a_b", "", ".", "x" * 250, "é"))
    found = find_element(draft.base, "group", place)
    source = members_of(found, kind)
    member = members_of(written, kind)[name]
    if source and random.random() < 0.8:
        member.CopyFrom(source[random.choice(sorted(source))])
    member.mod_policy = random.choice(("Admins", "Admins", "Admins", *_NEW_POLICIES))
    member.version = random.choice((0, 0, 0, 0, 1))


def _add_organisation(random: Random, draft: Draft) -> None:
    written = draft.change_group(_APPLICATION)
    organisation = written.groups["epsilon"]
    organisation.CopyFrom(draft.base.groups["Application"].groups[CHANGED])
    if random.random() < 0.7:
        for name in organisation.policies:
            organisation.policies[name].mod_policy = "Admins"
        organisation.values["MSP"].mod_policy = "Admins"
    settings: Any = encode(corpus_organisations()[CHANGED].msp_config())
    organisation.values["MSP"].value = (
        settings.replace(CHANGED.encode(), b"eval", 1) if random.random() < 0.5 else settings
    )


def _remove_member(random: Random, draft: Draft) -> None:
    places = [path for kind, path in base_elements() if kind == "group"]
    written = draft.change_group(random.choice((*places, _APPLICATION, (*_APPLICATION, CHANGED))))
    kind = random.choice(("group", "value", "policy", "policy"))
    if names := sorted(members_of(written, kind)):
        del members_of(written, kind)[random.choice(names)]


def _shift_version(random: Random, draft: Draft) -> None:
    message = random.choice((draft.message.read_set, draft.message.write_set))
    kind, path = random.choice(list_elements(message))
    element = find_element(message, kind, path)
    element.version = random.choice((0, 1, 2, element.version + 1, 2**64 - 1))


def _forget_to_read(random: Random, draft: Draft) -> None:
    kind, path = random.choice(list_elements(draft.message.read_set))
    if not path:
        draft.message.ClearField("read_set")
    else:
        del members_of(find_element(draft.message.read_set, "group", path[:-1]), kind)[path[-1]]


def _read_more(random: Random, draft: Draft) -> None:
    kind, path = random.choice(base_elements())
    place = draft.message.read_set
    for name in path if kind == "group" else path[:-1]:
        place = place.groups[name]
    if kind != "group":
        members_of(place, kind)[path[-1]].version = random.choice((0, 0, 0, 1))


def _read_what_is_not_there(random: Random, draft: Draft) -> None:
    draft.message.read_set.groups[random.choice(("Application", "Odd"))].values["Odd"].version = 0


def _other_channel(random: Random, draft: Draft) -> None:
    draft.message.channel_id = random.choice(("", "other", CHANNEL + "x"))


def _write_nothing(random: Random, draft: Draft) -> None:
    draft.message.ClearField(random.choice(("write_set", "read_set")))


def _write_twice(random: Random, draft: Draft) -> None:
    """An element below a group that does not list it."""
    written = draft.open((*_APPLICATION, CHANGED))
    kind = random.choice(("value", "policy"))
    members_of(written, kind)["Odd"].mod_policy = "Admins"


def _add_isolated(random: Random, draft: Draft) -> None:
    draft.message.isolated_data["any"] = b"\xff"


def _wrap(random: Random, encoded: bytes, channel: str) -> bytes:
    """An update in its envelope, with its administrators' signatures."""
    envelope = configtx_pb2.ConfigUpdateEnvelope(config_update=encoded)
    for signer in _choose_signers(random):
        _sign(random, envelope, signer)
    content = encode(envelope)
    if random.random() < 0.06:
        content = mutate_wire(random, content)
    kind = common_pb2.CONFIG_UPDATE
    payload = common_pb2.Payload(data=content)
    payload.header.channel_header = encode(common_pb2.ChannelHeader(type=kind, channel_id=channel))
    return _seal(payload, _client())


def _choose_signers(random: Random) -> list[FixedSigner]:
    organisations = corpus_organisations()
    everybody = [one.signer("admin", "admin") for one in organisations.values()]
    if random.random() < 0.75:
        return everybody if random.random() < 0.7 else everybody[:3]
    signers = random.sample(everybody, random.choice((0, 1, 2, 2, 3)))
    others = (("user", "client"), ("peer0", "peer"), ("orderer1", "orderer"), ("admin", "admin"))
    signers += [organisations[random.choice(sorted(organisations))].signer(*random.choice(others)) for _ in range(2)]
    if random.random() < 0.7:
        signers.append(organisations[CHANGED].signer("admin", "admin"))
    random.shuffle(signers)
    return signers


def _sign(random: Random, envelope: Any, signer: FixedSigner) -> None:
    identity = signer.identity.serialized
    if random.random() < 0.03:
        identity = mutate_wire(random, identity)
    header = encode(common_pb2.SignatureHeader(creator=identity, nonce=_NONCE))
    if random.random() < 0.03:
        header = mutate_wire(random, header)
    signature = signer.sign(header + envelope.config_update)
    if random.random() < 0.03:
        signature = random.choice((b"", mutate_der(random, signature), signer.sign(envelope.config_update)))
    envelope.signatures.add(signature_header=header, signature=signature)


def _client() -> FixedSigner:
    return corpus_organisations()["alpha"].signer("user", "client")


def _seal(payload: Any, signer: FixedSigner) -> bytes:
    payload.header.signature_header = encode(
        common_pb2.SignatureHeader(creator=signer.identity.serialized, nonce=_NONCE)
    )
    encoded = encode(payload)
    return encode(common_pb2.Envelope(payload=encoded, signature=signer.sign(encoded)))


def _make_change(random: Random, channel: str) -> bytes:
    """The configuration transaction that an update leads to, and, now and then, another one."""
    update = _make_update(random, channel)
    if random.random() < 0.1:
        update = mutate_wire(random, update)
    config = configtx_pb2.Config(sequence=1, channel_group=merge_update(base_group(), update))
    kind = random.randrange(20)
    if kind == 0:
        config.sequence = random.choice((0, 2, 2**64 - 1))
    content = encode(config)
    if kind == 1:
        content = mutate_wire(random, content)
    payload = common_pb2.Payload(data=_as_envelope(content, update))
    if kind == 2:
        payload.data = mutate_wire(random, payload.data)
    header = common_pb2.ChannelHeader(type=common_pb2.CONFIG, channel_id=channel)
    payload.header.channel_header = encode(header)
    if kind == 3:
        payload.header.channel_header = mutate_wire(random, payload.header.channel_header)
    alpha = corpus_organisations()["alpha"]
    signer = alpha.signer("orderer1", "orderer")
    if kind == 4:
        signer = random.choice(
            (_client(), alpha.signer("admin", "admin"), corpus_organisations()["gamma"].signer("peer0", "peer"))
        )
    return _seal(payload, signer)


def _as_envelope(config: bytes, update: bytes) -> bytes:
    """A serialised common.ConfigEnvelope, of parts that need not parse."""
    shell = common_pb2.Metadata  # fields 1 and 2 are bytes here and there
    return encode(shell(value=config)) + b"\x12" + _length(update) + update


def _length(content: bytes) -> bytes:
    size, encoded = len(content), bytearray()
    while size >= 0x80:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((*encoded, size))


_CHANGES: Final[tuple[Callable[[Random, Draft], None], ...]] = (
    *(_change_value, _change_value, _change_value, _change_policy, _change_policy, _change_policy_of_modification),
    *(_change_in_bytes, _touch, _touch, _add_member, _add_member, _add_organisation, _remove_member),
)
_DAMAGES: Final[tuple[Callable[[Random, Draft], None], ...]] = (
    *(_shift_version, _shift_version, _forget_to_read, _read_more, _read_what_is_not_there, _other_channel),
    *(_write_nothing, _write_twice, _add_isolated),
)
_MAKERS: Final[Mapping[str, Callable[[Random, str], bytes]]] = {"update": _make_update, "change": _make_change}
