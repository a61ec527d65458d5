"""``blockfl network terms``, ``adopt``: BlockFL on a Fabric channel that is there already."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from blockfl.cli.network_founding import HostDirectory
from blockfl.cli.number import make_limits, whole_option
from blockfl.cli.output import Output
from blockfl.network.adoption import PeerAccess, adopt
from blockfl.network.errors import NetworkError
from blockfl.network.founding import load_record
from blockfl.network.identities import write_file
from blockfl.network.membership import describe_members, succeed
from blockfl.network.organisation import LOOPBACK, Organisation, Ports
from blockfl.protocol.records import Consortium, Member


def terms(
    member: Annotated[
        list[str] | None,
        typer.Option(help="MSPID=ROLE,ROLE of each organisation: coordinator, committee, institution."),
    ] = None,
    network: Annotated[str, typer.Option(help="Name of the network; part of everything that is signed.")] = "",
    channel: Annotated[str, typer.Option(help="The channel that is there.")] = "",
    contract: Annotated[str, typer.Option(help="The contract's name on it.")] = "blockfl",
    threshold: Annotated[
        int | None,
        whole_option(
            make_limits(2, 1000), help="Committee members that must agree on a verdict; default: as now, or 2."
        ),
    ] = None,
    without_peer: Annotated[
        list[str] | None, typer.Option(help="MSP id of an institution that runs no peer and endorses nothing.")
    ] = None,
    after: Annotated[
        Path | None, typer.Option(help="The record that counts now: name only members that are new or change roles.")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(help="MSP id of a member that leaves; with --after.")] = None,
    output_file: Annotated[Path, typer.Option("--output", "-o", help="The file.")] = Path("consortium.json"),
) -> None:
    """Write the record of the consortium that all organisations of a running channel agree to; each gets the file."""
    output = Output(as_json=False)
    try:
        members = [_parse_member(text) for text in member or ()]
        if after is not None:
            former = load_record(Consortium, after, "the consortium's record")
            consortium = succeed(former, members, remove or (), threshold, without_peer or ())
        else:
            consortium = Consortium(
                network=network,
                channel=channel,
                contract=contract,
                sequence=1,
                members=tuple(sorted(members, key=lambda one: one.organisation)),
                threshold=threshold or 2,
                without_peer=tuple(sorted(without_peer or ())),
            )
    except ValidationError as error:
        raise _explain(error) from error
    if output_file.exists():
        raise NetworkError(f"{output_file} exists already; name another file, or remove it")
    write_file(output_file, consortium.encode())
    for line in describe_members(former, consortium) if after is not None else ():
        output.line(line)
    output.line(f"{output_file}: {consortium.record_digest}")
    output.progress(
        "give every organisation this file; it agrees by approving the contract: blockfl network "
        + ("up --consortium" if after is not None else "adopt")
    )


def adopt_channel(
    name: Annotated[str, typer.Argument(help="The organisation, as files and people call it.")],
    directory: HostDirectory,
    consortium: Annotated[Path, typer.Option(help="The record that all agree to: blockfl network terms.")],
    msp_id: Annotated[str, typer.Option(help="The organisation's MSP id.")],
    peer: Annotated[str, typer.Option(help="host:port of its peer.")],
    tls_roots: Annotated[Path, typer.Option(help="Authorities of the peer's TLS certificate (PEM).")],
    certificate: Annotated[Path, typer.Option(help="The administrator's certificate.")],
    key: Annotated[Path, typer.Option(help="The administrator's private key; it stays where it is.")],
    agent_certificate: Annotated[Path, typer.Option(help="A client's certificate, for agent or aggregator.")],
    agent_key: Annotated[Path, typer.Option(help="The client's private key; it stays where it is.")],
    base_port: Annotated[
        int, whole_option(make_limits(1024, 65_529), help="The contract service listens one above it, on loopback.")
    ] = 17050,
) -> None:
    """Take BlockFL on for one organisation of a running channel; then restart its peer and run `blockfl network up`."""
    output = Output(as_json=False)
    try:
        organisation = Organisation(
            name=name,
            msp_id=msp_id,
            roles=["institution"],
            host=LOOPBACK,
            peer=peer,
            ports=Ports.from_base(base_port),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise NetworkError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
        ) from error
    access = PeerAccess(
        address=organisation.peer,
        tls_roots=tls_roots,
        certificates={"admin": certificate, "agent": agent_certificate},
        private_keys={"admin": key, "agent": agent_key},
    )
    record = load_record(Consortium, consortium, "the consortium's record as `blockfl network terms` writes it")
    adopt(directory, organisation, access, record, output.progress)
    output.progress(f"then: blockfl network up -d {directory}")


def _parse_member(text: str) -> Member:
    msp_id, _, roles = text.partition("=")
    return Member.model_validate({"organisation": msp_id, "roles": tuple(sorted(set(roles.split(","))))})


def _explain(error: ValidationError) -> NetworkError:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return NetworkError(f"{place}: {first['msg'].removeprefix('Value error, ')}".removeprefix(": "))
