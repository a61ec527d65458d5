"""A network founded by hosts that share no secrets: one first block everywhere, and every lie refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockfl.audit.chain import pinned_hash
from blockfl.audit.errors import VerificationError
from blockfl.cli.founded import founded_hash
from blockfl.contract.release import read_release
from blockfl.fabric.channel.block import decode_block
from blockfl.fabric.channel.genesis import verify_genesis_block
from blockfl.network.errors import NetworkError
from blockfl.network.founding import Founding, FoundingSignature, FoundingTerms, load_founding, signature_path
from blockfl.network.host import Host
from blockfl.network.identities import load_administrator
from blockfl.network.layout import OrganisationLayout
from blockfl.network.member import MembershipFile
from blockfl.network.organisation import Organisation, Ports
from blockfl.protocol.records import Role

ROLES: dict[str, list[Role]] = {
    "coordinator": ["committee", "coordinator"],
    "regulator": ["committee"],
    "university": ["committee"],
    "hospital": ["institution"],
}
NAMES = tuple(ROLES)
TERMS = FoundingTerms(
    network="heart",
    channel="federation",
    contract="blockfl",
    threshold=2,
    consensus="BFT",
    code_digest=read_release().record_digest,
    leader_timeout_s=20,
    founded_s=1_800_000_000,
)


def describe(name: str, /, **settings: Any) -> Organisation:
    number = NAMES.index(name)
    said = {
        "name": name,
        "msp_id": f"{name.capitalize()}MSP",
        "roles": ROLES[name],
        "orderer": True,
        "ports": Ports.from_base(18000 + 10 * number),
    }
    return Organisation.model_validate(said | settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Host]:
    directory = tmp_path_factory.mktemp("hosts")
    hosts = {name: Host(describe(name), OrganisationLayout(directory / name)) for name in NAMES}
    for host in hosts.values():
        host.provision()
    return hosts


@pytest.fixture
def hosts(made: dict[str, Host], tmp_path: Path) -> dict[str, Host]:
    for name, host in made.items():
        shutil.copytree(host.layout.directory, tmp_path / name, symlinks=True)
    return {name: Host(describe(name), OrganisationLayout(tmp_path / name)) for name in NAMES}


@pytest.fixture
def members(hosts: dict[str, Host]) -> dict[str, MembershipFile]:
    """What goes from host to host: the public files' bytes."""
    return {name: MembershipFile.decode(host.layout.member.read_bytes()) for name, host in hosts.items()}


@pytest.fixture
def founding(members: dict[str, MembershipFile]) -> Founding:
    return Founding.assemble(TERMS, members.values())


def sign_all(hosts: dict[str, Host], founding: Founding) -> list[FoundingSignature]:
    return [host.sign(founding) for host in hosts.values()]


def test_every_host_makes_the_same_first_block_from_public_files(hosts: dict[str, Host], founding: Founding) -> None:
    signatures = sign_all(hosts, founding)
    for host in hosts.values():
        host.adopt(Founding.decode(founding.encode()), signatures)
    blocks = {host.layout.genesis.read_bytes() for host in hosts.values()}
    assert len(blocks) == 1
    config = verify_genesis_block(decode_block(blocks.pop()))
    assert sorted(config.msps) == ["CoordinatorMSP", "HospitalMSP", "RegulatorMSP", "UniversityMSP"]
    assert sorted(config.application_organisations) == sorted(NAMES)
    assert founding.consortium.committee == ("CoordinatorMSP", "RegulatorMSP", "UniversityMSP")


def test_another_word_of_the_terms_gives_another_first_block(
    members: dict[str, MembershipFile], founding: Founding
) -> None:
    digests = {founding.genesis_digest}
    for change in ({"threshold": 3}, {"founded_s": 1}, {"code_digest": "0" * 64}, {"network": "lungs"}):
        digests.add(Founding.assemble(TERMS.model_copy(update=change), members.values()).genesis_digest)
    assert len(digests) == 5


def test_the_order_in_which_files_are_named_makes_no_difference(
    members: dict[str, MembershipFile], founding: Founding
) -> None:
    assert Founding.assemble(TERMS, reversed(list(members.values()))) == founding


def test_nothing_secret_is_in_what_goes_from_host_to_host(hosts: dict[str, Host], founding: Founding) -> None:
    public = founding.encode() + b"".join(one.encode() for one in sign_all(hosts, founding))
    assert b"PRIVATE KEY" not in public
    for host in hosts.values():
        keys = [path for path in host.layout.directory.rglob("*") if path.name.endswith(("key.pem", "opening-key"))]
        assert len(keys) > 8
        for path in keys:
            assert path.read_bytes().splitlines()[1 if path.suffix else 0] not in public
            assert path.stat().st_mode & 0o077 == 0


def resign(host: Host, **changes: Any) -> MembershipFile:
    """A membership file that says something else, signed by the organisation's own administrator."""
    told = MembershipFile.decode(host.layout.member.read_bytes()).membership.model_copy(update=changes)
    return MembershipFile.sign(told, load_administrator(host.organisation, host.layout))


def told(host: Host) -> Any:
    return MembershipFile.decode(host.layout.member.read_bytes()).membership


LIES: dict[str, tuple[str, Callable[[dict[str, Host]], MembershipFile]]] = {
    "another's signing root": (
        r"not signed by an administrator of hospital: ",
        lambda hosts: resign(hosts["hospital"], signing_roots=told(hosts["regulator"]).signing_roots),
    ),
    "another's TLS root": (
        r"hospital: the ordering node's TLS certificate is not one of its TLS authority",
        lambda hosts: resign(hosts["hospital"], tls_roots=told(hosts["regulator"]).tls_roots),
    ),
    "an address that its certificate is not for": (
        r"others dial its ordering node as hospital\.example, and its TLS certificate is for .*127\.0\.0\.1",
        lambda hosts: resign(
            hosts["hospital"],
            orderer=told(hosts["hospital"]).orderer.model_copy(update={"address": "hospital.example:7050"}),
        ),
    ),
    "an ordering node with a peer's certificate": (
        r"hospital: the ordering node's certificate is one of a peer, expected an orderer's",
        lambda hosts: resign(
            hosts["hospital"],
            orderer=told(hosts["hospital"]).orderer.model_copy(
                update={"certificate": hosts["hospital"].layout.node("peer", "certificate.pem").read_text()}
            ),
        ),
    ),
    "a file that was changed after it was signed": (
        r"the membership file is not signed by an administrator of hospital: the signature .* does not verify",
        lambda hosts: MembershipFile.decode(hosts["hospital"].layout.member.read_bytes()).model_copy(
            update={"membership": told(hosts["hospital"]).model_copy(update={"peer": "127.0.0.1:9"})}
        ),
    ),
    "a signature of somebody who is no administrator": (
        r"signed for hospital by a certificate of a client, expected an admin's",
        lambda hosts: MembershipFile.decode(hosts["hospital"].layout.member.read_bytes()).model_copy(
            update={"administrator": hosts["hospital"].layout.user("agent", "certificate.pem").read_text()}
        ),
    ),
    "the address of somebody else": (
        r"hospital and regulator have the address 127\.0\.0\.1:18010 in common",
        lambda hosts: resign(hosts["hospital"], peer="127.0.0.1:18010"),
    ),
    "the name of somebody else": (
        r"(regulator and regulator) have the name regulator in common",
        lambda hosts: resign(hosts["hospital"], name="regulator"),
    ),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_a_membership_file_that_lies_is_refused_in_one_line(
    hosts: dict[str, Host], members: dict[str, MembershipFile], lie: str
) -> None:
    reason, make = LIES[lie]
    with pytest.raises(NetworkError, match=reason) as refused:
        Founding.assemble(TERMS, (members | {"hospital": make(hosts)}).values())
    assert len(str(refused.value).splitlines()) == 1


def test_a_second_name_for_one_key_is_refused(
    hosts: dict[str, Host], members: dict[str, MembershipFile], tmp_path: Path
) -> None:
    twin = Host(
        describe("hospital", name="clinic", msp_id="ClinicMSP", ports=Ports.from_base(19000)),
        OrganisationLayout(tmp_path / "clinic"),
    )
    shutil.copytree(hosts["hospital"].layout.directory / "authority", tmp_path / "clinic" / "authority")
    with pytest.raises(NetworkError, match=r"clinic and hospital have the key of a root [0-9a-f]{64} in common"):
        Founding.assemble(TERMS, [*members.values(), twin.provision()])


@pytest.mark.parametrize(
    ("terms", "left_out", "reason"),
    [
        ({}, ["hospital"], "no organisation has the role institution"),
        ({}, ["regulator", "university"], "threshold 2 of 1: a committee of two or more decides"),
        ({"threshold": 4}, [], "threshold 4 of 3"),
        ({}, ["coordinator"], "exactly one organisation is the coordinator"),
        ({}, ["university"], r"3 organisations .* BFT ordering needs at least 4 to tolerate one fault"),
    ],
)
def test_what_cannot_be_founded_is_refused_in_one_line(
    members: dict[str, MembershipFile], terms: dict[str, Any], left_out: list[str], reason: str
) -> None:
    with pytest.raises(NetworkError, match=reason) as refused:
        Founding.assemble(
            TERMS.model_copy(update=terms), [one for name, one in members.items() if name not in left_out]
        )
    assert len(str(refused.value).splitlines()) == 1


def test_three_ordering_nodes_do_for_raft(members: dict[str, MembershipFile]) -> None:
    left = [one for name, one in members.items() if name != "university"]
    founding = Founding.assemble(TERMS.model_copy(update={"consensus": "raft"}), left)
    assert verify_genesis_block(decode_block(founding.make_genesis())).consensus_type == "etcdraft"


def test_a_founding_file_without_everybodys_signature_is_not_adopted(
    hosts: dict[str, Host], founding: Founding
) -> None:
    signatures = [host.sign(founding) for name, host in hosts.items() if name not in ("hospital", "university")]
    with pytest.raises(NetworkError, match="the founding file is not signed by hospital, university"):
        hosts["regulator"].adopt(founding, signatures)
    assert not hosts["regulator"].layout.genesis.exists()


def test_terms_that_changed_after_a_signature_are_not_adopted(hosts: dict[str, Host], founding: Founding) -> None:
    signatures = sign_all(hosts, founding)
    other = founding.model_copy(update={"terms": TERMS.model_copy(update={"threshold": 3})})
    with pytest.raises(NetworkError, match=r"coordinator has signed another founding file .* changed after the sign"):
        hosts["regulator"].adopt(other, signatures)


def test_a_signature_is_the_founders_own(hosts: dict[str, Host], founding: Founding) -> None:
    others = [one for one in sign_all(hosts, founding) if one.organisation != "hospital"]
    forged = next(one for one in others if one.organisation == "regulator")
    forged = forged.model_copy(update={"organisation": "hospital"})
    with pytest.raises(NetworkError, match=r"the founding file is not signed by an administrator of hospital"):
        hosts["regulator"].adopt(founding, [*others, forged])
    stranger = forged.model_copy(update={"organisation": "clinic"})
    with pytest.raises(NetworkError, match="clinic is none of the founders"):
        hosts["regulator"].adopt(founding, [*others, stranger])


def test_a_host_signs_nothing_that_says_otherwise_of_itself(
    hosts: dict[str, Host], members: dict[str, MembershipFile]
) -> None:
    other = resign(hosts["hospital"], peer="127.0.0.1:9999")
    founding = Founding.assemble(TERMS, (members | {"hospital": other}).values())
    with pytest.raises(NetworkError, match=r"the founding file says of hospital another peer than .*member\.json"):
        hosts["hospital"].sign(founding)
    assert hosts["regulator"].sign(founding).organisation == "regulator"


def test_a_host_with_other_contract_code_does_not_adopt(
    hosts: dict[str, Host], members: dict[str, MembershipFile]
) -> None:
    founding = Founding.assemble(TERMS.model_copy(update={"code_digest": "ab" * 32}), members.values())
    with pytest.raises(NetworkError, match=r"about contract code abababababababab…, and here is .* same version"):
        hosts["regulator"].adopt(founding, sign_all(hosts, founding))


def test_a_directory_belongs_to_one_founding_for_good(hosts: dict[str, Host], founding: Founding) -> None:
    hosts["regulator"].adopt(founding, sign_all(hosts, founding))
    other = founding.model_copy(update={"terms": TERMS.model_copy(update={"founded_s": 7})})
    with pytest.raises(NetworkError, match=r"belongs to what was founded as .* name another directory"):
        hosts["regulator"].adopt(other, sign_all(hosts, other))


def test_what_was_interrupted_is_finished_by_the_next_time(hosts: dict[str, Host], founding: Founding) -> None:
    host, signatures = hosts["regulator"], sign_all(hosts, founding)
    host.adopt(founding, signatures)
    block = host.layout.genesis.read_bytes()
    host.layout.genesis.unlink()
    host.adopt(founding, signatures)
    assert host.layout.genesis.read_bytes() == block
    member = host.layout.member.read_bytes()
    host.layout.member.unlink()
    assert host.provision().membership == MembershipFile.decode(member).membership


def test_an_organisation_that_is_described_otherwise_needs_another_directory(hosts: dict[str, Host]) -> None:
    other = Host(describe("regulator", listen="0.0.0.0"), hosts["regulator"].layout)
    with pytest.raises(NetworkError, match="holds regulator with another listen than now"):
        other.provision()


def test_a_founding_file_is_read_with_the_signatures_beside_it(
    hosts: dict[str, Host], founding: Founding, tmp_path: Path
) -> None:
    path = tmp_path / "founding.json"
    path.write_bytes(founding.encode())
    for signature in sign_all(hosts, founding):
        signature_path(path, signature.organisation).write_bytes(signature.encode())
    read, signatures = load_founding(path)
    assert read == founding
    read.verify_signatures(signatures)
    path.write_bytes(founding.encode() + b"\n")
    with pytest.raises(NetworkError, match=r"expected a founding file as `blockfl network found` writes it: BFL301"):
        load_founding(path)


@pytest.mark.parametrize(
    ("settings", "peer", "listen"),
    [
        ({"host": "::1"}, "[::1]:18030", "::1"),
        ({"host": "0:0:0:0:0:0:0:1"}, "[::1]:18030", "::1"),
        ({"host": "peer.hospital.example"}, "peer.hospital.example:18030", "peer.hospital.example"),
        ({"host": "198.51.100.7", "listen": "10.0.0.7"}, "198.51.100.7:18030", "10.0.0.7"),
        ({"host": "10.0.0.7", "peer": "hospital.example:443"}, "hospital.example:443", "10.0.0.7"),
    ],
)
def test_others_dial_what_the_certificate_is_for(settings: dict[str, str], peer: str, listen: str) -> None:
    one = describe("hospital", **settings)
    assert (one.peer_address, one.listen_host) == (peer, listen)
    assert peer.rpartition(":")[0].strip("[]") in one.hosts
    assert one.contract_address.rpartition(":")[0] in ("127.0.0.1", "[::1]")


def write_founding(path: Path, founding: Founding, signatures: list[FoundingSignature]) -> None:
    path.write_bytes(founding.encode())
    for signature in signatures:
        signature_path(path, signature.organisation).write_bytes(signature.encode())


def test_one_founders_root_vouches_for_the_first_block(
    hosts: dict[str, Host], founding: Founding, tmp_path: Path
) -> None:
    path, root = tmp_path / "founding.json", hosts["hospital"].layout.signing_authority("certificate")
    write_founding(path, founding, sign_all(hosts, founding))
    assert founded_hash(path, root) == pinned_hash(founding.make_genesis())
    other = hosts["hospital"].layout.tls_authority("certificate")
    with pytest.raises(VerificationError, match="is the signing root of none of the founders: coordinator, "):
        founded_hash(path, other)
    signature_path(path, "regulator").unlink()
    with pytest.raises(VerificationError, match="is not signed by regulator"):
        founded_hash(path, root)


def test_a_founding_file_with_other_terms_is_no_root_of_trust(
    hosts: dict[str, Host], founding: Founding, tmp_path: Path
) -> None:
    path, root = tmp_path / "founding.json", hosts["hospital"].layout.signing_authority("certificate")
    other = founding.model_copy(update={"terms": TERMS.model_copy(update={"threshold": 3})})
    write_founding(path, other, sign_all(hosts, founding))
    with pytest.raises(VerificationError, match="changed after the signature"):
        founded_hash(path, root)


def test_a_channel_begins_on_ipv6_addresses_too(tmp_path: Path) -> None:
    hosts = [Host(describe(name, host="0:0:0:0:0:0:0:1"), OrganisationLayout(tmp_path / name)) for name in NAMES]
    founding = Founding.assemble(TERMS, [host.provision() for host in hosts])
    config = verify_genesis_block(decode_block(founding.make_genesis()))
    assert {one.host for one in config.consenters} == {"[::1]"}
    assert config.orderer_organisations["hospital"].endpoints == ("[::1]:18033",)
