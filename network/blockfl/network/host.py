"""One organisation's part of a network, in a directory of its own: all that its host needs, and no other's secrets.

Founding a network takes three steps, and between hosts nothing goes but public files. Each may be repeated.

Example:
    host = Host(organisation, OrganisationLayout(directory))
    member = host.provision()
    signature = host.sign(founding)
    host.adopt(founding, signatures)
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from blockfl.contract.release import read_release
from blockfl.ledger.profile import ForeignGateway
from blockfl.network.errors import NetworkError
from blockfl.network.founding import Founding, FoundingSignature, load_record, signature_path
from blockfl.network.identities import (
    USERS,
    describe_membership,
    has_lost_key,
    load_administrator,
    make_profile,
    provision_identities,
    provision_node_files,
    write_file,
)
from blockfl.network.layout import OrganisationLayout
from blockfl.network.member import MembershipFile
from blockfl.network.organisation import ContainerOrganisation, Organisation
from blockfl.network.volume import require_matching_keys
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.records import Consortium, Role


@dataclass(frozen=True)
class Host:
    """An organisation, and where its files lie."""

    organisation: Organisation
    layout: OrganisationLayout

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Return the organisation's part that a directory holds.

        Raises:
            NetworkError: It holds none.
        """
        layout = OrganisationLayout(directory)
        try:
            organisation = Organisation.model_validate_json(layout.host.read_bytes())
        except OSError as error:
            raise NetworkError(
                f"{directory} holds no organisation's part of a network; make one: "
                f"blockfl network member NAME -d {directory}"
            ) from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise NetworkError(f"{layout.host}: {place or 'not JSON'}: {first['msg']}") from error
        return cls(organisation, layout)

    @property
    def name(self) -> str:
        """The organisation's name."""
        return self.organisation.name

    def in_containers(self) -> "Host":
        """Return the same part as its containers see it."""
        return Host(ContainerOrganisation.of(self.organisation), self.layout)

    def provision(self) -> MembershipFile:
        """Make what is missing of keys and certificates, and write the membership file.

        Raises:
            NetworkError: The directory is another organisation's, or a file cannot be written.
        """
        self.keep_description()
        provision_identities(self.organisation, self.layout)
        if self.layout.member.exists() and self.has_lost_ordering_key:
            return load_record(MembershipFile, self.layout.member, "a membership file")
        membership = describe_membership(self.organisation, self.layout)
        if self.layout.member.exists():
            member = load_record(MembershipFile, self.layout.member, "a membership file")
            if member.membership == membership:
                return member
        member = MembershipFile.sign(membership, load_administrator(self.organisation, self.layout))
        member.verify()
        write_file(self.layout.member, member.encode())
        return member

    def take_roles(self, roles: Sequence[Role]) -> "Host":
        """Return the same part with other roles; a new member of the committee gets its opening key.

        Raises:
            NetworkError: The organisation cannot have them: one without a peer is an institution.
        """
        try:
            changed = Organisation.model_validate(self.organisation.model_dump() | {"roles": sorted(set(roles))})
        except ValidationError as error:
            raise NetworkError(f"{self.name} cannot be {', '.join(roles)}: {error.errors()[0]['msg']}") from error
        host = Host(changed, self.layout)
        host._write_description()
        host.provision()
        return host

    def sign(self, founding: Founding) -> FoundingSignature:
        """Sign a founding file, as the organisation's administrator.

        Raises:
            NetworkError: It says something else of this organisation than the organisation's own membership file.
        """
        founding.verify()
        self._require_own(founding)
        self._list_gateways(founding)
        return FoundingSignature.sign(founding, self.name, load_administrator(self.organisation, self.layout))

    def load_founding(self) -> Founding | None:
        """Return what was founded, None before that.

        Raises:
            NetworkError: The file is damaged.
        """
        if not self.layout.founding.exists():
            return None
        return load_record(Founding, self.layout.founding, "a founding file")

    def require_founding(self) -> Founding:
        """Return what was founded.

        Raises:
            NetworkError: Nothing is founded yet, or the file is damaged.
        """
        if (founded := self.load_founding()) is None:
            raise NetworkError(
                f"{self.layout.directory}: nothing is founded yet; name the file that all have signed: --founding FILE"
            )
        return founded

    def has_adopted(self, founding: Founding) -> bool:
        """Whether everything that follows from a founding file is there.

        Raises:
            NetworkError: Another one was adopted here.
        """
        former = self.load_founding()
        if former is not None and former != founding:
            raise NetworkError(
                f"{self.layout.directory} belongs to what was founded as {former.record_digest[:16]}…, and this "
                f"founding file is {founding.record_digest[:16]}…; name another directory"
            )
        return former is not None and self.layout.genesis.exists()

    def adopt(self, founding: Founding, signatures: Sequence[FoundingSignature], *, joins: bool = False) -> None:
        """Check a founding file and everybody's signatures, and make the first block that follows from it.

        Args:
            founding: The file.
            signatures: Of every founder.
            joins: Whether the organisation is no founder and joins what others have founded.

        Raises:
            NetworkError: It is not signed by all, or not what this organisation agreed to.
        """
        if self.has_adopted(founding):
            return
        founding.verify()
        founding.verify_signatures(signatures)
        if not joins:
            self._require_own(founding)
            if founding.terms.code_digest != (own := read_release().record_digest):
                raise NetworkError(
                    f"the founding file is about contract code {founding.terms.code_digest[:16]}…, and here is "
                    f"{own[:16]}…: install the same version of BlockFL on every host"
                )
        genesis = founding.make_genesis()
        for signature in signatures:
            write_file(signature_path(self.layout.founding, signature.organisation), signature.encode())
        write_file(self.layout.founding, founding.encode())
        write_file(self.layout.genesis, genesis)

    def agree(self, founding: Founding, consortium: Consortium) -> None:
        """Write what the organisation's nodes and users read, and the record that it agrees to.

        Raises:
            NetworkError: Its keys are not those that the channel knows, or a file cannot be written.
        """
        require_matching_keys(self.organisation, self.layout)
        provision_node_files(self.organisation, self.layout, founding)
        write_file(self.layout.consortium, consortium.encode())
        gateways = self._list_gateways(founding)
        for name, _ in gateways:
            write_file(self.layout.gateway_roots(name), "".join(founding.member(name).membership.tls_roots).encode())
        for user in USERS:
            profile = make_profile(consortium, self.organisation, user, [gateway for _, gateway in gateways])
            profile.save(self.layout.profile(user))

    def load_consortium(self) -> Consortium:
        """Return the record that the organisation agrees to: what was founded, or what came after it.

        Raises:
            NetworkError: There is none yet.
        """
        founding = None if self.layout.consortium.exists() else self.load_founding()
        if founding is not None:
            return founding.consortium
        return load_record(Consortium, self.layout.consortium, "the consortium's record")

    @property
    def has_lost_ordering_key(self) -> bool:
        """Whether the channel knows an ordering node whose key is not here any more."""
        return self.organisation.orderer and self.layout.genesis.exists() and has_lost_key(self.layout)

    @property
    def genesis_digest(self) -> str:
        """SHA-256 of the channel's first block: everybody has the same."""
        return compute_digest(self.layout.genesis.read_bytes())

    def keep_description(self) -> None:
        """Write how the organisation is described, or check that it is as before.

        Raises:
            NetworkError: The directory is another organisation's.
        """
        if self.layout.host.exists():
            former = Host.open(self.layout.directory).organisation
            said, now = former.model_dump(), self.organisation.model_dump()
            changed = [name for name in said if said[name] != now[name]]
            # Whose gateways it uses is its own affair, and in no file that others have.
            if changed and (changed != ["gateways"] or former.has_peer != self.organisation.has_peer):
                raise NetworkError(
                    f"{self.layout.directory} holds {former.name} with another {', '.join(changed)} than now; it keeps "
                    "what its membership file says: name another directory, or say the same as before"
                )
            if not changed:
                return
        self._write_description()

    def _write_description(self) -> None:
        content = json.dumps(self.organisation.model_dump(mode="json"), indent=2)
        write_file(self.layout.host, f"{content}\n".encode())

    def _list_gateways(self, founding: Founding) -> list[tuple[str, ForeignGateway]]:
        """Return the gateways that an organisation without a peer uses, each with its organisation's name."""
        found = []
        for name in self.organisation.gateways:
            membership = founding.member(name).membership
            if membership.peer is None:
                raise NetworkError(f"{self.name} names the gateway of {name}, which runs no peer itself: name another")
            roots = f"../{self.layout.gateway_roots(name).relative_to(self.layout.directory)}"
            gateway = ForeignGateway(organisation=membership.msp_id, endpoint=membership.peer, tls_roots=roots)
            found.append((name, gateway))
        return found

    def _require_own(self, founding: Founding) -> None:
        said, own = founding.member(self.name).membership, describe_membership(self.organisation, self.layout)
        if changed := [name for name, value in own.model_dump().items() if value != said.model_dump()[name]]:
            raise NetworkError(
                f"the founding file says of {self.name} another {', '.join(changed)} than {self.layout.member}: "
                "put the former keys back, or have it made anew from your own membership file"
            )
