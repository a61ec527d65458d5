"""Which certificates an organisation's part uses, for what, and when they end.

Example:
    for one in list_certificates(host):
        print(one.holder, one.purpose, one.ends)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.request import Wanted
from blockfl.fabric.identity.signing import parse_certificate
from blockfl.network.contract_service import service_name
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.identities import write_file
from blockfl.network.status import ProcessStatus

WARNED_BEFORE: Final = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A certificate and its key, and which of the organisation's authorities issues it.

    Attributes:
        holder: What uses it, as ``blockfl network status`` names it, or the user.
        purpose: ``signing`` or ``TLS``.
        certificate: The certificate's file.
        key: The key's file.
        authority: File of the authority's certificate.
        authority_key: File of its key, which may be kept elsewhere.
        wanted: What the certificate must say.
    """

    holder: str
    purpose: str
    certificate: Path
    key: Path
    authority: Path
    authority_key: Path
    wanted: Wanted


@dataclass(frozen=True, kw_only=True)
class Expiry:
    """When a certificate ends.

    Attributes:
        organisation: Whose it is.
        holder: What uses it: a process, a user, or an authority.
        purpose: For what.
        path: Its file.
        ends: When, UTC.
    """

    organisation: str
    holder: str
    purpose: str
    path: Path
    ends: datetime

    def days_left(self, now: datetime) -> int:
        """Return the whole days left; negative when it has ended."""
        return (self.ends - now) // timedelta(days=1)

    def complaint(self, now: datetime) -> str:
        """Return what is wrong with it in a line: that it has ended, or will soon; nothing otherwise."""
        what, day = f"the {self.purpose} certificate of {self.holder}", f"{self.ends:%Y-%m-%d %H:%M} UTC"
        if self.ends <= now:
            return f"{what} ended on {day}: blockfl network renew"
        if self.ends - now < WARNED_BEFORE:
            return f"{what} ends in {self.days_left(now)} days, on {day}: blockfl network renew"
        return ""

    def as_dict(self, now: datetime) -> dict[str, object]:
        """Return it as a row."""
        return {
            "organisation": self.organisation,
            "holder": self.holder,
            "purpose": self.purpose,
            "ends": self.ends.isoformat(),
            "days_left": self.days_left(now),
            "path": str(self.path),
        }


def list_pairs(host: Host) -> list[Pair]:
    """Return every certificate that an authority of the organisation issues: users' first, the ordering node's last."""
    place, organisation = host.layout, host.organisation
    signing = (place.signing_authority("certificate"), place.signing_authority("key"))
    tls = (place.tls_authority("certificate"), place.tls_authority("key"))
    administration = (place.admin_tls_authority("certificate"), place.admin_tls_authority("key"))

    def pair(holder: str, directory: Path, unit: str | None, issuer: tuple[Path, Path], hosts: Sequence[str]) -> Pair:
        prefix = "tls-" if unit is None else ""
        return Pair(
            holder=f"{holder}-{host.name}",
            purpose="TLS" if unit is None else "signing",
            certificate=directory / f"{prefix}certificate.pem",
            key=directory / f"{prefix}key.pem",
            authority=issuer[0],
            authority_key=issuer[1],
            wanted=Wanted(
                common_name=f"{holder}.{host.name}",
                organisation=host.name,
                unit=unit,  # type: ignore[arg-type]
                hosts=tuple(hosts),
            ),
        )

    users, nodes = place.user("admin", "x").parent, place.node
    pairs = [
        pair("admin", users, "admin", signing, ()),
        pair("agent", place.user("agent", "x").parent, "client", signing, ()),
    ]
    if organisation.has_peer:
        pairs.append(pair("contract", nodes("contract", "x").parent, None, tls, organisation.hosts))
    if organisation.guard:
        directory = nodes("guard", "x").parent
        pairs.append(pair("guard", directory, "client", signing, ()))
        pairs.append(pair("guard", directory, None, tls, organisation.hosts))
    for kind in [*(["peer"] if organisation.has_peer else []), *(["orderer"] if organisation.orderer else [])]:
        directory = nodes(kind, "x").parent
        pairs.append(pair(kind, directory, kind, signing, ()))
        pairs.append(pair(kind, directory, None, tls, organisation.hosts))
    if organisation.orderer:
        pairs.insert(1, pair("admin", users, None, administration, ()))
    return pairs


def list_certificates(host: Host) -> list[Expiry]:
    """Return every certificate of an organisation's part that is there, and of its authorities.

    Raises:
        NetworkError: One cannot be read.
    """
    place = host.layout
    rows = [(one.holder, one.purpose, one.certificate) for one in list_pairs(host)]
    rows.append((f"dialling-{host.name}", "TLS", place.node("contract", "client-certificate.pem")))
    rows.append((f"authority-{host.name}", "signing", place.signing_authority("certificate")))
    rows.append((f"authority-{host.name}", "TLS", place.tls_authority("certificate")))
    rows.append((f"authority-{host.name}", "administration", place.admin_tls_authority("certificate")))
    return [
        Expiry(organisation=host.name, holder=holder, purpose=purpose, path=path, ends=read_end(path))
        for holder, purpose, path in rows
        if path.exists()
    ]


def watch_certificates(host: Host) -> None:
    """Have the contract service tell Prometheus when the organisation's certificates end; Fabric's nodes do not.

    It gets copies, which are public: in a container it sees no other node's directory.

    Raises:
        NetworkError: A certificate cannot be read or written.
    """
    own = service_name(host.organisation)
    try:
        for one in list_certificates(host):
            if one.holder != own:  # that one it tells itself
                name = f"{one.holder.removesuffix(f'-{host.name}')} {one.purpose}.pem"
                write_file(host.layout.watched / name, one.path.read_bytes())
    except OSError as error:
        raise NetworkError(f"{error.filename}: cannot be read or written ({error.strerror})") from error


def read_end(path: Path) -> datetime:
    """Return when the certificate in a file ends.

    Raises:
        NetworkError: It cannot be read.
    """
    try:
        return parse_certificate(path.read_bytes(), str(path)).not_valid_after_utc
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror})") from error
    except IdentityError as error:
        raise NetworkError(str(error)) from error


def list_complaints(hosts: Iterable[Host], now: datetime | None = None) -> list[str]:
    """Return a line for each certificate that has ended, or will within 30 days."""
    moment = now or datetime.now(UTC)
    found = (one.complaint(moment) for host in hosts for one in list_certificates(host))
    return [complaint for complaint in found if complaint]


def tell_ends(rows: Sequence[ProcessStatus], hosts: Iterable[Host], now: datetime | None = None) -> list[ProcessStatus]:
    """Return how processes are, with when the first certificate ends that each uses.

    What has ended is the complaint, whatever else its callers say: a handshake that fails does not tell why.
    """
    moment = now or datetime.now(UTC)
    first: dict[str, Expiry] = {}
    for host in hosts:
        for one in list_certificates(host):
            if one.holder not in first or one.ends < first[one.holder].ends:
                first[one.holder] = one
    return [_tell_end(row, first, moment) for row in rows]


def _tell_end(row: ProcessStatus, first: dict[str, Expiry], now: datetime) -> ProcessStatus:
    # The embedded node is every organisation's peer.
    used = [one for holder, one in first.items() if holder == row.name or (row.name == "node" and _is_node(holder))]
    if not used:
        return row
    earliest = min(used, key=lambda one: one.ends)
    complaint = earliest.complaint(now) if earliest.ends <= now else ""
    return replace(row, certificate_ends=earliest.ends.isoformat(), error=complaint or row.error)


def _is_node(holder: str) -> bool:
    return holder.startswith(("peer-", "orderer-"))
