"""The organisations in a channel's configuration, and how values are read there.

One organisation's administrator can write everything that peers take into the configuration. Where such a part cannot
be used here, nobody has rights by it, and the rest of the configuration holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from fabric_protos.common import configuration_pb2
from fabric_protos.msp import msp_config_pb2
from fabric_protos.peer import configuration_pb2 as peer_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import ConfigError, IdentityError
from blockfl.fabric.identity.membership import IDEMIX_TYPE
from blockfl.fabric.identity.msp import Msp
from blockfl.fabric.identity.msp_manager import MspManager, UnjudgedMsp

_REMEMBERED: Final = 64
ORDERER_ORGANISATION_VALUES: Final = {
    "MSP": msp_config_pb2.MSPConfig,
    "Endpoints": configuration_pb2.OrdererAddresses,
}
APPLICATION_ORGANISATION_VALUES: Final = {"MSP": msp_config_pb2.MSPConfig, "AnchorPeers": peer_pb2.AnchorPeers}


@dataclass(frozen=True, kw_only=True)
class UnjudgedPart:
    """A part of a configuration that cannot be used here.

    Attributes:
        what: which part.
        why: what is wrong with it.
        is_refused: whether peers refuse it, too, as far as is known; otherwise they use it.
    """

    what: str
    why: str
    is_refused: bool = True

    def __str__(self) -> str:
        return f"{self.what} cannot be used: {self.why}"


class Organisations:
    """The organisations of a configuration, and their membership service providers."""

    def __init__(self, *, is_v3: bool) -> None:
        self._is_v3 = is_v3
        self._configs: dict[str, Any] = {}
        self._msps: dict[str, Msp] = {}
        self.ids: dict[tuple[str, str], str] = {}
        """MSP ids by group and name."""
        self.unjudged: list[UnjudgedPart] = []

    @property
    def msps(self) -> MspManager:
        """The membership service providers of all organisations."""
        return MspManager(self._msps)

    def add_group(self, kind: str, group: Any, known: Mapping[str, Any]) -> None:
        """Read the organisations of a group (common.ConfigGroup).

        Args:
            kind: the group's name.
            group: the group.
            known: the values that such an organisation may have.

        Raises:
            ConfigError: an organisation is described in another way than it must be.
        """
        for name, organisation in group.groups.items():
            if organisation.groups:
                raise ConfigError(f"expected no groups inside the organisation {name!r}")
            config = require_value(read_values(organisation, known, name), "MSP", name)
            self.ids[kind, name] = self._add(config, name)

    def _add(self, config: Any, name: str) -> str:
        msp_id = str(decode_value(msp_config_pb2.FabricMSPConfig, config.config, f"the membership of {name!r}").name)
        if not msp_id:
            raise ConfigError(f"the membership of {name!r} is refused: expected an MSP with an id, got an empty one")
        if self._configs.setdefault(msp_id, config) != config:
            raise ConfigError(f"expected one definition of the MSP {msp_id!r}, got two different ones")
        if msp_id not in self._msps:
            self._msps[msp_id] = self._set_up(config, msp_id)
        return msp_id

    def _set_up(self, config: Any, msp_id: str) -> Msp:
        try:
            return set_up_msp(config.SerializeToString(deterministic=True), self._is_v3)
        except IdentityError as error:
            is_idemix = config.type == IDEMIX_TYPE and not self._is_v3
            self.unjudged.append(
                UnjudgedPart(what=f"the membership {msp_id!r}", why=str(error), is_refused=not is_idemix)
            )
            return UnjudgedMsp(msp_id, str(error))


@lru_cache(maxsize=_REMEMBERED)
def set_up_msp(encoded: bytes, ed25519_allowed: bool) -> Msp:
    """A membership (serialised msp.MSPConfig), the same one in every configuration that repeats it.

    Raises:
        IdentityError: peers refuse it.
    """
    return Msp.from_config(msp_config_pb2.MSPConfig.FromString(encoded), ed25519_allowed=ed25519_allowed)


def decode_value(kind: Any, encoded: bytes, what: str) -> Any:
    """Parse a message of a configuration.

    Raises:
        ConfigError: the bytes are none.
    """
    try:
        return parse(kind, encoded)
    except DecodeError as error:
        raise ConfigError(f"expected {what}, got {len(encoded)} bytes that are none") from error


def read_values(group: Any, known: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a group, all of which must be known.

    Raises:
        ConfigError: one is unknown, or is not what it should be.
    """
    if unknown := set(group.values) - set(known):
        raise ConfigError(f"expected the values {', '.join(known)} in {where}, got {', '.join(sorted(unknown))}")
    return {key: decode_value(known[key], entry.value, f"{key} in {where}") for key, entry in group.values.items()}


def require_value(values: Mapping[str, Any], key: str, where: str) -> Any:
    """A value that must be there.

    Raises:
        ConfigError: it is not.
    """
    if key not in values:
        raise ConfigError(f"expected the value {key} in {where}, got none")
    return values[key]
