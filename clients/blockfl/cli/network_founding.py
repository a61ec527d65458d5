"""``blockfl network member``, ``found``, ``inspect``, ``sign``: a network founded by hosts that share no secrets."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from blockfl.cli import option
from blockfl.cli.number import make_limits, whole_option
from blockfl.cli.output import Output
from blockfl.contract.release import read_release
from blockfl.network.errors import NetworkError
from blockfl.network.founding import (
    FAR_LEADER_TIMEOUT_S,
    LEADER_TIMEOUTS_S,
    Consensus,
    Founding,
    FoundingSignature,
    FoundingTerms,
    load_founding,
    load_member,
    signature_path,
)
from blockfl.network.host import Host
from blockfl.network.identities import write_file
from blockfl.network.layout import OrganisationLayout
from blockfl.network.member import MembershipFile, group
from blockfl.network.organisation import LOOPBACK, Organisation, Ports
from blockfl.protocol.records import Consortium

HostDirectory = Annotated[
    Path, typer.Option("--directory", "-d", envvar="BLOCKFL_NETWORK", help="The organisation's own directory.")
]


def member(
    name: Annotated[str, typer.Argument(help="The organisation, as files and people call it.")],
    directory: HostDirectory,
    role: Annotated[list[str], typer.Option(help="coordinator, committee, institution; several times for several.")],
    orderer: Annotated[bool, typer.Option("--orderer", help="It runs an ordering node.")] = False,
    msp_id: Annotated[str, typer.Option(help="What the ledger calls it; default: the name.")] = "",
    host: Annotated[str, typer.Option(help="Name or address by which others reach it.")] = LOOPBACK,
    listen: Annotated[str, typer.Option(help="Address to listen on; default: the host.")] = "",
    base_port: Annotated[int, whole_option(make_limits(1024, 65_529), help="First of its ten ports.")] = 17050,
    peer: Annotated[str, typer.Option("--peer-address", help="host:port that others dial, behind port mapping.")] = "",
    ordering_node: Annotated[str, typer.Option("--orderer-address", help="Likewise for its ordering node.")] = "",
    guard: Annotated[
        bool, typer.Option("--guard", help="A guard before its ordering node refuses what would stop peers.")
    ] = False,
    guard_node: Annotated[
        str, typer.Option("--guard-address", help="host:port that others dial for it, behind port mapping.")
    ] = "",
    no_peer: Annotated[
        bool, typer.Option("--no-peer", help="It runs no peer and opens no port; of institutions only.")
    ] = False,
    gateway: Annotated[
        list[str] | None,
        typer.Option(help="Without a peer: an organisation whose gateway it uses; two or more, the first one first."),
    ] = None,
    json: option.Json = False,
) -> None:
    """Make an organisation's keys on its own host, and the membership file that the others need."""
    if bool(gateway) != no_peer:
        raise NetworkError(
            "--no-peer and --gateway belong together: an institution without a peer uses the gateways of two or more "
            "other organisations"
        )
    said = {
        "name": name,
        "msp_id": msp_id or name,
        "roles": sorted(set(role)),
        "orderer": orderer,
        "host": host,
        "listen": listen,
        "peer": peer,
        "ordering_node": ordering_node,
        "guard": guard,
        "guard_node": guard_node,
        "gateways": gateway or [],
        "ports": Ports.from_base(base_port),
    }
    try:
        organisation = Organisation.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise NetworkError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error
    made = Host(organisation, OrganisationLayout(directory)).provision()
    output = Output(as_json=json)
    _print_member(made, output)
    output.progress(f"for the others, nothing is secret: {OrganisationLayout(directory).member}")


def found(
    members: Annotated[list[Path], typer.Argument(help="The membership files of all founders.")],
    network: Annotated[str, typer.Option(help="Name of the network; part of everything that is signed.")],
    output_file: Annotated[Path, typer.Option("--output", "-o", help="The founding file.")] = Path("founding.json"),
    channel: Annotated[str, typer.Option(help="The channel.")] = "federation",
    contract: Annotated[str, typer.Option(help="The contract.")] = "blockfl",
    threshold: Annotated[
        int, whole_option(make_limits(2, 1000), help="Committee members that must agree on a verdict.")
    ] = 2,
    consensus: Annotated[Consensus, typer.Option(help="Of the ordering nodes.")] = "BFT",
    leader_timeout: Annotated[
        int,
        whole_option(make_limits(*LEADER_TIMEOUTS_S), help="Seconds of silence after which BFT replaces its leader."),
    ] = FAR_LEADER_TIMEOUT_S,
    json: option.Json = False,
) -> None:
    """Put the membership files and the terms together, for every founder to look at and to sign."""
    try:
        terms = FoundingTerms(
            network=network,
            channel=channel,
            contract=contract,
            threshold=threshold,
            consensus=consensus,
            leader_timeout_s=leader_timeout,
            code_digest=read_release().record_digest,
            founded_s=int(time.time()),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise NetworkError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    founding = Founding.assemble(terms, [load_member(path) for path in members])
    if output_file.exists():
        raise NetworkError(f"{output_file} exists already; name another file, or remove it")
    write_file(output_file, founding.encode())
    output = Output(as_json=json)
    _print_founding(founding, [], output)
    output.progress(f"for every founder to sign: blockfl network sign {output_file} -d DIRECTORY")


def inspect(
    file: Annotated[Path, typer.Argument(help="A membership file or a founding file.")], json: option.Json = False
) -> None:
    """Say what a file means, with the fingerprints that people read out to each other, and who has signed it."""
    output = Output(as_json=json)
    if _kind(file) == "member":
        _print_member(load_member(file), output)
        return
    founding, signatures = load_founding(file)
    founding.verify()
    for signature in signatures:
        signature.verify(founding)
    _print_founding(founding, signatures, output)


def sign(
    file: Annotated[Path, typer.Argument(help="The founding file.")],
    directory: HostDirectory,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Sign a founding file as the organisation's administrator, into a file beside it."""
    host, output = Host.open(directory), Output(as_json=False)
    founding, _ = load_founding(file)
    signature = host.sign(founding)
    _print_founding(founding, [], output)
    if not yes:
        typer.confirm(f"Sign this as {host.name}?", abort=True)
    target = signature_path(file, host.name)
    write_file(target, signature.encode())
    output.progress(f"signed: {target}")


def _kind(path: Path) -> Literal["member", "founding"]:
    try:
        return "member" if path.read_bytes().startswith(b'{"administrator"') else "founding"
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror})") from error


def _print_member(one: MembershipFile, output: Output) -> None:
    told = one.membership
    content = {
        "organisation": told.name,
        "msp_id": told.msp_id,
        "roles": list(told.roles),
        "peer": told.peer,
        "ordering_node": told.orderer.address if told.orderer else None,
        "guard": told.orderer.guard if told.orderer else None,
        "fingerprints": one.fingerprints(),
    }
    output.result(content)
    output.line(f"{told.name} (MSP id {told.msp_id}): {', '.join(told.roles)}")
    peer = f"peer {told.peer}" if told.peer else "no peer: it uses the gateways of others, and endorses nothing"
    ordering = f", ordering node {told.orderer.address}" if told.orderer else ""
    guard = f", guard before it {told.orderer.guard}" if told.orderer and told.orderer.guard else ""
    output.line(f"  {peer}{ordering}{guard}")
    for what, fingerprint in one.fingerprints().items():
        output.line(f"  {what} {fingerprint}")


def _print_founding(founding: Founding, signatures: list[FoundingSignature], output: Output) -> None:
    terms, signed = founding.terms, sorted(one.organisation for one in signatures)
    digests = {
        "founding_file": founding.record_digest,
        "first_block": founding.genesis_digest,
        "contract_code": terms.code_digest,
    }
    if output.as_json:
        members = [
            {"organisation": one.name, "msp_id": one.msp_id, "roles": list(one.roles)} for one in founding.memberships
        ]
        output.result({**terms.model_dump(), **digests, "members": members, "signed": signed})
        return
    committee, consortium = founding.consortium.committee, founding.consortium
    ordering = [one.name for one in founding.memberships if one.orderer]
    output.line(f"network {terms.network}, channel {terms.channel}, contract {terms.contract}")
    output.line(f"  {terms.threshold} of {len(committee)} committee members judge: {', '.join(committee)}")
    _print_majorities(consortium, output)
    output.line(f"  {terms.consensus} ordering by {len(ordering)} nodes: {', '.join(ordering)}")
    if terms.consensus == "BFT":
        output.line(f"  ordering nodes replace a leader that is silent for {terms.leader_timeout_s} s")
    for one in founding.members:
        _print_member(one, output)
    for what, digest in digests.items():
        output.line(f"{what.replace('_', ' ')} {group(digest)}")
    output.line(f"signed by: {', '.join(signed) or 'nobody'}")


def _print_majorities(consortium: Consortium, output: Output) -> None:
    size = len(consortium.members)
    if not consortium.without_peer:
        output.line(
            f"  {consortium.majority} of {size} organisations endorse what everybody must agree on, and change the "
            "channel"
        )
        return
    output.line(
        f"  {consortium.majority} of the {len(consortium.endorsing)} organisations that run a peer endorse what "
        f"everybody must agree on; {size // 2 + 1} of {size} change the channel"
    )
    output.line(f"  without a peer: {', '.join(consortium.without_peer)}")
