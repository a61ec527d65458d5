"""Certificates renewed while the network runs: new ones beside the old, then in their place, one process after another.

A new key and certificate wait as ``….next`` until everything that has to know them does; then they take their place
and their process begins anew. Whatever is interrupted is continued by the next time. An ordering node is known to the
channel by its key, so a new key needs a configuration update that a majority of the ordering organisations signs.

Example:
    renewal = Renewal(hosts, ProcessRestarts(launcher, processes))
    renewal.renew(renewal.choose(["peer-hungary"]), report)
"""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from blockfl.fabric.channel.config import Address, ChannelConfig
from blockfl.fabric.channel.renewal import find_consenter
from blockfl.fabric.channel.update import verify_update
from blockfl.fabric.errors import ConfigError, FabricError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.request import create_request, verify_certificate
from blockfl.fabric.identity.signing import create_private_key, load_private_key, private_key_pem
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.administration import Administrator
from blockfl.network.certificates import WARNED_BEFORE, Pair, list_certificates, list_pairs, watch_certificates
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.identities import provision_dialling, provision_node_files, read_roots, write_file
from blockfl.network.node import node_name
from blockfl.network.port import parse_address
from blockfl.network.restart import Restarts

Report = Callable[[str], None]
_NEXT = ".next"
UPDATE = "orderer-renewal.update"


class Renewal:
    """Renews the certificates of one organisation's part, or of several on one machine.

    Args:
        hosts: The organisations' parts.
        restarts: Begins anew what uses a certificate.
    """

    def __init__(self, hosts: Sequence[Host], restarts: Restarts) -> None:
        self.hosts = hosts
        self._restarts = restarts

    def choose(self, names: Sequence[str] = (), within: timedelta = WARNED_BEFORE) -> list[str]:
        """Return what is to be renewed: as named, or what has a certificate that ends soon, or half a renewal.

        Raises:
            NetworkError: A name is none.
        """
        held = {pair.holder: host for host in self.hosts for pair in list_pairs(host)}
        held |= {f"{kind}-{host.name}": host for kind in ("dialling", "authority") for host in self.hosts}
        if unknown := [name for name in names if name not in held]:
            raise NetworkError(f"expected some of {', '.join(held)}, got {', '.join(unknown)}")
        if names:
            return [name for name in held if name in names]
        soon = datetime.now(UTC) + within
        due = {one.holder for host in self.hosts for one in list_certificates(host) if one.ends < soon}
        due |= {pair.holder for host in self.hosts for pair in list_pairs(host) if next_of(pair.certificate).exists()}
        return [name for name in held if name in due]

    def renew(self, names: Sequence[str], report: Report, *, keep_keys: bool = False) -> None:
        """Renew certificates one after another; each process that uses one begins anew.

        Args:
            names: From ``choose``.
            report: Told what is done.
            keep_keys: Issue certificates anew for the keys that are there: nobody else has to know them then, also
                where an ordering node's have ended.

        Raises:
            NetworkError: An authority's key is not here, others have to sign first, or a process does not come back.
        """
        for host in self.hosts:
            if f"authority-{host.name}" in names:
                self._succeed(host, report)
            for name in names:
                pairs = [pair for pair in list_pairs(host) if pair.holder == name]
                for pair in pairs:
                    prepare(pair, keep_key=keep_keys)
                if name == node_name("orderer", host.name) and not self._restarts.is_embedded and not keep_keys:
                    self._announce(host, pairs, report)
                for pair in pairs:
                    install(pair)
                watch_certificates(host)
                if name == f"dialling-{host.name}":
                    self._renew_dialling(host)
                if pairs or name == f"dialling-{host.name}":
                    self._restarts.begin_anew(host, name.removesuffix(f"-{host.name}"))
                    report(f"renewed: {name}")

    def _renew_dialling(self, host: Host) -> None:
        """Make the key anew with which a peer dials its contract service; the peer keeps a copy that goes, too."""
        for name in ("client-certificate.pem", "client-key.pem", "client-roots.pem"):
            host.layout.node("contract", name).unlink(missing_ok=True)
        provision_dialling(host.organisation.name, host.layout)
        shutil.rmtree(host.layout.data("peer") / "ledger" / "externalbuilder", ignore_errors=True)

    def _succeed(self, host: Host, report: Report) -> None:
        """Give an organisation new authorities, which count beside the present ones from now on.

        Its processes begin anew, and trust both; what is issued from now on is the new ones'.
        """
        place, own = host.layout, Administrator(ConnectionProfile.load(host.layout.profile("admin")))
        kinds = {"signing": place.signing_authority, "TLS": place.tls_authority}
        for purpose, path in kinds.items():
            if not next_of(path("certificate")).exists():
                authority = Authority.create(f"{host.name} {purpose} authority", host.name)
                write_file(next_of(path("key")), authority.private_key_pem(), private=True)
                write_file(next_of(path("certificate")), authority.certificate_pem)
        signing, tls = ([next_of(path("certificate")).read_bytes()] for path in kinds.values())
        try:
            config = asyncio.run(own.read())
            if tls[0] not in config.msps[host.organisation.msp_id].tls_roots:
                update = own.add_roots(config, signing, tls)
                asyncio.run(own.submit(config, update, [own.sign(update)]))
        except FabricError as error:
            raise NetworkError(f"the channel cannot be told of the new authorities: {error}") from error
        for path in kinds.values():
            certificate, key = path("certificate"), path("key")
            new, known = next_of(certificate).read_bytes(), read_roots(certificate)
            write_file(certificate, b"".join([new, *(pem for pem in known if pem != new)]))
            next_of(key).replace(key)
            next_of(certificate).unlink()
        founding = host.load_founding()
        if founding is not None:
            provision_node_files(host.organisation, place, founding)
        self._renew_dialling(host)
        for kind in ("dialling", "orderer") if host.organisation.orderer else ("dialling",):
            self._restarts.begin_anew(host, kind)
        report(f"authority-{host.name}: the new authorities count beside the former ones")

    def _announce(self, host: Host, pairs: Sequence[Pair], report: Report) -> None:
        """Let the channel know an ordering node's next certificates, if it does not yet.

        Raises:
            NetworkError: The others have to sign first; the text says what.
        """
        signing, tls = (next_of(pair.certificate).read_bytes() for pair in _by_purpose(pairs))
        administrators = [Administrator(ConnectionProfile.load(one.layout.profile("admin"))) for one in self.hosts]
        own = administrators[self.hosts.index(host)]
        try:
            config = asyncio.run(own.read())
            address = parse_address(host.organisation.orderer_address)
            found = find_consenter(config, *address)
            if (found.server_tls_certificate, found.identity_pem or signing) == (tls, signing):
                return
            self._require_others(host, config)
            update = own.renew_consenter(config, Address(host=address[0], port=address[1]), signing, tls)
            signatures = [one.sign(update) for one in administrators]
            self._require_signatures(host, config, update, signatures)
            asyncio.run(own.submit(config, update, signatures))
        except FabricError as error:
            raise NetworkError(f"the channel cannot be told of the new certificates: {error}") from error
        report(f"the channel knows the new certificates of {node_name('orderer', host.name)}")

    def _require_signatures(self, host: Host, config: ChannelConfig, update: bytes, signatures: list[bytes]) -> None:
        """Check that the administrators who are here are enough; otherwise leave the update for the others to sign."""
        try:
            verify_update(config, update, signatures)
        except ConfigError as error:
            path = host.layout.directory / UPDATE
            write_file(path, update)
            raise NetworkError(
                f"{error}; {path} lets the channel know the new certificates of {node_name('orderer', host.name)}: "
                "have the other ordering organisations sign it (`blockfl network config sign`), submit it (`config "
                "submit`), then say `blockfl network renew` again"
            ) from error

    def _require_others(self, host: Host, config: ChannelConfig) -> None:
        """Check that every other ordering node that is here runs: this one will be absent for a moment."""
        missing = [
            name
            for one in self.hosts
            if one is not host and one.organisation.orderer
            if not self._restarts.runs(name := node_name("orderer", one.name))
        ]
        if missing and len(config.consenters) > 1:
            raise NetworkError(
                f"{', '.join(missing)} does not run: while {node_name('orderer', host.name)} begins anew, all others "
                "are needed; bring the network up first"
            )


def next_of(path: Path) -> Path:
    """Return where the file waits that will take another's place."""
    return path.with_name(path.name + _NEXT)


def prepare(pair: Pair, *, keep_key: bool = False) -> None:
    """Have the next key and certificate of a pair wait beside the present ones; those that wait already are kept.

    Args:
        pair: The pair.
        keep_key: Whether the certificate is for the present key.

    Raises:
        NetworkError: The authority's key is not here.
    """
    if next_of(pair.certificate).exists():
        return
    if not pair.authority_key.exists():
        raise NetworkError(
            f"{pair.authority_key} is not here, which would issue the {pair.purpose} certificate of {pair.holder}: "
            "write requests for the authority (--requests DIRECTORY), and install what it answers (--certificates "
            "DIRECTORY)"
        )
    authority = Authority.from_pem(pair.authority.read_bytes(), pair.authority_key.read_bytes())
    key = _next_key(pair, keep_key=keep_key)
    certificate = authority.issue(
        key.public_key(),
        common_name=pair.wanted.common_name,
        unit=pair.wanted.unit,
        hosts=pair.wanted.hosts,
        tls=pair.wanted.tls,
    )
    write_file(next_of(pair.certificate), certificate)


def install(pair: Pair) -> None:
    """Put a pair's next key and certificate in the place of the present ones.

    Interrupted after the key, the certificate still waits, so that ``renew`` goes on with it.
    """
    for path in (pair.key, pair.certificate):
        if next_of(path).exists():
            next_of(path).replace(path)


def _next_key(pair: Pair, *, keep_key: bool) -> ec.EllipticCurvePrivateKey:
    """Return the key that waits; if none does, the present one, or a new one that waits from now on."""
    waiting = next_of(pair.key)
    present = waiting if waiting.exists() else pair.key
    if waiting.exists() or (keep_key and present.exists()):
        key = load_private_key(present)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise NetworkError(f"{present}: expected an ECDSA key, got another kind")
        return key
    made = create_private_key()
    write_file(waiting, private_key_pem(made), private=True)
    return made


def _by_purpose(pairs: Sequence[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: pair.purpose, reverse=True)


def write_requests(pairs: Sequence[Pair], directory: Path, *, keep_keys: bool = False) -> list[Path]:
    """Write a certificate signing request for each pair; the keys stay where they are.

    Args:
        pairs: The pairs.
        directory: Where the requests are written, ``<holder>-<purpose>.csr``.
        keep_keys: Whether they are for the present keys.

    Returns:
        The requests' files.
    """
    written = []
    for pair in pairs:
        request = create_request(_next_key(pair, keep_key=keep_keys), pair.wanted)
        path = directory / f"{pair.holder}-{pair.purpose}.csr"
        write_file(path, request)
        written.append(path)
    return written


def take_certificates(pairs: Sequence[Pair], directory: Path) -> list[Pair]:
    """Check certificates that an authority has answered with, and have them wait.

    Args:
        pairs: The pairs.
        directory: Where the certificates lie, ``<holder>-<purpose>.pem``.

    Returns:
        The pairs that have one.

    Raises:
        NetworkError: One is not what was asked for, or none is there.
    """
    taken = []
    for pair in pairs:
        path = directory / f"{pair.holder}-{pair.purpose}.pem"
        if not path.exists():
            continue
        try:
            certificate = path.read_bytes()
            verify_certificate(
                certificate, _next_key(pair, keep_key=True).public_key(), pair.wanted, [pair.authority.read_bytes()]
            )
        except FabricError as error:
            raise NetworkError(f"{path}: {error}") from error
        except OSError as error:
            raise NetworkError(f"{error.filename}: cannot be read ({error.strerror})") from error
        write_file(next_of(pair.certificate), certificate)
        taken.append(pair)
    if not taken:
        raise NetworkError(
            f"{directory}: expected answers to the requests, named as they are but for .pem, e.g. "
            f"{pairs[0].holder}-{pairs[0].purpose}.pem; got none"
        )
    return taken
