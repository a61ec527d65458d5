"""Hyperledger Fabric's own programs as the operator has them: found, and their version checked.

``FABRIC_BIN`` names the directory with ``peer`` and ``orderer``; without it they are looked for on the PATH. Their
``core.yaml`` and ``orderer.yaml`` are looked for in ``FABRIC_CFG_PATH``, beside the programs, and in ``../config``
beside those, where the official release archive has them.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blockfl.network.errors import NetworkError

SERIES = (3, 1)
"""The release series that the settings here are made for and tested with."""
_TIMEOUT_S = 20.0
_VERSION = re.compile(r"^\s*Version:\s*v?((\d+)\.(\d+)\.[0-9A-Za-z.+-]+)\s*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class FabricBinaries:
    """Programs and the directories of their configuration files."""

    peer: Path
    orderer: Path
    peer_configuration: Path
    orderer_configuration: Path
    version: str


def find_binaries(environment: Mapping[str, str] | None = None) -> FabricBinaries:
    """Find Fabric's programs and check that they are of the right version.

    Args:
        environment: Where ``FABRIC_BIN``, ``FABRIC_CFG_PATH`` and ``PATH`` stand; by default this process's own.

    Raises:
        NetworkError: One is missing or of another version; the text says what to do.
    """
    given = os.environ if environment is None else environment
    peer, orderer = _find_program("peer", given), _find_program("orderer", given)
    versions = {program: _read_version(program) for program in (peer, orderer)}
    if len(set(versions.values())) > 1:
        found = ", ".join(f"{program} is {version}" for program, version in versions.items())
        raise NetworkError(f"expected peer and orderer of one version, got {found}; take both from one release")
    return FabricBinaries(
        peer=peer,
        orderer=orderer,
        peer_configuration=_find_configuration("core.yaml", peer, given),
        orderer_configuration=_find_configuration("orderer.yaml", orderer, given),
        version=versions[peer],
    )


def _find_program(name: str, environment: Mapping[str, str]) -> Path:
    directory = environment.get("FABRIC_BIN")
    if directory:
        program = Path(directory) / name
        if not (program.is_file() and os.access(program, os.X_OK)):
            raise NetworkError(
                f"expected Fabric's program {name} in FABRIC_BIN={directory}, there is none that can be executed; "
                "name the directory `bin` of an unpacked Hyperledger Fabric 3.1 release"
            )
        return program.resolve()
    found = shutil.which(name, path=environment.get("PATH", ""))
    if found is None:
        raise NetworkError(
            f"the local ledger needs Fabric's program {name}, which is neither in FABRIC_BIN nor on the PATH; unpack "
            "a Hyperledger Fabric 3.1 release and set FABRIC_BIN to its directory `bin`, or use --ledger embedded"
        )
    return Path(found).resolve()


def _find_configuration(name: str, program: Path, environment: Mapping[str, str]) -> Path:
    named = environment.get("FABRIC_CFG_PATH")
    places: Sequence[Path] = [program.parent, program.parent.parent / "config"]
    if named:
        places = [Path(named), *places]
    for place in places:
        if (place / name).is_file():
            return place.resolve()
    looked = ", ".join(str(place) for place in places)
    raise NetworkError(
        f"Fabric's configuration file {name} is in none of {looked}; it comes with the release, in `config`: set "
        "FABRIC_CFG_PATH to that directory"
    )


def _read_version(program: Path) -> str:
    try:
        answer = subprocess.run(
            [str(program), "version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"{program} does not run: {error}") from error
    found = _VERSION.search(answer.stdout)
    if found is None:
        said = (answer.stdout + answer.stderr).strip().splitlines()
        raise NetworkError(
            f"expected `{program} version` to tell Fabric's version, it said {said[0] if said else 'nothing'!r}; "
            "is this Hyperledger Fabric?"
        )
    if (int(found[2]), int(found[3])) != SERIES:
        raise NetworkError(
            f"expected Hyperledger Fabric {SERIES[0]}.{SERIES[1]}, {program} is {found[1]}; "
            f"set FABRIC_BIN to a release {SERIES[0]}.{SERIES[1]}"
        )
    return found[1]
