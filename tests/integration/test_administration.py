"""`blockfl network config`: administrators look at the channel's configuration and change it, by files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from blockfl.cli.main import app
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import Signer, create_private_key, private_key_pem
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.administration import load_authority
from blockfl.network.errors import NetworkError
from blockfl.network.layout import Layout, OrganisationLayout
from blockfl.network.network import Network
from blockfl.protocol import catalogue
from support.small_network import ORGANISATIONS, small_network

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> Iterator[Layout]:
    directory = tmp_path_factory.mktemp("administration") / "network"
    with small_network(directory, ledger_kind):  # type: ignore[arg-type]
        yield Layout(directory)


def config(layout: Layout, organisation: str, *arguments: str | Path) -> str:
    """What a command of an organisation's administrator prints."""
    profile = layout.organisation(organisation).profile("admin")
    result = CliRunner().invoke(app, ["network", "config", *map(str, arguments), "--profile", str(profile)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def shown(layout: Layout, organisation: str = "coordinator") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(config(layout, organisation, "show", "--json"))
    return content


def describe_newcomer(tmp_path: Path, name: str) -> Path:
    """The membership file of an organisation that is to join, as its own host makes it."""
    options = ("--role", "institution", "--base-port", "9999", "--directory", str(tmp_path / name))
    assert CliRunner().invoke(app, ["network", "member", name, *options]).exit_code == 0
    return OrganisationLayout(tmp_path / name).member


def issue(place: OrganisationLayout, name: str) -> tuple[Path, ConnectionProfile]:
    """Another client of an organisation: its certificate's file and its profile."""
    authority = load_authority(place.signing_authority("certificate"), place.signing_authority("key"))
    key = create_private_key()
    files = place.user(name, "certificate.pem"), place.user(name, "key.pem")
    files[0].parent.mkdir(parents=True)
    files[0].write_bytes(authority.issue(key.public_key(), common_name=name, unit="client"))
    files[1].write_bytes(private_key_pem(key))
    profile = ConnectionProfile.load(place.profile("agent"))
    return files[0], profile.model_copy(update={"certificate": str(files[0]), "private_key": str(files[1])})


async def read_network(profile: ConnectionProfile) -> str:
    async with Ledger(profile) as ledger:
        return (await ledger.read(catalogue.CONSORTIUM.key())).network


def test_the_configuration_is_shown_with_members_and_ordering_nodes(layout: Layout, ledger_kind: str) -> None:
    content = shown(layout)
    assert content["consensus"] == ("etcdraft" if ledger_kind == "embedded" else "BFT")
    assert [row["organisation"] for row in content["organisations"]] == sorted(ORGANISATIONS)
    ordering = [row["organisation"] for row in content["organisations"] if row["ordering_nodes"]]
    assert ordering == (["coordinator"] if ledger_kind == "embedded" else sorted(ORGANISATIONS))
    assert "coordinator" in config(layout, "hospital", "show")


def test_an_organisation_joins_when_enough_have_signed_and_leaves_again(layout: Layout, tmp_path: Path) -> None:
    before = shown(layout)["sequence"]
    update = tmp_path / "join.update"
    membership = describe_newcomer(tmp_path, "clinic")
    said = config(layout, "coordinator", "add", membership, "--output", update)
    assert "the organisation clinic joins (peers): authority " in said
    for name in ("coordinator", "university"):
        assert config(layout, name, "sign", update, "--yes") == said
    assert "signed by: coordinator, university" in config(layout, "hospital", "inspect", update)
    with pytest.raises(FabricError, match=r"the signatures of coordinator, university do not satisfy 'Admins'"):
        config(layout, "coordinator", "submit", update)
    config(layout, "hospital", "sign", update, "--yes")
    # Whoever has the signatures submits, be it one that has not signed.
    config(layout, "regulator", "submit", update)
    content = shown(layout, "regulator")
    assert content["sequence"] == before + 1
    clinic = next(row for row in content["organisations"] if row["organisation"] == "clinic")
    assert clinic == {"organisation": "clinic", "peers": ["127.0.0.1:9999"], "ordering_nodes": None, "revoked": []}
    with pytest.raises(FabricError, match="either the update is part of it already"):
        config(layout, "regulator", "submit", update)
    with pytest.raises(FabricError, match="an organisation that is not on the channel yet"):
        config(layout, "regulator", "add", membership, "--output", tmp_path / "again.update")
    leave = tmp_path / "leave.update"
    assert "the organisation clinic leaves (peers)" in config(layout, "hospital", "remove", "clinic", "-o", leave)
    # Of five members, three; the files of the other update's signatures do not count.
    for name in ORGANISATIONS[:3]:
        config(layout, name, "sign", leave, "--yes")
    config(layout, "hospital", "submit", leave)
    assert shown(layout, "hospital")["sequence"] == before + 2


async def test_a_revoked_certificate_is_refused_and_stays_so_when_another_follows(
    layout: Layout, tmp_path: Path
) -> None:
    place = layout.organisation("hospital")
    first, thief = issue(place, "thief")
    second, careless = issue(place, "careless")
    assert await read_network(thief) == "small"
    for certificate, client in ((first, thief), (second, careless)):
        update = tmp_path / f"{client.certificate.split('/')[-2]}.update"
        serial = Signer.load("hospital", certificate, Path(client.private_key)).identity.certificate.serial_number
        assert await read_network(client) == "small"
        said = await run(config, layout, "hospital", "revoke", certificate, "--output", update)
        assert said == f"hospital revokes the certificate with serial number {serial:x}\n"
        # Its own administrator's signature is enough, and nobody else's is.
        await run(config, layout, "regulator", "sign", update, "--yes")
        with pytest.raises(FabricError, match="the signatures of regulator do not satisfy"):
            await run(config, layout, "hospital", "submit", update)
        await run(config, layout, "hospital", "sign", update, "--yes")
        await run(config, layout, "hospital", "submit", update, f"{update}.hospital.signature")
        with pytest.raises(LedgerError, match="access denied"):
            await read_network(client)
    with pytest.raises(LedgerError, match="access denied"):
        await read_network(thief)
    row = next(row for row in (await run(shown, layout, "hospital"))["organisations"] if row["revoked"])
    assert (row["organisation"], len(row["revoked"])) == ("hospital", 2)
    assert await read_network(ConnectionProfile.load(place.profile("agent"))) == "small"


async def test_an_agent_whose_certificate_was_revoked_gets_a_new_one(layout: Layout, tmp_path: Path) -> None:
    place = layout.organisation("regulator")
    agent = ConnectionProfile.load(place.profile("agent"))
    former = Path(agent.certificate).read_bytes()
    update = tmp_path / "agent.update"
    await run(config, layout, "regulator", "revoke", agent.certificate, "--output", update)
    await run(config, layout, "regulator", "sign", update, "--yes")
    await run(config, layout, "regulator", "submit", update)
    with pytest.raises(LedgerError, match="access denied"):
        await read_network(agent)
    for name in ("certificate.pem", "key.pem"):
        place.user("agent", name).unlink()
    await run(Network.open(layout.directory).up, lambda _: None)
    assert Path(agent.certificate).read_bytes() != former
    assert await read_network(ConnectionProfile.load(place.profile("agent"))) == "small"


def test_what_cannot_be_proposed_or_signed_is_refused_with_what_to_do(layout: Layout, tmp_path: Path) -> None:
    update = tmp_path / "some.update"
    with pytest.raises(FabricError, match="expected one of several organisations"):
        config(layout, "hospital", "remove", "nobody", "--output", update)
    if shown(layout)["consensus"] == "BFT":
        with pytest.raises(FabricError, match="regulator runs an ordering node"):
            config(layout, "hospital", "remove", "regulator", "--output", update)
    foreign = layout.organisation("regulator").user("agent", "certificate.pem")
    with pytest.raises(FabricError, match="ask that authority to revoke it"):
        config(layout, "hospital", "revoke", foreign, "--output", update)
    with pytest.raises(NetworkError, match=r"signing-certificate\.pem: cannot be read .* or its own list: --list"):
        config(layout, "hospital", "revoke", foreign, "--authority", tmp_path, "--output", update)
    with pytest.raises(AssertionError, match="name certificates, or a revocation list"):
        config(layout, "hospital", "revoke", "--output", update)
    with pytest.raises(NetworkError, match="cannot be read"):
        config(layout, "hospital", "sign", update)
    assert not update.exists()
    update.write_bytes(b"nonsense")
    with pytest.raises(FabricError, match="expected a configuration update"):
        config(layout, "hospital", "sign", update, "--yes")
    with pytest.raises(NetworkError, match="exists already; name another file"):
        config(layout, "hospital", "add", describe_newcomer(tmp_path, "omega"), "--output", update)
    other = tmp_path / "other.update"
    config(layout, "hospital", "add", OrganisationLayout(tmp_path / "omega").member, "--output", other)
    config(layout, "hospital", "sign", other, "--yes")
    signature = tmp_path / "other.update.hospital.signature"
    third = tmp_path / "third.update"
    third_membership = tmp_path / "third"
    third_membership.mkdir()
    config(layout, "hospital", "add", describe_newcomer(third_membership, "psi"), "--output", third)
    with pytest.raises(FabricError, match="expected a signature over this configuration update"):
        config(layout, "hospital", "submit", third, signature)


def test_a_signature_is_asked_for(layout: Layout, tmp_path: Path) -> None:
    update = tmp_path / "asked.update"
    config(layout, "hospital", "add", describe_newcomer(tmp_path, "omega"), "--output", update)
    profile = str(layout.organisation("hospital").profile("admin"))
    command = ["network", "config", "sign", str(update), "--profile", profile]
    refused = CliRunner().invoke(app, command, input="n\n")
    assert refused.exit_code == 1
    assert "the organisation omega joins" in refused.output
    assert not list(tmp_path.glob("*.signature"))
    assert CliRunner().invoke(app, command, input="y\n").exit_code == 0
    assert [path.name for path in tmp_path.glob("*.signature")] == ["asked.update.hospital.signature"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "membership: Field required"),
        ("nonsense", "Invalid JSON"),
        ('{"membership": {"name": "Omega"}}', "membership.name"),
    ],
)
def test_a_membership_that_is_none_is_refused_with_the_field(
    layout: Layout, tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / "omega.json"
    path.write_text(content)
    with pytest.raises(NetworkError, match=reason) as refused:
        config(layout, "hospital", "add", path, "--output", tmp_path / "update")
    assert "expected a membership file as `blockfl network member` writes it" in str(refused.value)


async def run(function: Any, *arguments: Any) -> Any:
    """Run a command's own event loop beside the test's."""
    return await asyncio.to_thread(function, *arguments)


def check(layout: Layout, *options: str) -> tuple[int, list[dict[str, Any]]]:
    profile = layout.organisation("coordinator").profile("admin")
    result = CliRunner().invoke(app, ["network", "check", "--json", "--profile", str(profile), *options])
    return result.exit_code, json.loads(result.stdout)


def test_the_check_finds_nothing_on_a_network_of_ours_and_names_a_member_that_is_missing(
    layout: Layout, tmp_path: Path
) -> None:
    assert check(layout) == (0, [])
    described = yaml.safe_load(layout.description.read_text())
    described["organisations"].append({"name": "newcomer", "roles": ["institution"]})
    longer = tmp_path / "consortium.yaml"
    longer.write_text(yaml.safe_dump(described))
    code, misfits = check(layout, "--consortium", str(longer))
    assert code == 1
    assert "organisations of the channel" in {one["what"] for one in misfits}
