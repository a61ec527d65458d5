"""One organisation as a network needs to know it: its roles, where its nodes listen, and where others dial them.

Example:
    >>> one = Organisation(name="hungary", roles=["institution"], host="::1", ports=Ports.from_base(17050))
    >>> one.peer_address, one.msp_id
    ('[::1]:17050', 'hungary')
"""

from ipaddress import ip_address
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from blockfl.ledger.profile import MINIMUM_GATEWAYS
from blockfl.network.errors import NetworkError
from blockfl.network.port import format_address, normalise_host, parse_address
from blockfl.protocol.canonical import MspId, Name
from blockfl.protocol.economics import TREASURY
from blockfl.protocol.records import Role

Port = Annotated[int, Field(ge=1024, le=65535)]
LOOPBACK = "127.0.0.1"
ANY = "0.0.0.0"  # noqa: S104 - of a container
_INNER = ("127.0.0.2", "127.0.0.3")
_GUARD_OFFSETS = {"guard": 8, "guard_operations": 9}


class DescriptionPart(BaseModel):
    """A part of a description: strict, and with nothing in it that is not known."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Ports(DescriptionPart):
    """An organisation's ports on its host."""

    peer: Port
    contract: Port
    peer_operations: Port
    orderer: Port
    orderer_admin: Port
    orderer_operations: Port
    peer_chaincode: Port
    contract_operations: Port
    guard: Port
    guard_operations: Port

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, content: Any) -> Any:
        """Those of a guard follow the peer's, where a description from before there were guards does not have them."""
        if isinstance(content, dict) and isinstance(first := content.get("peer"), int):
            return {name: first + offset for name, offset in _GUARD_OFFSETS.items()} | content
        return content

    @classmethod
    def from_base(cls, base: int) -> Self:
        """Return consecutive ports from ``base`` on."""
        return cls(**{name: base + offset for offset, name in enumerate(cls.model_fields)})


class Organisation(DescriptionPart):
    """One organisation: its roles, and where its nodes are.

    Attributes:
        name: What files, hosts and people call it.
        msp_id: What the ledger calls it; the name, unless it is given.
        orderer: Whether it runs an ordering node.
        host: The name or address by which others reach its nodes.
        listen: The address on which they listen; the host, unless it is given.
        peer: ``host:port`` that others dial for its peer, where that is not host and port.
        ordering_node: Likewise for its ordering node.
        guard: Whether a guard stands before its ordering node.
        guard_node: ``host:port`` that others dial for its guard, where that is not host and port.
        gateways: Of an institution that runs no peer and opens no port: the organisations, by name, through whose
            gateways it reaches the ledger; the first that is there serves it.
    """

    name: Name
    msp_id: MspId = ""
    roles: Annotated[list[Role], Field(min_length=1)]
    orderer: bool = False
    host: str = LOOPBACK
    listen: str = ""
    peer: str = ""
    ordering_node: str = ""
    guard: bool = False
    guard_node: str = ""
    gateways: list[Name] = []
    ports: Ports

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, content: Any) -> Any:
        if isinstance(content, dict) and "name" in content:
            return {"msp_id": content["name"], **content}
        return content

    @field_validator("name", "msp_id")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name == TREASURY:
            raise ValueError(f"{TREASURY} is the account that belongs to nobody: choose another name")
        return name

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str) -> str:
        return str(_valid(normalise_host, host))

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, host: str) -> str:
        return str(_valid(normalise_host, host)) if host else host

    @field_validator("peer", "ordering_node", "guard_node")
    @classmethod
    def _check_address(cls, address: str) -> str:
        return format_address(*_valid(parse_address, address)) if address else address

    @model_validator(mode="after")
    def _check_guard(self) -> Self:
        if self.guard and not self.orderer:
            raise ValueError(f"{self.name} runs no ordering node, so there is nothing for a guard to stand before")
        if self.guard_node and not self.guard:
            raise ValueError(f"{self.name} has no guard, so others cannot dial it at {self.guard_node}")
        return self

    @model_validator(mode="after")
    def _check_gateways(self) -> Self:
        if self.has_peer:
            return self
        if set(self.roles) != {"institution"}:
            raise ValueError(
                f"{self.name} runs no peer, and only an institution may: a member of the committee and the coordinator "
                "endorse, so they need one"
            )
        if self.orderer:
            raise ValueError(f"{self.name} opens no port, so it cannot run an ordering node")
        if len(set(self.gateways)) < MINIMUM_GATEWAYS or self.name in self.gateways:
            raise ValueError(
                f"{self.name} runs no peer: expected the gateways of {MINIMUM_GATEWAYS} other organisations or more, "
                f"got {', '.join(self.gateways)}; with one it stands still when that one is gone"
            )
        return self

    @property
    def has_peer(self) -> bool:
        """Whether it runs a peer, and so a contract service."""
        return not self.gateways

    @property
    def listen_host(self) -> str:
        """The address on which what others dial listens."""
        return self.listen or self.host

    @property
    def local_host(self) -> str:
        """The address on which that listens which only the organisation's own processes dial."""
        try:
            return self.listen_host if ip_address(self.listen_host).is_loopback else LOOPBACK
        except ValueError:
            return LOOPBACK

    @property
    def peer_address(self) -> str:
        """Where others dial its peer."""
        return self.peer or format_address(self.host, self.ports.peer)

    @property
    def orderer_address(self) -> str:
        """Where others dial its ordering node: all of them, or with a guard before it the other ordering nodes."""
        return self.ordering_node or format_address(self.host, self.ports.orderer)

    @property
    def guard_address(self) -> str:
        """Where peers and clients dial the guard before its ordering node."""
        return self.guard_node or format_address(self.host, self.ports.guard)

    @property
    def guard_operations_address(self) -> str:
        """Where its guard tells how it is."""
        return format_address(self.local_host, self.ports.guard_operations)

    @property
    def inner_host(self) -> str:
        """The address of this machine alone on which an ordering node listens that its guard alone dials."""
        return next(host for host in _INNER if host != self.local_host)

    @property
    def inner_orderer_address(self) -> str:
        """Where its guard dials its ordering node."""
        return format_address(self.inner_host, self.ports.guard_operations)

    @property
    def orderer_admin_address(self) -> str:
        """Where its own administrator dials its ordering node."""
        return format_address(self.local_host, self.ports.orderer_admin)

    @property
    def contract_address(self) -> str:
        """Where its own peer dials its contract service."""
        return format_address(self.local_host, self.ports.contract)

    @property
    def contract_listen(self) -> str:
        """Where its contract service listens."""
        return self.contract_address

    @property
    def contract_operations_address(self) -> str:
        """Where its contract service tells how it is; loopback, in a container the container's own."""
        return format_address(self.local_host, self.ports.contract_operations)

    @property
    def own_peer_address(self) -> str:
        """Where its own users dial its peer: without a detour through what maps ports for others."""
        return format_address(self.host if _is_any(self.listen_host) else self.listen_host, self.ports.peer)

    @property
    def hosts(self) -> list[str]:
        """Every name and address by which its nodes are dialled: what their TLS certificates say."""
        addresses = [self.peer_address, self.orderer_address, self.own_peer_address]
        dialled = [parse_address(one)[0] for one in (*addresses, *([self.guard_address] if self.guard else []))]
        containers = [f"{kind}.{self.name}" for kind in ("peer", "orderer", "contract")]
        return list(dict.fromkeys([*dialled, self.host, self.local_host, "localhost", *containers]))


class ContainerOrganisation(Organisation):
    """An organisation as its own containers see it: each of its nodes has a name, and an interface, of its own.

    Others dial its nodes as they would without containers: through the ports that its host publishes.
    """

    @classmethod
    def of(cls, organisation: Organisation) -> Self:
        """Return an organisation as containers see it."""
        return cls(**dict(organisation))

    @property
    def local_host(self) -> str:
        """A container's own loopback interface."""
        return LOOPBACK

    @property
    def orderer_admin_address(self) -> str:
        """The ordering node's name on the containers' networks."""
        return f"orderer.{self.name}:{self.ports.orderer_admin}"

    @property
    def own_peer_address(self) -> str:
        """The peer's name on the containers' networks."""
        return f"peer.{self.name}:{self.ports.peer}"

    @property
    def contract_address(self) -> str:
        """The contract service's name on the containers' networks."""
        return f"contract.{self.name}:{self.ports.contract}"

    @property
    def contract_listen(self) -> str:
        """Every interface of its container."""
        return f"{ANY}:{self.ports.contract}"

    @property
    def orderer_names(self) -> list[str]:
        """The ordering node's names on the containers' networks: its own, and the one by which others dial it."""
        host, port = parse_address(self.orderer_address)
        own = f"orderer.{self.name}"
        return [own] if port != self.ports.orderer or _is_address(host) else list(dict.fromkeys([own, host]))

    def publish(self, port: int) -> str:
        """Return how Docker publishes a port that others dial."""
        return f"{format_address(self.listen_host, port)}:{port}"

    def publish_locally(self, port: int) -> str:
        """Return how Docker publishes a port that only the organisation's own people dial."""
        return f"{format_address(super().local_host, port)}:{port}"

    def require_containers(self) -> None:
        """Check that its containers can be reached.

        Raises:
            NetworkError: Docker cannot publish their ports where it says, or others would dial themselves.
        """
        if not self.has_peer:
            raise NetworkError(
                f"organisation {self.name} runs no peer, and its agent no container yet: run it as a process, "
                "blockfl network up and blockfl institution run"
            )
        if self.guard:
            raise NetworkError(
                f"organisation {self.name} has a guard before its ordering node, and there is no container for it yet: "
                "run its part as processes, or leave `guard` out"
            )
        if not _is_address(self.listen_host):
            raise NetworkError(
                f"organisation {self.name} has the host {self.listen_host}; expected an address of this machine, such "
                "as 127.0.0.1, on which Docker publishes its containers' ports: `listen` may name one apart from `host`"
            )
        for address in (self.peer_address, self.orderer_address) if self.orderer else (self.peer_address,):
            host = parse_address(address)[0]
            if host == "localhost" or (_is_address(host) and ip_address(host).is_loopback):
                raise NetworkError(
                    f"others dial {self.name} at {address}, which in a container is that container itself; expected a "
                    "name or an address by which other hosts reach it"
                )


class NeighbourOrganisation(ContainerOrganisation):
    """An organisation as containers of a machine with all organisations see it: they dial each other's by name."""

    @property
    def peer_address(self) -> str:
        """The peer's name on the containers' networks."""
        return self.own_peer_address

    @property
    def orderer_address(self) -> str:
        """The ordering node's name on the containers' networks."""
        return f"orderer.{self.name}:{self.ports.orderer}"


def _valid(check: Any, text: str) -> Any:
    try:
        return check(text)
    except NetworkError as error:
        raise ValueError(str(error)) from error


def _is_address(host: str) -> bool:
    """Whether a host is an address, and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_any(host: str) -> bool:
    """Whether an address stands for every interface."""
    return host in (ANY, "::")
