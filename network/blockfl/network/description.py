"""``consortium.yaml``: the single description of a network.

Anything unknown, missing, duplicate or impossible is refused with its line and the reason.

Example:
    >>> description = Description.load(Path("consortium.yaml"))
    >>> description.organisation("regulator").ports.peer
    17060
"""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from blockfl.network.errors import DescriptionError
from blockfl.protocol.canonical import Name
from blockfl.protocol.records import Consortium, Member, Role

PORTS_PER_ORGANISATION = 10
Port = Annotated[int, Field(ge=1024, le=65535)]


Consensus = Literal["BFT", "raft"]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Ports(_Model):
    """An organisation's ports on its host."""

    peer: Port
    contract: Port
    peer_operations: Port
    orderer: Port
    orderer_admin: Port
    orderer_operations: Port
    peer_chaincode: Port

    @classmethod
    def from_base(cls, base: int) -> Self:
        """Return consecutive ports from ``base`` on."""
        return cls(**{name: base + offset for offset, name in enumerate(cls.model_fields)})


class Organisation(_Model):
    """One organisation: its roles, and where its nodes listen."""

    name: Name
    roles: Annotated[list[Role], Field(min_length=1)]
    orderer: bool = False
    host: str = "127.0.0.1"
    ports: Ports

    @property
    def peer_host(self) -> str:
        """The name under which the organisation's peer is reached."""
        return self.host

    @property
    def orderer_host(self) -> str:
        """The name under which its ordering node is reached."""
        return self.host

    @property
    def contract_host(self) -> str:
        """The name under which its peer reaches its contract service."""
        return self.host


class ContainerOrganisation(Organisation):
    """An organisation as containers see it: each of its nodes has a name of its own."""

    @property
    def peer_host(self) -> str:
        """The peer's name on the containers' networks."""
        return f"peer.{self.name}"

    @property
    def orderer_host(self) -> str:
        """The ordering node's name on the containers' networks."""
        return f"orderer.{self.name}"

    @property
    def contract_host(self) -> str:
        """The contract service's name on the containers' networks."""
        return f"contract.{self.name}"


class Description(_Model):
    """The whole network."""

    network: Name
    channel: Name
    contract: Name
    threshold: Annotated[int, Field(ge=2)]
    consensus: Consensus = "BFT"
    base_port: Annotated[int, Field(ge=1024, le=65000)] = 17050
    organisations: Annotated[list[Organisation], Field(min_length=2)]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a description.

        Raises:
            DescriptionError: Naming file, line and reason.
        """
        try:
            text = path.read_text()
        except OSError as error:
            raise DescriptionError(f"{path}: cannot be read ({error.strerror})") from error
        return cls.parse(text, str(path))

    @classmethod
    def load_default(cls, base_port: int | None = None) -> Self:
        """Return the default consortium, its ports from ``base_port`` on."""
        text = default_description()
        if base_port is not None:
            text = text.replace("base_port: 17050", f"base_port: {base_port}")
        return cls.parse(text, "consortium.yaml")

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Read a description from YAML text; ``source`` names it in errors.

        Raises:
            DescriptionError: Naming source, line and reason.
        """
        try:
            root = yaml.compose(text, yaml.SafeLoader)
            _refuse_duplicates(root, source)
            content = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise DescriptionError(f"{source}, line {line}: {error.problem}") from error
        if not isinstance(content, dict):
            raise DescriptionError(f"{source}, line 1: expected a mapping with network, channel, organisations, …")
        try:
            return cls.model_validate(_with_ports(content))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            line = _line(root, first["loc"])
            raise DescriptionError(f"{source}, line {line}: {place + ': ' if place else ''}{reason}") from error

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [organisation.name for organisation in self.organisations]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"organisation {name} is described twice")
        used: dict[tuple[str, int], str] = {}
        for organisation in self.organisations:
            for purpose, port in organisation.ports:
                place = (organisation.host, port)
                if place in used:
                    here = f"{organisation.name} ({purpose})"
                    raise ValueError(f"port {port} of {organisation.host} is used twice: {used[place]} and {here}")
                used[place] = f"{organisation.name} ({purpose})"
        if not any(organisation.orderer for organisation in self.organisations):
            raise ValueError("no organisation has `orderer: true`; at least one must order transactions")
        if not any("institution" in organisation.roles for organisation in self.organisations):
            raise ValueError("no organisation has the role institution")
        _ = self.consortium
        return self

    @property
    def consortium(self) -> Consortium:
        """The record that every organisation agrees to and that the contract registers."""
        return Consortium(
            network=self.network,
            channel=self.channel,
            contract=self.contract,
            sequence=1,
            members=tuple(
                Member(organisation=one.name, roles=tuple(sorted(set(one.roles))))
                for one in sorted(self.organisations, key=lambda one: one.name)
            ),
            threshold=self.threshold,
        )

    def dump(self) -> str:
        """Return the description as YAML with every port written out."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))

    def in_containers(self) -> Self:
        """Return the same network as its containers see it."""
        seen = [ContainerOrganisation(**dict(organisation)) for organisation in self.organisations]
        return self.model_copy(update={"organisations": seen})

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


LedgerKind = Literal["embedded", "local", "compose"]


def default_description() -> str:
    """Return the text of the default consortium.yaml."""
    return resources.files("blockfl.network").joinpath("consortium.yaml").read_text()


def _with_ports(content: dict[str, object]) -> dict[str, object]:
    """Return the content with each organisation's ports filled in from the base port."""
    base = content.get("base_port", 17050)
    organisations = content.get("organisations")
    if not isinstance(base, int) or not isinstance(organisations, list):
        return content
    filled: list[object] = []
    for index, organisation in enumerate(organisations):
        if isinstance(organisation, dict) and isinstance(organisation.get("ports", {}), dict):
            given = organisation.get("ports", {})
            defaults = dict(zip(Ports.model_fields, range(base + index * PORTS_PER_ORGANISATION, 65536), strict=False))
            filled.append({**organisation, "ports": {**defaults, **given}})
        else:
            filled.append(organisation)
    return {**content, "organisations": filled}


def _refuse_duplicates(node: yaml.Node | None, source: str) -> None:
    """Refuse a mapping that has one key twice; YAML itself would silently keep the last."""
    for mapping in _mappings(node):
        seen: set[str] = set()
        for key, _ in mapping.value:
            if key.value in seen:
                raise DescriptionError(f"{source}, line {key.start_mark.line + 1}: {key.value} stands here twice")
            seen.add(key.value)


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)


def _line(node: yaml.Node | None, place: tuple[int | str, ...]) -> int:
    """Return the line of the innermost node that a place names."""
    line = node.start_mark.line + 1 if node else 1
    for part in place:
        child: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            child = next((value for key, value in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            child = node.value[part]
        if child is None:
            break
        node, line = child, child.start_mark.line + 1
    return line
