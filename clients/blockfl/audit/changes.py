"""Which rules, which code and which members were in force when: definitions, configurations, certificates.

Pure functions over a `book.Book`; each row has the columns of `entry.PLACE`.
"""

from collections.abc import Iterator
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from fabric_protos.peer.lifecycle import lifecycle_pb2
from google.protobuf.message import DecodeError

from blockfl.audit.book import Book
from blockfl.audit.entry import Entry, Row, place
from blockfl.fabric.channel.config import ChannelConfig, describe_consensus
from blockfl.fabric.channel.difference import describe_difference
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import Identity, parse_certificate
from blockfl.protocol.catalogue import CONSORTIUM, WITHDRAWALS, find_key
from blockfl.protocol.records import Consortium

_REQUESTS: Final = {
    "ApproveChaincodeDefinitionForMyOrg": lifecycle_pb2.ApproveChaincodeDefinitionForMyOrgArgs,
    "CommitChaincodeDefinition": lifecycle_pb2.CommitChaincodeDefinitionArgs,
}


def list_contracts(book: Book) -> list[Row]:
    """Return a row for each definition of a contract that an organisation approved or that came into force.

    The version of a definition ends with the beginning of the digest of the contract's source; ``package`` names the
    digest of the package that the approving organisation runs it with.
    """
    rows = []
    for entry in book.entries.list_of_kind("lifecycle"):
        request = _read_request(entry) if entry.is_valid else None
        if request is None:
            continue
        is_commit = entry.function == "CommitChaincodeDefinition"
        rows.append(
            {
                "contract": request.name,
                "sequence": request.sequence,
                "state": "in force" if is_commit else "approved",
                "by": entry.submitter,
                "version": request.version,
                "code_digest": request.version.rpartition("-")[2] if "-" in request.version else "",
                "package": "" if is_commit else request.source.local_package.package_id or "none: it does not run it",
                "collections": [one.static_collection_config.name for one in request.collections.config],
                "approved_by": _list_approvals(book, entry, request) if is_commit else [],
            }
            | place(entry)
        )
    return rows


def find_definition(book: Book, block: int) -> Row | None:
    """Return the row of the definition that was in force when a block was committed, None before the first."""
    found = [
        one
        for one in list_contracts(book)
        if one["state"] == "in force" and one["contract"] == book.chain.namespace and int(str(one["block"])) < block
    ]
    return found[-1] if found else None


def _list_approvals(book: Book, commit: Entry, request: Any) -> list[str]:
    """Return who had approved what a commit put into force, each organisation's last word counting."""
    wanted = _definition_of(request)
    last: dict[str, bool] = {}
    for entry in book.entries.list_of_kind("lifecycle"):
        if (entry.block, entry.index) >= (commit.block, commit.index):
            break
        if entry.is_valid and entry.function == "ApproveChaincodeDefinitionForMyOrg":
            approval = _read_request(entry)
            if approval is not None and (approval.name, approval.sequence) == (request.name, request.sequence):
                last[entry.submitter] = _definition_of(approval) == wanted
    return sorted(name for name, is_same in last.items() if is_same)


def _definition_of(request: Any) -> tuple[Any, ...]:
    return (
        request.version,
        request.endorsement_plugin,
        request.validation_plugin,
        request.validation_parameter,
        request.collections,
        request.init_required,
    )


def _read_request(entry: Entry) -> Any | None:
    kind = _REQUESTS.get(entry.function)
    try:
        return None if kind is None else parse(kind, entry.request)
    except DecodeError:
        return None


def list_members(book: Book) -> list[Row]:
    """Return a row for each change of the channel and of the consortium, and for each certificate with its end."""
    rows = [*_list_configurations(book), *_list_consortia(book), *_list_withdrawals(book)]
    rows.sort(key=lambda row: int(str(row["block"])))
    return rows + list(_list_certificates(book))


def _list_configurations(book: Book) -> Iterator[Row]:
    before: ChannelConfig | None = None
    for block, config in book.chain.configurations:
        entry = book.entry((block, 0))
        if before is None:
            names = ", ".join(sorted(config.application_msp_ids))
            changes: tuple[str, ...] = (f"the channel begins with {names}; ordering: {describe_consensus(config)}",)
        else:
            changes = describe_difference(before, config)
        for change in changes:
            yield {"what": "configuration", "organisation": "", "detail": change, "ends": None} | place(entry)
        before = config


def _list_consortia(book: Book) -> Iterator[Row]:
    before: Consortium | None = None
    key = CONSORTIUM.key()
    versions = book.history.list_versions(key)
    if not versions:
        return
    for record, (_, entry) in zip(versions, book.list_writes(key), strict=True):
        for change in _compare_members(before, record):
            yield {"what": "consortium", "organisation": change[0], "detail": change[1], "ends": None} | place(entry)
        before = record


def _compare_members(before: Consortium | None, after: Consortium) -> Iterator[tuple[str, str]]:
    old = {one.organisation: one.roles for one in before.members} if before else {}
    new = {one.organisation: one.roles for one in after.members}
    for name in sorted({*old, *new}):
        if name not in old:
            yield name, f"joins as {', '.join(new[name]) or 'member'}"
        elif name not in new:
            yield name, "leaves"
        elif old[name] != new[name]:
            yield name, f"was {', '.join(old[name]) or 'member'}, becomes {', '.join(new[name]) or 'member'}"
    if before is None or before.threshold != after.threshold:
        yield "", f"the committee decides with {after.threshold} of {len(after.committee)}"


def _list_withdrawals(book: Book) -> Iterator[Row]:
    for one in book.history.read_all(WITHDRAWALS.below()):
        yield {
            "what": "withdrawal",
            "organisation": one.organisation,
            "detail": f"withdraws its certificate {one.certificate_digest}",
            "ends": None,
        } | book.place(find_key(one))


def _list_certificates(book: Book) -> Iterator[Row]:
    """Certificates that the last configuration names, where it is written; then those that signed, where first."""
    block, config = book.chain.configurations[-1]
    where = place(book.entry((block, 0)))
    for msp_id, msp in sorted(config.msps.items()):
        for what, pems in (("signing root", msp.signing_roots), ("TLS root", msp.tls_roots)):
            for pem in pems:
                yield _certificate(what, msp_id, pem) | where
    for consenter in config.consenters:
        for what, pem in (
            ("ordering node", consenter.identity_pem),
            ("ordering node, TLS", consenter.server_tls_certificate),
        ):
            if pem:
                yield _certificate(f"{what} {consenter.host}:{consenter.port}", consenter.msp_id, pem) | where
    for serialized, position in book.chain.identities.items():
        try:
            identity = Identity.parse(serialized)
        except FabricError:
            continue
        yield _certificate("signs transactions", identity.msp_id, identity.certificate_pem) | place(
            book.entry(position)
        )


def _certificate(what: str, organisation: str, pem: bytes) -> Row:
    row: Row = {"what": "certificate", "organisation": organisation}
    try:
        certificate = parse_certificate(pem)
        ends = certificate.not_valid_after_utc.isoformat(timespec="seconds")
        digest = certificate.fingerprint(hashes.SHA256()).hex()
    except (FabricError, ValueError, x509.InvalidVersion):
        return row | {"detail": f"{what}: cannot be read", "ends": None}
    return row | {"detail": f"{what}: SHA-256 {digest}", "ends": ends}
