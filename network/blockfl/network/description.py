"""``consortium.yaml``: the single description of a network.

Anything unknown, missing, duplicate or impossible is refused with its line and the reason.

Example:
    >>> description = Description.load(Path("consortium.yaml"))
    >>> description.organisation("regulator").ports.peer
    17060
"""

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from blockfl.network.errors import DescriptionError, NetworkError
from blockfl.network.founding import LEADER_TIMEOUTS_S, NEAR_LEADER_TIMEOUT_S, Consensus, require_orderers
from blockfl.network.organisation import DescriptionPart, NeighbourOrganisation, Organisation, Ports
from blockfl.network.source import Fault, Place, YamlSource
from blockfl.protocol.canonical import ChannelName, Name
from blockfl.protocol.records import Consortium, Member, Role

PORTS_PER_ORGANISATION = 10
_HIGHEST_PORT = 65535
_CONTRACT_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
LedgerKind = Literal["embedded", "local", "compose"]


class Description(DescriptionPart):
    """The whole network."""

    network: Name
    channel: ChannelName
    contract: Name
    threshold: Annotated[int, Field(ge=2)]
    consensus: Consensus = "BFT"
    leader_timeout_s: Annotated[int, Field(ge=LEADER_TIMEOUTS_S[0], le=LEADER_TIMEOUTS_S[1])] = NEAR_LEADER_TIMEOUT_S
    sequence: Annotated[int, Field(ge=1)] = 1
    base_port: Annotated[int, Field(ge=1024, le=65000)] = 17050
    organisations: Annotated[list[Organisation], Field(min_length=2)]

    @classmethod
    def load(cls, path: Path, ledger: LedgerKind = "embedded") -> Self:
        """Read and check a description.

        Args:
            path: The file.
            ledger: What is to run it; real Fabric asks for more than the embedded node.

        Raises:
            DescriptionError: Naming file, line and reason.
        """
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise DescriptionError(f"{path}: cannot be read ({reason})") from error
        return cls.parse(text, str(path), ledger)

    @classmethod
    def load_default(cls, base_port: int | None = None) -> Self:
        """Return the default consortium, its ports from ``base_port`` on."""
        text = default_description()
        if base_port is not None:
            text = text.replace("base_port: 17050", f"base_port: {base_port}")
        return cls.parse(text, "consortium.yaml")

    @classmethod
    def parse(cls, text: str, name: str, ledger: LedgerKind = "embedded") -> Self:
        """Read a description from YAML text; ``name`` is what errors call it.

        Raises:
            DescriptionError: Naming source, line and reason.
        """
        source = YamlSource(text, name)
        try:
            description = cls.model_validate(_with_ports(source.content))
            if ledger != "embedded":
                description.check_orderers()
            if ledger == "compose":
                description.check_containers()
        except ValidationError as error:
            raise source.explain(error, cls) from error
        except Fault as fault:
            raise source.error(fault.place, str(fault)) from fault
        return description

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_names()
        self._check_ports()
        self._check_roles()
        self._check_gateways()
        if not self.orderers:
            raise Fault(("organisations",), "no organisation has `orderer: true`; at least one must order transactions")
        return self

    def check_orderers(self) -> None:
        """Check that there are enough ordering nodes for the consensus: BFT with fewer tolerates nobody that lies.

        Raises:
            Fault: There are fewer.
        """
        try:
            require_orderers(self.consensus, [one.name for one in self.orderers])
        except NetworkError as error:
            last = max(index for index, one in enumerate(self.organisations) if one.orderer)
            raise Fault(("organisations", last, "orderer"), str(error)) from error

    def check_containers(self) -> None:
        """Check that everybody runs nodes that containers can be made for.

        Raises:
            Fault: An institution runs no peer, or there is a guard.
        """
        for index, one in enumerate(self.organisations):
            if one.guard:
                raise Fault(
                    ("organisations", index, "guard"),
                    f"there is no container yet for the guard of {one.name}: use another ledger, or leave it out",
                )
            if not one.has_peer:
                raise Fault(
                    ("organisations", index, "gateways"),
                    f"{one.name} runs no peer, and containers of one machine are made for peers: use another ledger, "
                    "or give it a host of its own",
                )

    def check_extends(self, former: Self) -> None:
        """Check that this description only adds organisations to a former one of the same network.

        Raises:
            Fault: It changes something else, or is not the next in sequence.
        """
        for name in ("network", "channel", "contract", "threshold", "consensus", "leader_timeout_s"):
            before, after = getattr(former, name), getattr(self, name)
            if before != after:
                raise Fault((name,), f"expected {before} as before, got {after}: a running network keeps it")
        here = {one.name: (index, one) for index, one in enumerate(self.organisations)}
        for one in former.organisations:
            index, now = here.get(one.name, (0, None))
            if now is None:
                raise Fault(
                    ("organisations",), f"{one.name} is a member of the running network and must stand here, too"
                )
            if now != one:
                raise Fault(
                    ("organisations", index),
                    f"{one.name} is described otherwise than in the running network; only organisations may be added",
                )
        known = {one.name for one in former.organisations}
        for name, (index, one) in here.items():
            if name not in known and one.orderer:
                raise Fault(
                    ("organisations", index, "orderer"),
                    f"{name} joins a running network: it can have a peer, and no ordering node yet",
                )
        if self.sequence != former.sequence + 1:
            raise Fault(
                ("sequence",),
                f"expected {former.sequence + 1}, got {self.sequence}: it counts the changes of the members, and every "
                "one of them agrees to the record with this number",
            )

    def _check_names(self) -> None:
        if not _CONTRACT_NAME.fullmatch(self.contract):
            raise Fault(("contract",), f"expected letters and digits joined by single dashes, got {self.contract!r}")
        seen: dict[str, str] = {}
        for index, organisation in enumerate(self.organisations):
            if organisation.name in seen.values():
                raise Fault(("organisations", index, "name"), f"organisation {organisation.name} is described twice")
            if organisation.msp_id in seen:
                raise Fault(
                    ("organisations", index, "msp_id"),
                    f"{seen[organisation.msp_id]} and {organisation.name} both have the MSP id {organisation.msp_id}",
                )
            seen[organisation.msp_id] = organisation.name

    def _check_ports(self) -> None:
        used: dict[tuple[str, int], str] = {}
        for index, organisation in enumerate(self.organisations):
            for purpose, port in organisation.ports:
                place = (organisation.listen_host, port)
                here = f"{organisation.name} ({purpose})"
                if place in used:
                    raise Fault(
                        ("organisations", index, "ports", purpose),
                        f"port {port} of {organisation.listen_host} is used twice: {used[place]} and {here}",
                    )
                used[place] = here

    def _check_gateways(self) -> None:
        serving = {one.name for one in self.organisations if one.has_peer}
        for index, one in enumerate(self.organisations):
            if strangers := [name for name in one.gateways if name not in serving]:
                raise Fault(
                    ("organisations", index, "gateways"),
                    f"{one.name} names gateways of organisations that run no peer here: {', '.join(strangers)}",
                )
        if len(serving) == len(self.organisations):
            return
        try:
            _ = self.consortium
        except ValidationError as error:
            text = str(error.errors(include_url=False, include_input=False)[0]["msg"])
            raise Fault(("organisations",), text.removeprefix("Value error, ")) from error

    def _check_roles(self) -> None:
        def having(role: Role) -> list[int]:
            return [index for index, one in enumerate(self.organisations) if role in one.roles]

        if not having("institution"):
            raise Fault(("organisations",), "no organisation has the role institution")
        committee, coordinators = having("committee"), having("coordinator")
        if len(committee) < 2:
            place: Place = ("organisations", *committee, "roles") if committee else ("organisations",)
            raise Fault(
                place,
                f"expected a committee of two or more, got {len(committee)}: one member alone must neither bend a "
                "round nor stop it; give more organisations the role committee",
            )
        if not len(committee) < 2 * self.threshold <= 2 * len(committee):
            raise Fault(
                ("threshold",),
                f"expected more than half of the committee's {len(committee)} members and at most all of them, got "
                f"{self.threshold}",
            )
        if len(coordinators) != 1:
            place = ("organisations", coordinators[1], "roles") if coordinators else ("organisations",)
            raise Fault(place, f"expected exactly one organisation with the role coordinator, got {len(coordinators)}")

    @property
    def consortium(self) -> Consortium:
        """The record that every organisation agrees to and that the contract registers."""
        return Consortium(
            network=self.network,
            channel=self.channel,
            contract=self.contract,
            sequence=self.sequence,
            members=tuple(
                Member(organisation=one.msp_id, roles=tuple(sorted(set(one.roles))))
                for one in sorted(self.organisations, key=lambda one: one.msp_id)
            ),
            threshold=self.threshold,
            without_peer=tuple(sorted(one.msp_id for one in self.organisations if not one.has_peer)),
        )

    def dump(self) -> str:
        """Return the description as YAML with every port written out."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))

    def in_containers(self) -> Self:
        """Return the same network as its containers see it."""
        return self.model_copy(update={"organisations": list(map(NeighbourOrganisation.of, self.organisations))})

    def for_ledger(self, ledger: LedgerKind) -> Self:
        """Return what really runs on a ledger: the embedded node has one ordering node, which the others trust."""
        if ledger != "embedded":
            return self
        first = self.orderers[0]
        # It looks into what it orders itself.
        organisations = [
            one.model_copy(update={"orderer": one == first, "guard": False, "guard_node": ""})
            for one in self.organisations
        ]
        return self.model_copy(update={"organisations": organisations, "consensus": "raft"})

    def organisation(self, name: str) -> Organisation:
        """Return an organisation by its name.

        Raises:
            DescriptionError: When there is none.
        """
        for organisation in self.organisations:
            if organisation.name == name:
                return organisation
        known = ", ".join(one.name for one in self.organisations)
        raise DescriptionError(f"no organisation {name}; the consortium has {known}")

    @property
    def orderers(self) -> list[Organisation]:
        """The organisations that run an ordering node."""
        return [organisation for organisation in self.organisations if organisation.orderer]


def default_description() -> str:
    """Return the text of the default consortium.yaml."""
    return resources.files("blockfl.network").joinpath("consortium.yaml").read_text()


def _with_ports(content: dict[str, object]) -> dict[str, object]:
    """Return the content with each organisation's ports filled in from the base port.

    Raises:
        Fault: There is no room for them all above the base port.
    """
    base = content.get("base_port", 17050)
    organisations = content.get("organisations")
    if not isinstance(base, int) or not isinstance(organisations, list):
        return content
    if base + PORTS_PER_ORGANISATION * len(organisations) > _HIGHEST_PORT + 1:
        raise Fault(
            ("base_port",),
            f"expected room for {PORTS_PER_ORGANISATION} ports of each of {len(organisations)} organisations below "
            f"{_HIGHEST_PORT}, got {base}",
        )
    filled: list[object] = []
    for index, organisation in enumerate(organisations):
        if isinstance(organisation, dict) and isinstance(organisation.get("ports", {}), dict):
            first = base + index * PORTS_PER_ORGANISATION
            defaults = {name: first + offset for offset, name in enumerate(Ports.model_fields)}
            filled.append({**organisation, "ports": {**defaults, **organisation.get("ports", {})}})
        else:
            filled.append(organisation)
    return {**content, "organisations": filled}
