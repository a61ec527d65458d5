"""A consortium founded by hosts that give each other public files only, as seven IT departments would.

Example:
    with Hosts.make(directory, list(FOUNDERS), Link(delay_ms=40)) as hosts:
        consortium = HostConsortium(hosts)
        consortium.found()
        consortium.bring_up(print)
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from examples.hosts.hosts import Hosts

PART = "part"
"""Name of the directory on each host that holds its organisation's part."""
_FOUNDING = "founding.json"
_UP_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Founder:
    """What an organisation says of itself when it makes its part.

    With ``gateways`` it runs no peer; with ``guarded`` a guard stands before its ordering node.
    """

    roles: Sequence[str]
    orders: bool = False
    guarded: bool = False
    gateways: Sequence[str] = ()


FOUNDERS: Mapping[str, Founder] = {
    "coordinator": Founder(roles=["committee", "coordinator"], orders=True),
    "regulator": Founder(roles=["committee"], orders=True),
    "university": Founder(roles=["committee"], orders=True),
    "cleveland": Founder(roles=["institution"], orders=True),
    "hungary": Founder(roles=["institution"]),
    "longbeach": Founder(roles=["institution"]),
    "switzerland": Founder(roles=["institution"]),
}
"""The default consortium."""


class HostConsortium:
    """A consortium whose organisations each have a host.

    Args:
        hosts: One for each founder, under its name.
        founders: Who they are; the first puts the founding file together.
    """

    def __init__(self, hosts: Hosts, founders: Mapping[str, Founder] = FOUNDERS) -> None:
        self.hosts = hosts
        self.founders = founders

    def part(self, name: str) -> Path:
        """Return the directory of an organisation's part, on its host."""
        return self.hosts[name].directory / PART

    def founding(self, name: str) -> Path:
        """Return where an organisation has the founding file."""
        return self.hosts[name].directory / _FOUNDING

    def profile(self, name: str) -> Path:
        """Return an organisation's connection profile."""
        return self.part(name) / "profiles" / "agent.json"

    def blockfl(self, name: str, *arguments: str, timeout_s: float = _UP_S, shows: bool = False) -> bytes:
        """Run a ``blockfl`` command on an organisation's host to its end; return what it printed."""
        return self.hosts[name].run(blockfl(*arguments), timeout_s=timeout_s, shows=shows)

    def found(self) -> None:
        """Make every organisation's keys on its host, and have all sign one founding file."""
        first, *others = self.founders
        self.each(self.founders, self.make_part)
        members = [
            self.hosts.hand_over(name, self.part(name) / "member.json", first, f"members/{name}.json")
            for name in self.founders
        ]
        founding = self.founding(first)
        self.blockfl(first, "network", "found", *map(str, members), "--output", str(founding), "--network", "heart")
        for name in others:
            self.hosts.hand_over(first, founding, name, _FOUNDING)
        self.each(self.founders, self._sign)
        for name in self.founders:
            signature = f"{_FOUNDING}.{name}.signature"
            for other in self.founders:
                if other != name:
                    self.hosts.hand_over(name, self.hosts[name].directory / signature, other, signature)

    def bring_up(self, report: Callable[[str], None]) -> None:
        """Have every host bring its part up, all at once; what is done already is left as it is."""

        def bring_up(name: str) -> None:
            self.bring_part_up(name)
            report(f"{name} is up")

        self.each(self.founders, bring_up)

    def bring_part_up(self, name: str) -> None:
        """Have one host bring its part up."""
        self.blockfl(name, "network", "up", "-d", str(self.part(name)), "--founding", str(self.founding(name)))

    def make_part(self, name: str, founder: Founder | None = None) -> None:
        """Have an organisation make its keys and its membership file; a newcomer says what it is."""
        founder, place = founder or self.founders[name], self.hosts[name].place
        roles = [word for role in founder.roles for word in ("--role", role)]
        self.blockfl(
            *(name, "network", "member", name, "-d", str(self.part(name)), *roles),
            *("--host", place.domain_name, "--listen", place.address),
            *(["--orderer"] if founder.orders else []),
            *(["--guard"] if founder.guarded else []),
            *(["--no-peer"] if founder.gateways else []),
            *(word for gateway in founder.gateways for word in ("--gateway", gateway)),
        )

    def _sign(self, name: str) -> None:
        founding = str(self.founding(name))
        self.blockfl(name, "network", "inspect", founding)
        self.blockfl(name, "network", "sign", founding, "-d", str(self.part(name)), "--yes")

    @staticmethod
    def each(names: Iterable[str], work: Callable[[str], None]) -> None:
        """Have something done on several hosts at once."""
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(work, names))


def blockfl(*arguments: str) -> list[str]:
    """Return a ``blockfl`` command."""
    return [sys.executable, "-m", "blockfl.cli.main", *arguments]
