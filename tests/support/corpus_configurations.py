"""The corpus' configurations: first blocks whose memberships, policies and values are changed, and who may ask there.

A peer takes such a block or refuses it. On a channel that it takes, members of the organisation that was changed ask
it for what only some may read: each answer is one bit of the code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fabric_protos.common import common_pb2, configtx_pb2, configuration_pb2, policies_pb2
from fabric_protos.msp import msp_principal_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2
from fabric_protos.peer import configuration_pb2 as peer_pb2

from blockfl.fabric.channel.block import encode_block
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.group import channel_group, encode
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.chain import Link, chain_identifier
from blockfl.fabric.identity.policy import SignedData, identity_principal, role_principal
from blockfl.fabric.identity.signing import low_s, read_certificate
from support.constrained_chains import make_extensions, make_policies
from support.corpus_memberships import CHANGED, MIDDLE, beta, make_constrained, make_membership, member
from support.corpus_world import FixedSigner, corpus_organisations, corpus_spec, first_block
from support.wire_mutation import mutate_wire

COUNTS: Final = {"membership": 700, "policy": 350, "configuration": 450, "names": 200, "certificate policy": 200}
REFUSED: Final = 252
_PORT: Final = 27_049
_ROOT: Final = "/Channel/Application"
_MESSAGE: Final = b"a question"


@dataclass(frozen=True, kw_only=True)
class Question:
    """Who asks for what, and which policy of the channel guards it."""

    signer: FixedSigner
    chaincode: str
    function: str
    policy: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the function takes beside the channel's name."""
        return {"GetBlockByNumber": ("0",), "GetBlockByHash": ("nothing",)}.get(self.function, ())

    @property
    def resource(self) -> str:
        return f"{self.chaincode}/{self.function}"


class OddSigner(FixedSigner):
    """A member whose signatures hash with SHA-3."""

    def sign(self, message: bytes) -> bytes:
        assert isinstance(self.private_key, ec.EllipticCurvePrivateKey)
        return low_s(self.private_key.sign(message, ec.ECDSA(hashes.SHA3_256(), deterministic_signing=True)))


@cache
def list_questions() -> tuple[Question, ...]:
    """What is asked on every channel that is taken; each answer is one bit, the first the lowest."""
    user, peer, admin = (beta().signer(*one) for one in (("user", "client"), ("peer0", "peer"), ("admin", "admin")))
    other, below = member("other", ("ward",)), member("below", ("client",), MIDDLE)
    return (
        Question(signer=user, chaincode="qscc", function="GetChainInfo", policy="Readers"),
        Question(signer=peer, chaincode="qscc", function="GetBlockByNumber", policy="Endorsement"),
        Question(signer=admin, chaincode="qscc", function="GetBlockByHash", policy="Admins"),
        Question(signer=user, chaincode="cscc", function="GetConfigBlock", policy="Clients"),
        Question(signer=other, chaincode="qscc", function="GetChainInfo", policy="Readers"),
        Question(signer=below, chaincode="qscc", function="GetChainInfo", policy="Readers"),
        Question(
            signer=OddSigner(user.identity, user.private_key),
            chaincode="cscc",
            function="GetChannelConfig",
            policy="Readers",
        ),
    )


def make_configuration(kind: str, number: int, channel: str = "corpus") -> bytes:
    """The first block of a case."""
    return encode_block(first_block(channel, _MAKERS[kind](Random(f"{kind} {number}"))))


def judge_configuration(encoded: bytes) -> int:
    """The code that we give to a first block: whether it is refused, and which questions may be asked."""
    try:
        config = ChannelConfig.from_block(common_pb2.Block.FromString(encoded))
    except FabricError:
        return REFUSED
    return sum(1 << index for index, one in enumerate(list_questions()) if _may_ask(config, one))


def _may_ask(config: ChannelConfig, question: Question) -> bool:
    identity, signature = question.signer.identity.serialized, question.signer.sign(_MESSAGE)
    try:
        config.msps.parse_and_validate(identity).verify(signature, _MESSAGE)
        asked = SignedData(identity=identity, signature=signature, data=_MESSAGE)
        config.policies.evaluate(config.acl_policy(question.resource), [asked])
    except FabricError:
        return False
    return True


@cache
def _encoded_group() -> bytes:
    group = channel_group(corpus_spec(_PORT))
    application = group.groups["Application"]
    rules = {one.resource: peer_pb2.APIResource(policy_ref=f"{_ROOT}/{one.policy}") for one in list_questions()}
    _set_value(application, "ACLs", encode(peer_pb2.ACLs(acls=rules)))
    for name in ("Readers", "Admins", "Clients", "Endorsement"):
        _set_meta(application, name, name, policies_pb2.ImplicitMetaPolicy.ANY)
    for name, organisation in application.groups.items():
        _set_signature(organisation, "Clients", _any_of(role_principal(name, "client")))
    return encode(group)


def _base_group() -> Any:
    return configtx_pb2.ConfigGroup.FromString(_encoded_group())


def _set_value(group: Any, key: str, value: bytes) -> None:
    group.values[key].value = value
    group.values[key].mod_policy = "Admins"


def _set_policy(group: Any, name: str, kind: int, value: bytes) -> None:
    group.policies[name].mod_policy = "Admins"
    group.policies[name].policy.type = kind
    group.policies[name].policy.value = value


def _set_meta(group: Any, name: str, sub_policy: str, rule: int) -> None:
    value = encode(policies_pb2.ImplicitMetaPolicy(sub_policy=sub_policy, rule=rule))
    _set_policy(group, name, policies_pb2.Policy.IMPLICIT_META, value)


def _set_signature(group: Any, name: str, envelope: Any) -> None:
    _set_policy(group, name, policies_pb2.Policy.SIGNATURE, encode(envelope))


def _any_of(*principals: Any) -> Any:
    rules = [policies_pb2.SignaturePolicy(signed_by=index) for index in range(len(principals))]
    rule = policies_pb2.SignaturePolicy(n_out_of=policies_pb2.SignaturePolicy.NOutOf(n=1, rules=rules))
    return policies_pb2.SignaturePolicyEnvelope(rule=rule, identities=principals)


def _membership(random: Random) -> bytes:
    group = _base_group()
    group.groups["Application"].groups[CHANGED].values["MSP"].value = make_membership(random)
    return encode(group)


def _names(random: Random) -> bytes:
    group = _base_group()
    group.groups["Application"].groups[CHANGED].values["MSP"].value = make_constrained(
        random, lambda random: make_extensions(random, 0.5, 0.6)
    )
    return encode(group)


def _certificate_policies(random: Random) -> bytes:
    group = _base_group()
    group.groups["Application"].groups[CHANGED].values["MSP"].value = make_constrained(random, make_policies)
    return encode(group)


def _policy(random: Random) -> bytes:
    group = _base_group()
    application = group.groups["Application"]
    name = random.choice(("Readers", "Readers", "Admins", "Clients", "Endorsement"))
    if random.random() < 0.75:
        place = application.groups[CHANGED]
        for other in application.groups.values():
            _set_signature(other, name, _any_of(role_principal("nobody", "member")))
    else:
        place = application
    kind = random.random()
    if kind < 0.7:
        envelope = _random_envelope(random)
        encoded = encode(envelope)
        if random.random() < 0.3:
            encoded = mutate_wire(random, encoded)
        _set_policy(place, name, policies_pb2.Policy.SIGNATURE, encoded)
    elif kind < 0.9:
        sub_policy = random.choice((name, "Readers", "Writers", "Nothing", ""))
        meta = policies_pb2.ImplicitMetaPolicy(sub_policy=sub_policy, rule=random.choice((0, 1, 2, 3, -1)))
        encoded = encode(meta)
        if random.random() < 0.2:
            encoded = mutate_wire(random, encoded)
        _set_policy(place, name, policies_pb2.Policy.IMPLICIT_META, encoded)
    elif kind < 0.95:
        place.policies[name].policy.type = random.choice((0, 1, 2, 3, 4, 9, -1))
    else:
        place.policies[name].ClearField("policy")
    return encode(group)


def _random_envelope(random: Random) -> Any:
    principals = [_random_principal(random) for _ in range(random.choice((0, 1, 2, 3, 5)))]
    envelope = policies_pb2.SignaturePolicyEnvelope(
        version=random.choice((0,) * 12 + (1, -1)), identities=principals, rule=_random_rule(random, len(principals), 0)
    )
    if random.random() < 0.04:
        envelope.ClearField("rule")
    return envelope


def _random_rule(random: Random, principals: int, depth: int) -> Any:
    if depth > 3 or random.random() < 0.45:
        return policies_pb2.SignaturePolicy(signed_by=random.choice((*range(principals), 0, 0, -1, principals)))
    rules = [_random_rule(random, principals, depth + 1) for _ in range(random.choice((0, 1, 1, 2, 2, 3)))]
    count = random.choice((1, 1, 1, len(rules), len(rules) + 1, 0, -1))
    return policies_pb2.SignaturePolicy(n_out_of=policies_pb2.SignaturePolicy.NOutOf(n=count, rules=rules))


def _random_principal(random: Random, depth: int = 0) -> Any:
    kinds = msp_principal_pb2.MSPPrincipal
    kind = random.choice((kinds.ROLE, kinds.ROLE, kinds.ROLE, kinds.IDENTITY, kinds.ORGANIZATION_UNIT, 3, 4, 7))
    if kind == kinds.ROLE:
        role = msp_principal_pb2.MSPRole(
            msp_identifier=random.choice((CHANGED, CHANGED, CHANGED, "alpha", "", "nobody")),
            role=random.choice((0, 0, 1, 2, 3, 4, 5, -1)),
        )
        content = encode(role)
    elif kind == kinds.IDENTITY:
        signer = random.choice((beta().signer("user", "client"), beta().signer("admin", "admin")))
        content = identity_principal(signer.identity).principal
        content = mutate_wire(random, content) if random.random() < 0.3 else content
    elif kind == kinds.ORGANIZATION_UNIT:
        unit = msp_principal_pb2.OrganizationUnit(
            msp_identifier=CHANGED, organizational_unit_identifier=random.choice(("client", "peer", "ward"))
        )
        root = Link.of(read_certificate(beta().authority_pem)).with_own_low_s()
        unit.certifiers_identifier = random.choice((b"", chain_identifier((root,), "sha256")))
        content = encode(unit)
    elif kind == kinds.ANONYMITY:
        content = encode(msp_principal_pb2.MSPIdentityAnonymity(anonymity_type=random.choice((0, 1, 2))))
    elif kind == kinds.COMBINED and depth < 3:
        parts = [_random_principal(random, depth + 1) for _ in range(random.choice((0, 1, 1, 2)))]
        content = encode(msp_principal_pb2.CombinedPrincipal(principals=parts))
    else:
        content = random.choice((b"", b"\xff"))
    if random.random() < 0.1:
        content = mutate_wire(random, bytes(content))
    return kinds(principal_classification=kind, principal=content)


def _configuration(random: Random) -> bytes:
    group = _base_group()
    if random.random() < 0.5:
        random.choice(_CHANGES)(random, group)
        return encode(group)
    if random.random() < 0.4:
        return mutate_wire(random, encode(group))
    place = random.choice(_list_groups(group))
    values = [place.values[key] for key in sorted(place.values)]
    if not values:
        return mutate_wire(random, encode(group))
    value = random.choice(values)
    value.value = mutate_wire(random, value.value)
    return encode(group)


def _list_groups(group: Any) -> list[Any]:
    application, orderer = group.groups["Application"], group.groups["Orderer"]
    return [group, application, orderer, application.groups[CHANGED], orderer.groups["alpha"]]


def _change_capabilities(random: Random, group: Any) -> None:
    place = random.choice((group, group.groups["Application"], group.groups["Orderer"]))
    names = ("V3_0", "V2_5", "V2_0", "V1_4_3", "V9_9", "")
    chosen = random.sample(names, random.choice((0, 1, 1, 2)))
    value = configuration_pb2.Capabilities(capabilities={name: configuration_pb2.Capability() for name in chosen})
    _set_value(place, "Capabilities", encode(value))


def _remove_value(random: Random, group: Any) -> None:
    place = random.choice(_list_groups(group))
    if place.values:
        del place.values[random.choice(sorted(place.values))]


def _add_value(random: Random, group: Any) -> None:
    place = random.choice(_list_groups(group))
    name = random.choice(("Capabilities", "Odd", "Endpoints", "AnchorPeers", "OrdererAddresses", "ACLs", "Consortium"))
    _set_value(place, name, random.choice((b"", b"\x0a\x09localhost", b"\xff")))


def _remove_group(random: Random, group: Any) -> None:
    place = random.choice(_list_groups(group))
    if place.groups:
        del place.groups[random.choice(sorted(place.groups))]


def _add_group(random: Random, group: Any) -> None:
    place = random.choice(_list_groups(group))
    name = random.choice(("Odd", "copy", "a_b", "", "."))
    content = random.choice((b"", encode(group.groups["Application"].groups[CHANGED])))
    place.groups[name].MergeFromString(content)


def _change_name(random: Random, group: Any) -> None:
    place = random.choice(_list_groups(group))
    kind = random.choice((place.values, place.policies, place.groups))
    name = random.choice(("ok-1.x", "a_b", "", ".", "..", "x" * 250, "x" * 249, "é", "a/b"))
    if kind and kind is not place.values:
        kind[name].MergeFromString(encode(kind[sorted(kind)[0]]))


def _change_batch(random: Random, group: Any) -> None:
    size = orderer_pb2.BatchSize(
        max_message_count=random.choice((0, 1, 10)),
        absolute_max_bytes=random.choice((0, 1, 10, 2**32 - 1)),
        preferred_max_bytes=random.choice((0, 1, 10)),
    )
    _set_value(group.groups["Orderer"], "BatchSize", encode(size))


def _change_timeout(random: Random, group: Any) -> None:
    texts = "0 0s -1s 1 1s 1.5h +2m 1e3s 9223372036854775807ns 9223372036854775808ns µs 1µs 1us .s .5s 1.s 1h1m1s"
    text = random.choice((*texts.split(), " 1s", ""))
    _set_value(group.groups["Orderer"], "BatchTimeout", encode(orderer_pb2.BatchTimeout(timeout=text)))


def _change_consensus(random: Random, group: Any) -> None:
    value = orderer_pb2.ConsensusType.FromString(group.groups["Orderer"].values["ConsensusType"].value)
    if random.random() < 0.5:
        value.type = random.choice(("BFT", "solo", "kafka", "", "etcdraft"))
    else:
        value.metadata = random.choice((b"", b"\xff", mutate_wire(random, value.metadata)))
    _set_value(group.groups["Orderer"], "ConsensusType", encode(value))


def _change_hashing(random: Random, group: Any) -> None:
    if random.random() < 0.6:
        name = random.choice(("SHA256", "SHA3_256", "SHA384", ""))
        _set_value(group, "HashingAlgorithm", encode(configuration_pb2.HashingAlgorithm(name=name)))
    else:
        structure = configuration_pb2.BlockDataHashingStructure(width=random.choice((0, 1, 2**32 - 1, 2**32 - 2)))
        _set_value(group, "BlockDataHashingStructure", encode(structure))


def _change_rights(random: Random, group: Any) -> None:
    references = ("Readers", "/Channel/Readers", "", "Nothing", "/", f"{_ROOT}/Admins", "/Channel/Application/Readers/")
    rules = {
        one.resource: peer_pb2.APIResource(policy_ref=random.choice(references))
        for one in list_questions()
        if random.random() < 0.7
    }
    _set_value(group.groups["Application"], "ACLs", encode(peer_pb2.ACLs(acls=rules)))


def _repeat_membership(random: Random, group: Any) -> None:
    """Another definition of alpha, which runs the ordering node, too."""
    organisation = group.groups[random.choice(("Application", "Orderer"))].groups["alpha"]
    settings = random.choice(({}, {"admins": [corpus_organisations()["alpha"].issue("user", "client")]}))
    organisation.values["MSP"].value = encode(corpus_organisations()["alpha"].msp_config(**settings))


_CHANGES: Final[tuple[Callable[[Random, Any], None], ...]] = (
    *(_change_capabilities, _remove_value, _add_value, _remove_group, _add_group, _change_name, _change_batch),
    *(_change_timeout, _change_consensus, _change_hashing, _change_rights, _repeat_membership),
)
_MAKERS: Final[Mapping[str, Callable[[Random], bytes]]] = {
    "membership": _membership,
    "policy": _policy,
    "configuration": _configuration,
    "names": _names,
    "certificate policy": _certificate_policies,
}
