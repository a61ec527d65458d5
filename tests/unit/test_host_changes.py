"""Members that join and leave from their own hosts: the channel's updates, the record of the members, who is absent."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blockfl.cli.main import app
from blockfl.contract.release import read_release
from blockfl.fabric.channel.block import decode_block
from blockfl.fabric.channel.config import Address, ChannelConfig
from blockfl.fabric.channel.update import preview_update, verify_update
from blockfl.fabric.errors import ConfigError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import create_private_key
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.administration import Administrator, describe_update
from blockfl.network.errors import NetworkError
from blockfl.network.founding import Founding, FoundingTerms, signature_path
from blockfl.network.host import Host
from blockfl.network.identities import write_file
from blockfl.network.layout import OrganisationLayout
from blockfl.network.local import LocalLauncher
from blockfl.network.member import MembershipFile
from blockfl.network.membership import describe_members, succeed
from blockfl.network.network import HostPart
from blockfl.network.ordering import count_tolerated, list_behind, require_quorum
from blockfl.network.organisation import Organisation, Ports
from blockfl.network.runtime import ProcessRuntime
from blockfl.network.snapshot import pack_snapshot, unpack_snapshot
from blockfl.protocol.records import Consortium, Role
from blockfl.protocol.records import Member as MemberRecord

ROLES: dict[str, list[Role]] = {
    "coordinator": ["committee", "coordinator"],
    "regulator": ["committee"],
    "university": ["committee"],
    "hospital": ["institution"],
}
MAJORITY = ("coordinator", "regulator", "university")


def make(directory: Path, name: str, roles: list[Role], number: int, *, orders: bool = True) -> Host:
    said = {"name": name, "roles": roles, "orderer": orders, "ports": Ports.from_base(18000 + 10 * number)}
    host = Host(Organisation.model_validate(said), OrganisationLayout(directory / name))
    host.provision()
    return host


class Founded:
    """Four founders, the file that they have signed with its signatures, and two who were not there."""

    def __init__(self, directory: Path, consensus: Any = "BFT") -> None:
        self.hosts = {name: make(directory, name, roles, number) for number, (name, roles) in enumerate(ROLES.items())}
        terms = FoundingTerms(
            network="heart",
            channel="federation",
            contract="blockfl",
            threshold=2,
            consensus=consensus,
            code_digest=read_release().record_digest,
            leader_timeout_s=20,
            founded_s=1_800_000_000,
        )
        self.founding = Founding.assemble(terms, map(read_member, self.hosts.values()))
        self.file = directory / "founding.json"
        write_file(self.file, self.founding.encode())
        signatures = [host.sign(self.founding) for host in self.hosts.values()]
        for one in signatures:
            write_file(signature_path(self.file, one.organisation), one.encode())
        for host in self.hosts.values():
            host.adopt(self.founding, signatures)
            host.agree(self.founding, host.load_consortium())
        self.config = ChannelConfig.from_block(decode_block(self.founding.make_genesis()))
        self.geneva = make(directory, "geneva", ["committee"], 4)
        self.lausanne = make(directory, "lausanne", ["institution"], 5, orders=False)

    def administrator(self, name: str) -> Administrator:
        return Administrator(ConnectionProfile.load(self.hosts[name].layout.profile("admin")))

    def apply(self, config: ChannelConfig, update: bytes, signers: tuple[str, ...]) -> ChannelConfig:
        verify_update(config, update, [self.administrator(name).sign(update) for name in signers])
        return preview_update(config, update)

    def record(self, directory: Path, record: Consortium, name: str = "next.json") -> Path:
        path = directory / name
        write_file(path, record.encode())
        return path


def read_member(host: Host) -> MembershipFile:
    return MembershipFile.decode(host.layout.member.read_bytes())


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    return Founded(tmp_path_factory.mktemp("founded"))


def test_a_newcomer_with_an_ordering_node_takes_another_ones_place(founded: Founded) -> None:
    coordinator, membership = founded.administrator("coordinator"), read_member(founded.geneva).membership
    update = coordinator.add(founded.config, membership)
    with pytest.raises(ConfigError, match="the signatures of coordinator, regulator do not satisfy"):
        founded.apply(founded.config, update, MAJORITY[:2])
    grown = founded.apply(founded.config, update, MAJORITY)
    assert [one.msp_id for one in grown.consenters] == [*sorted(ROLES), "geneva"]
    assert grown.consenters[-1].id not in {one.id for one in founded.config.consenters}
    assert grown.orderer_organisations["geneva"].endpoints == (membership.orderer and membership.orderer.address,)
    assert any("geneva joins" in line for line in describe_update(founded.config, update))

    left = founded.apply(grown, coordinator.remove(grown, "regulator"), MAJORITY)
    assert [one.msp_id for one in left.consenters] == ["coordinator", "hospital", "university", "geneva"]
    assert "regulator" not in {*left.application_organisations, *left.orderer_organisations}


def test_an_institution_joins_without_touching_the_ordering_nodes(founded: Founded) -> None:
    update = founded.administrator("hospital").add(founded.config, read_member(founded.lausanne).membership)
    grown = founded.apply(founded.config, update, ("coordinator", "hospital", "university"))
    assert grown.consenters == founded.config.consenters
    assert "lausanne" in grown.application_organisations
    assert "lausanne" not in grown.orderer_organisations


def test_too_few_ordering_nodes_are_not_left(founded: Founded) -> None:
    reason = (
        "regulator runs an ordering node, and the 3 left would not do: expected at least 4.*let another organisation"
    )
    with pytest.raises(ConfigError, match=reason):
        founded.administrator("coordinator").remove(founded.config, "regulator")


def test_raft_may_shrink_and_who_signs_is_warned(tmp_path: Path) -> None:
    founded = Founded(tmp_path, "raft")
    coordinator = founded.administrator("coordinator")
    three = founded.apply(founded.config, coordinator.remove(founded.config, "hospital"), MAJORITY)
    assert len(three.consenters) == 3
    lines = describe_update(three, coordinator.remove(three, "regulator"))
    assert lines[-1].startswith("warning: of 2 ordering nodes none may be absent, of the 3 before 1")
    assert not any(
        "warning" in line for line in describe_update(founded.config, coordinator.remove(founded.config, "hospital"))
    )


@pytest.mark.parametrize(
    ("consensus", "nodes", "tolerated"),
    [("BFT", 4, 1), ("BFT", 6, 1), ("BFT", 7, 2), ("etcdraft", 4, 1), ("etcdraft", 5, 2)],
)
def test_how_many_may_be_absent(consensus: str, nodes: int, tolerated: int) -> None:
    assert count_tolerated(consensus, nodes) == tolerated


def test_ordering_never_waits_for_a_beginning_node_and_a_silent_one_at_once(founded: Founded) -> None:
    wanted = preview_update(
        founded.config, founded.administrator("coordinator").add(founded.config, read_member(founded.geneva).membership)
    )
    addresses = [f"{one.host}:{one.port}" for one in wanted.consenters]
    require_quorum(founded.config, wanted, [])
    with pytest.raises(
        ConfigError, match=rf"{addresses[0]} does not answer, or is far behind: with {addresses[-1]}, which begins"
    ):
        require_quorum(founded.config, wanted, addresses[:1])
    # Where no ordering node begins, nobody has to answer.
    require_quorum(founded.config, founded.config, addresses)


def test_a_node_that_answers_and_stays_far_behind_counts_as_absent() -> None:
    assert list_behind({"a": 344, "b": 345, "c": 330, "d": 105, "e": 0}) == ["d", "e"]
    assert list_behind({}) == []


def test_a_silent_node_may_be_the_one_that_gets_other_keys(founded: Founded) -> None:
    place = founded.hosts["hospital"].layout
    authority = Authority.from_pem(
        place.tls_authority("certificate").read_bytes(), place.tls_authority("key").read_bytes()
    )
    other = authority.issue(
        create_private_key().public_key(), common_name="again", unit=None, hosts=["127.0.0.1"], tls=True
    )
    consenter = next(one for one in founded.config.consenters if one.msp_id == "hospital")
    address = f"{consenter.host}:{consenter.port}"
    wanted = preview_update(
        founded.config,
        founded.administrator("hospital").renew_consenter(
            founded.config,
            Address(host=consenter.host, port=consenter.port),
            place.node("orderer", "certificate.pem").read_bytes(),
            other,
        ),
    )
    require_quorum(founded.config, wanted, [address])
    with pytest.raises(ConfigError, match="would be absent that may be"):
        require_quorum(founded.config, wanted, [address, f"{wanted.consenters[0].host}:{wanted.consenters[0].port}"])


# The record of the members


def members(*names: str, **roles: tuple[Role, ...]) -> list[MemberRecord]:
    return [MemberRecord(organisation=name, roles=roles.get(name, ("institution",))) for name in names]


def test_the_next_record_says_who_joins_and_who_leaves(founded: Founded) -> None:
    former = founded.founding.consortium
    record = succeed(former, members("geneva", "lausanne", geneva=("committee",)), ["regulator"])
    assert (record.sequence, record.committee) == (2, ("coordinator", "geneva", "university"))
    assert describe_members(former, record) == [
        "geneva joins: committee",
        "lausanne joins: institution",
        "regulator leaves (committee)",
    ]
    wider = succeed(former, members("geneva", geneva=("committee",)), threshold=3)
    assert describe_members(former, wider)[-1] == "3 of 4 committee members judge, before 2"


def terms(*options: str) -> Any:
    return CliRunner().invoke(app, ["network", "terms", *options])


def test_terms_after_a_record_writes_the_next_one(founded: Founded, tmp_path: Path) -> None:
    before = str(founded.hosts["hospital"].layout.consortium)
    path = tmp_path / "next.json"
    result = terms("--after", before, "--member", "lausanne=institution", "-o", str(path))
    assert result.exit_code == 0, result.output
    assert "lausanne joins: institution" in result.output
    record = Consortium.decode(path.read_bytes())
    assert (record.sequence, record.network, record.threshold) == (2, "heart", 2)
    for options, reason in (
        (["--member", "geneva=committee"], "threshold 2 of 4: a committee"),
        (["--remove", "nobody"], "nobody is no member; its members are coordinator"),
        (["--remove", "coordinator"], "threshold 2 of 2|exactly one organisation is the coordinator"),
        ([], "nothing would change"),
    ):
        other = terms("--after", before, *options, "-o", str(tmp_path / "other.json"))
        assert isinstance(other.exception, NetworkError)
        with pytest.raises(NetworkError, match=reason):
            raise other.exception
    assert not (tmp_path / "other.json").exists()


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No process is started; what would have been brought up is told."""
    brought: list[str] = []
    monkeypatch.setattr(LocalLauncher, "require", lambda _: None)
    monkeypatch.setattr(ProcessRuntime, "up", lambda self, *_: brought.append(self._hosts[0].name))
    return brought


def test_a_newcomer_takes_the_founding_file_and_the_record_that_it_is_in(
    founded: Founded, tmp_path: Path, quiet: list[str]
) -> None:
    lausanne = HostPart.open(founded.lausanne.layout.directory)
    with pytest.raises(NetworkError, match=r"lausanne is none of the founders .*--consortium FILE"):
        lausanne.up(print, founding=founded.file)
    record = succeed(founded.founding.consortium, members("lausanne"))
    said: list[str] = []
    lausanne.up(said.append, founding=founded.file, consortium=founded.record(tmp_path, record))
    assert quiet == ["lausanne"]
    assert "members: lausanne joins: institution" in said
    place = founded.lausanne.layout
    assert place.genesis.read_bytes() == founded.founding.make_genesis()
    assert Consortium.decode(place.consortium.read_bytes()) == record
    assert ConnectionProfile.load(place.profile("agent")).organisation == "lausanne"
    # Once more, with nothing named, continues.
    HostPart.open(place.directory).up(said.append)
    assert quiet == ["lausanne"] * 2
    # The founders' signatures are what it trusts.
    signature_path(founded.file, "regulator").rename(tmp_path / "kept")
    try:
        with pytest.raises(NetworkError, match="not signed by regulator"):
            HostPart.open(founded.geneva.layout.directory).up(
                print, founding=founded.file, consortium=founded.record(tmp_path, record)
            )
    finally:
        (tmp_path / "kept").rename(signature_path(founded.file, "regulator"))


def test_a_record_that_does_not_follow_or_has_the_organisation_otherwise_is_refused(
    founded: Founded, tmp_path: Path, quiet: list[str]
) -> None:
    former = founded.founding.consortium
    hospital = HostPart.open(founded.hosts["hospital"].layout.directory)
    before = founded.hosts["hospital"].layout.consortium.read_bytes()
    number = itertools.count()
    for record, reason in (
        (
            former.model_copy(update={"network": "lungs"}),
            "the record is of another network, lungs, than this one, heart",
        ),
        (
            former.model_copy(update={"threshold": 3}),
            "expected a record that comes after the present one, of sequence 1",
        ),
        (succeed(former, members("lausanne"), ["hospital"]), "hospital is no member in this record"),
    ):
        with pytest.raises(NetworkError, match=reason):
            hospital.up(print, consortium=founded.record(tmp_path, record, f"{next(number)}.json"))
        assert founded.hosts["hospital"].layout.consortium.read_bytes() == before
    assert quiet == []
    hospital.up(print, consortium=founded.record(tmp_path, succeed(former, members("lausanne"))))
    assert Consortium.decode(founded.hosts["hospital"].layout.consortium.read_bytes()).sequence == 2
    write_file(founded.hosts["hospital"].layout.consortium, before)


def test_an_organisation_takes_the_roles_that_the_next_record_gives_it(
    founded: Founded, tmp_path: Path, quiet: list[str]
) -> None:
    former = founded.founding.consortium
    layout = founded.hosts["hospital"].layout
    kept = {path: path.read_bytes() for path in (layout.host, layout.member, layout.consortium)}
    keys = {path: path.read_bytes() for path in layout.directory.rglob("*key*.pem")}
    assert not layout.opening_key.exists()
    record = succeed(former, members("hospital", hospital=("committee", "institution")), threshold=3)
    said: list[str] = []
    HostPart.open(layout.directory).up(said.append, consortium=founded.record(tmp_path, record))
    assert "hospital becomes committee, institution" in said
    host = Host.open(layout.directory)
    member = read_member(host)
    assert host.organisation.roles == ["committee", "institution"]
    assert member.membership.opening_key is not None
    assert layout.opening_key.stat().st_mode & 0o077 == 0
    assert host.load_consortium() == record
    assert {path: path.read_bytes() for path in keys} == keys, "no other key changes"
    assert json.loads(layout.profile("agent").read_bytes())["opening_key"] == "../opening-key"
    said.clear()
    HostPart.open(layout.directory).up(said.append)
    assert not any("becomes" in line for line in said)
    # And back again; the opening key stays, for updates that were sealed to it.
    back = succeed(record, members("hospital", hospital=("institution",)), threshold=2)
    HostPart.open(layout.directory).up(said.append, consortium=founded.record(tmp_path, back, "back.json"))
    assert Host.open(layout.directory).organisation.roles == ["institution"]
    assert layout.opening_key.exists()
    assert quiet != []
    for path, content in kept.items():
        write_file(path, content)
    layout.opening_key.unlink()


def test_roles_that_an_earlier_record_gives_are_refused_before_anything_changes(
    founded: Founded, tmp_path: Path
) -> None:
    former = founded.founding.consortium
    layout = founded.hosts["hospital"].layout
    before = {path: path.read_bytes() for path in layout.directory.rglob("*") if path.is_file() and path.name != "lock"}
    changed = succeed(former, members("hospital", hospital=("committee",)), threshold=3)
    record = changed.model_copy(update={"sequence": 1})
    with pytest.raises(NetworkError, match="expected a record that comes after the present one"):
        HostPart.open(layout.directory).up(print, consortium=founded.record(tmp_path, record))
    after = {path: path.read_bytes() for path in layout.directory.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before


# A snapshot for a peer that joins


def write_snapshot(directory: Path, **files: bytes) -> str:
    """Write one as a peer does; return its digest."""
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    signable = json.dumps({"channel_name": "federation", "last_block_number": 7, "snapshot_files_raw_hashes": hashes})
    (directory / "_snapshot_signable_metadata.json").write_text(signable)
    digest = hashlib.sha256(signable.encode()).hexdigest()
    (directory / "_snapshot_additional_metadata.json").write_text(json.dumps({"snapshot_hash": digest}))
    return digest


def test_a_snapshot_goes_from_one_host_to_another_and_damage_is_named(founded: Founded, tmp_path: Path) -> None:
    files = {"txids.data": b"ids", "public_state.data": b"state" * 1000}
    digest = write_snapshot(tmp_path / "completed" / "7", **files)
    archive = tmp_path / "snapshot.tar.gz"
    assert pack_snapshot(tmp_path / "completed" / "7", archive) == digest
    with pytest.raises(NetworkError, match="is there already"):
        pack_snapshot(tmp_path / "completed" / "7", archive)
    place = OrganisationLayout(tmp_path / "oslo")
    write_file(place.genesis, founded.founding.make_genesis())
    # Half a snapshot from before is no obstacle, and the command may be said again.
    (place.snapshot.with_name("joined.partial")).mkdir(parents=True)
    with pytest.raises(NetworkError, match="holds the ledger of another channel"):
        unpack_snapshot(archive, place)
    shutil.rmtree(place.data("peer"))
    assert unpack_snapshot(archive, place) == unpack_snapshot(archive, place) == digest
    assert (place.snapshot / "public_state.data").read_bytes() == files["public_state.data"]
    (place.snapshot / "txids.data").write_bytes(b"other")
    with pytest.raises(NetworkError, match=r"txids\.data is not as the snapshot says"):
        unpack_snapshot(archive, place)
    shutil.rmtree(place.snapshot)
    (place.data("peer") / "ledger").mkdir()
    with pytest.raises(NetworkError, match="a snapshot is for a peer that has none"):
        unpack_snapshot(archive, place)


def test_a_file_that_is_no_snapshot_is_refused(founded: Founded, tmp_path: Path) -> None:
    place = OrganisationLayout(tmp_path / "oslo")
    write_file(place.genesis, founded.founding.make_genesis())
    archive = tmp_path / "other.tar.gz"
    archive.write_bytes(b"nothing of the kind")
    with pytest.raises(NetworkError, match="is no snapshot, or damaged"):
        unpack_snapshot(archive, place)
    with tarfile.open(tmp_path / "climbing.tar.gz", "w:gz") as file:
        entry = tarfile.TarInfo("../outside")
        entry.size = 2
        file.addfile(entry, io.BytesIO(b"no"))
    with pytest.raises(NetworkError, match="is nothing that a snapshot holds"):
        unpack_snapshot(tmp_path / "climbing.tar.gz", place)
    assert not place.snapshot.exists()
    assert not (place.data("peer") / "snapshots" / "outside").exists()
