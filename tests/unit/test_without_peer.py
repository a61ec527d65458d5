"""An institution that runs no peer: who may be one, what the others count without it, and how it finds the ledger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from blockfl.contract.definition import contract_definition
from blockfl.contract.release import read_release
from blockfl.fabric.channel.block import decode_block
from blockfl.fabric.channel.changes import add_organisation, remove_organisation
from blockfl.fabric.channel.config import ENDORSEMENT, LIFECYCLE_ENDORSEMENT, ChannelConfig
from blockfl.fabric.channel.endorsing import list_endorsing
from blockfl.fabric.channel.genesis import build_genesis_block, verify_genesis_block
from blockfl.fabric.identity.policy import majority_policy, signature_policy
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.channel_check import check_channel
from blockfl.network.description import Description, default_description
from blockfl.network.errors import DescriptionError, NetworkError
from blockfl.network.founding import Founding, FoundingTerms
from blockfl.network.host import Host
from blockfl.network.layout import OrganisationLayout
from blockfl.network.organisation import Organisation, Ports
from blockfl.protocol.records import Consortium
from support.federation import make_consortium
from support.organisation import channel_spec, make_organisation

GATEWAYS = "    gateways: [regulator, university]\n"
NAMES = ("alpha", "beta", "gamma", "delta")
ORGANISATIONS = [make_organisation(name) for name in (*NAMES, "guest")]
ALL_WITH_PEERS = channel_spec(*ORGANISATIONS)


def described(name: str, lines: str) -> str:
    return default_description().replace(f"  - name: {name}\n", f"  - name: {name}\n{lines}")


# Who may be one


def test_a_description_names_whose_gateways_it_uses() -> None:
    description = Description.parse(described("hungary", GATEWAYS), "test")
    assert not description.organisation("hungary").has_peer
    assert description.organisation("longbeach").has_peer
    record = description.consortium
    assert record.without_peer == ("hungary",)
    assert (len(record.members), len(record.endorsing), record.majority) == (7, 6, 4)
    assert Consortium.decode(record.encode()) == record


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("hungary", "    gateways: [regulator]\n", "the gateways of 2 other organisations or more, got regulator"),
        ("hungary", "    gateways: [regulator, regulator]\n", "the gateways of 2 other organisations or more"),
        ("hungary", "    gateways: [regulator, hungary]\n", "the gateways of 2 other organisations or more"),
        ("hungary", "    gateways: [regulator, lungs]\n", "organisations that run no peer here: lungs"),
        ("university", "    gateways: [regulator, cleveland]\n", "only an institution may: a member of the committee"),
        ("cleveland", GATEWAYS, "cleveland opens no port, so it cannot run an ordering node"),
    ],
)
def test_a_description_with_which_it_would_stand_still_is_refused(name: str, lines: str, said: str) -> None:
    with pytest.raises(DescriptionError, match=said):
        Description.parse(described(name, lines), "test")


def test_another_institution_without_a_peer_is_no_gateway() -> None:
    text = described("hungary", GATEWAYS).replace(
        "  - name: longbeach\n", "  - name: longbeach\n    gateways: [hungary, regulator]\n"
    )
    with pytest.raises(DescriptionError, match="organisations that run no peer here: hungary"):
        Description.parse(text, "test")


def test_with_so_few_peers_that_the_committee_would_decide_alone_there_is_no_consortium() -> None:
    text = default_description().replace("    orderer: true\n", "").replace("consensus: BFT", "consensus: raft")
    text = text.replace(
        "    roles: [committee, coordinator]\n", "    roles: [committee, coordinator]\n    orderer: true\n"
    )
    for name in ("cleveland", "hungary", "longbeach", "switzerland"):
        text = text.replace(f"  - name: {name}\n", f"  - name: {name}\n{GATEWAYS}")
    with pytest.raises(
        DescriptionError, match=r"3 organisations run a peer: expected so many that a majority .* \(2\)"
    ):
        Description.parse(text, "test")


def test_containers_of_one_machine_are_for_organisations_with_peers() -> None:
    with pytest.raises(DescriptionError, match="hungary runs no peer, and containers"):
        Description.parse(described("hungary", GATEWAYS), "test", "compose")


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (("omega",), "omega runs no peer: only a member"),
        (("regulator",), "regulator runs no peer: only a member"),
        (("beta", "alpha"), "ascending"),
        (("alpha", "beta", "delta", "gamma"), "3 organisations run a peer"),
    ],
)
def test_the_record_refuses_whom_it_cannot_do_without(without: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Consortium.model_validate({**dict(make_consortium()), "without_peer": without})


# What the others count


def test_the_contracts_collection_is_endorsed_by_those_with_a_peer_and_read_by_all() -> None:
    record = Consortium.model_validate({**dict(make_consortium()), "without_peer": ("gamma",)})
    models = {one.name: one for one in contract_definition(record).collections}["models"]
    assert "gamma" in models.members
    assert models.endorsement_policy == signature_policy(4, record.endorsing)
    assert "gamma" not in record.endorsing


def config_of(*endorsing: str) -> ChannelConfig:
    return ChannelConfig.from_block(build_genesis_block(replace(ALL_WITH_PEERS, endorsing=endorsing)))


def test_a_channel_names_those_that_endorse_where_not_all_can() -> None:
    config = config_of(*NAMES)
    assert list_endorsing(config) == tuple(sorted(NAMES))
    assert check_channel(config, NAMES, [*NAMES, "guest"]) == []
    for path in (ENDORSEMENT, LIFECYCLE_ENDORSEMENT):
        for signers, enough in ((NAMES[:3], True), (NAMES[:2], False), ((*NAMES[:2], "guest"), False)):
            peers = [one.signer("peer0", "peer").identity for one in ORGANISATIONS if one.name in signers]
            assert config.policies.satisfied_by(path, peers) == enough, (path, signers)
    assert list_endorsing(config_of()) == tuple(sorted([*NAMES, "guest"]))


def test_fabrics_majority_of_all_is_named_where_too_many_have_no_peer() -> None:
    found = check_channel(config_of(), NAMES[:2], [*NAMES, "guest"])
    policies = {one.what: one.remedy for one in found if one.what.startswith("policy")}
    assert set(policies) == {f"policy {ENDORSEMENT}", f"policy {LIFECYCLE_ENDORSEMENT}"}
    assert "the signatures of 2 of the peers of alpha, beta" in policies[f"policy {ENDORSEMENT}"]


def follow(config: ChannelConfig, wanted: Any) -> tuple[str, ...]:
    return list_endorsing(ChannelConfig.from_config(wanted, config.channel_id))


def test_the_channel_counts_anew_when_somebody_comes_or_goes() -> None:
    base = ChannelConfig.from_block(build_genesis_block(channel_spec(*ORGANISATIONS[:4])))
    guest, late = ORGANISATIONS[4].spec(), make_organisation("late").spec(anchor=7999)
    grown = add_organisation(base, guest, has_peer=False)
    config = ChannelConfig.from_config(grown, base.channel_id)
    assert follow(base, grown) == tuple(sorted(NAMES))
    assert "guest" in config.application_msp_ids
    assert follow(config, add_organisation(config, late)) == tuple(sorted([*NAMES, "late"]))
    assert follow(config, remove_organisation(config, "delta")) == ("alpha", "beta", "gamma")
    assert follow(config, remove_organisation(config, "guest")) == tuple(sorted(NAMES))
    before = base.config.channel_group.groups["Application"].policies["Endorsement"]
    assert add_organisation(base, late).channel_group.groups["Application"].policies["Endorsement"] == before


def test_a_policy_that_is_no_majority_of_peers_is_left_to_those_who_made_it() -> None:
    config = config_of(*NAMES)
    policy = config.config.channel_group.groups["Application"].policies["Endorsement"].policy
    policy.value = signature_policy(1, NAMES).SerializeToString()
    other = ChannelConfig.from_config(config.config, config.channel_id)
    assert list_endorsing(other) == tuple(sorted([*NAMES, "guest"]))
    assert majority_policy(NAMES) == signature_policy(3, sorted(NAMES))


# How it is founded, and finds the ledger


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Host]:
    directory, described = tmp_path_factory.mktemp("hosts"), {}
    roles = {"coordinator": ["committee", "coordinator"], "regulator": ["committee"], "university": ["committee"]}
    for number, name in enumerate([*roles, "cleveland", "guest"]):
        said = {
            "name": name,
            "roles": roles.get(name, ["institution"]),
            "orderer": name != "guest",
            "gateways": ["university", "regulator"] if name == "guest" else [],
            "ports": Ports.from_base(18000 + 10 * number),
        }
        described[name] = Host(Organisation.model_validate(said), OrganisationLayout(directory / name))
    return described


@pytest.fixture(scope="module")
def founding(hosts: dict[str, Host]) -> Founding:
    terms = FoundingTerms(
        network="heart",
        channel="federation",
        contract="blockfl",
        threshold=2,
        consensus="BFT",
        code_digest=read_release().record_digest,
        leader_timeout_s=20,
        founded_s=1_800_000_000,
    )
    founding = Founding.assemble(terms, [host.provision() for host in hosts.values()])
    signatures = [host.sign(founding) for host in hosts.values()]
    for host in hosts.values():
        host.adopt(founding, signatures)
        host.agree(founding, founding.consortium)
    return founding


def test_it_founds_with_the_others_and_has_keys_for_no_node(hosts: dict[str, Host], founding: Founding) -> None:
    guest = hosts["guest"]
    assert founding.member("guest").membership.peer is None
    config = verify_genesis_block(decode_block(guest.layout.genesis.read_bytes()))
    assert list_endorsing(config) == ("cleveland", "coordinator", "regulator", "university")
    assert config.application_organisations["guest"].anchor_peers == ()
    assert not [path for path in guest.layout.directory.rglob("*.pem") if path.parts[-2] in ("peer", "contract")]
    profile = ConnectionProfile.load(guest.layout.profile("agent"))
    assert [one.organisation for one in profile.gateways] == ["university", "regulator"]
    assert [one.endpoint for one in profile.gateways] == ["127.0.0.1:18020", "127.0.0.1:18010"]
    roots = founding.member("university").membership.tls_roots
    assert Path(profile.gateways[0].tls_roots).read_text() == "".join(roots)
    assert profile.make_endpoint().address == "127.0.0.1:18020"


def test_it_may_name_other_gateways_later_and_say_nothing_else_anew(hosts: dict[str, Host], founding: Founding) -> None:
    guest = hosts["guest"]
    other = Host(guest.organisation.model_copy(update={"gateways": ["cleveland", "regulator"]}), guest.layout)
    assert other.provision() == founding.member("guest")
    other.agree(founding, founding.consortium)
    profile = ConnectionProfile.load(guest.layout.profile("agent"))
    assert [one.organisation for one in profile.gateways] == ["cleveland", "regulator"]
    with_peer = Host(guest.organisation.model_copy(update={"gateways": []}), guest.layout)
    with pytest.raises(NetworkError, match="holds guest with another gateways"):
        with_peer.keep_description()


def test_a_gateway_that_is_none_of_the_founders_is_named_before_signing(
    hosts: dict[str, Host], founding: Founding
) -> None:
    guest = hosts["guest"]
    lost = Host(guest.organisation.model_copy(update={"gateways": ["lungs", "regulator"]}), guest.layout)
    with pytest.raises(NetworkError, match="lungs is none of the founders"):
        lost.sign(founding)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"endpoint": "127.0.0.1:1"}, "instead of endpoint and tls_roots"),
        ({"genesis": None}, "the genesis to check them by"),
        ({"gateways": []}, "expected endpoint and tls_roots"),
    ],
)
def test_a_profile_says_one_way_to_the_ledger(
    hosts: dict[str, Host], founding: Founding, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    del founding
    content = ConnectionProfile.load(hosts["guest"].layout.profile("agent")).model_dump(mode="json") | changes
    path = tmp_path / "agent.json"
    path.write_text(ConnectionProfile.model_construct(**content).model_dump_json(exclude_none=True, warnings=False))
    with pytest.raises(LedgerError, match=said):
        ConnectionProfile.load(path)


def test_a_profile_with_one_gateway_is_refused(hosts: dict[str, Host], founding: Founding, tmp_path: Path) -> None:
    del founding
    profile = ConnectionProfile.load(hosts["guest"].layout.profile("agent"))
    path = tmp_path / "agent.json"
    profile.model_copy(update={"gateways": profile.gateways[:1]}).save(path)
    with pytest.raises(LedgerError, match="gateways of 2 other organisations or more"):
        ConnectionProfile.load(path)
