"""The contract's definition as Fabric's own command takes it, for organisations that deploy with ``peer lifecycle``.

Files and options say the same as what ``blockfl network up`` approves, to the byte: organisations that use one and
organisations that use the other approve one definition.

Example:
    exported = export_definition(consortium, Path("deployment"))
    print(exported.approve)
"""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fabric_protos.msp import msp_principal_pb2

from blockfl.fabric.transaction.package import package_id
from blockfl.network.contract_service import define_contract, package_code
from blockfl.network.errors import NetworkError
from blockfl.network.identities import write_file
from blockfl.protocol.records import Consortium

COLLECTIONS: Final = "collections.json"
_IN_POLICIES: Final = re.compile(r"[A-Za-z0-9.-]+")
"""What Fabric's language of policies takes as an MSP id."""


@dataclass(frozen=True, kw_only=True)
class ExportedDefinition:
    """What was written, and how Fabric's own command is called with it.

    Attributes:
        package: The contract's package.
        collections: Its private data collections, as JSON.
        install: Command line for a peer of one's own.
        approve: Command line for one's organisation.
        commit: Command line for one organisation, when a majority has approved.
    """

    package: Path
    collections: Path
    install: str
    approve: str
    commit: str


def export_definition(consortium: Consortium, directory: Path, sequence: int = 1) -> ExportedDefinition:
    """Write package and collections, and say how ``peer lifecycle chaincode`` is called with them.

    Args:
        consortium: The record that all organisations agree to.
        directory: Where the files go.
        sequence: Of the definition: one more than that in force.

    Raises:
        NetworkError: An MSP id cannot stand in Fabric's policies, or a file cannot be written.
    """
    definition, content = define_contract(consortium, sequence), package_code(consortium.contract)
    package, collections = directory / f"{consortium.contract}.tar.gz", directory / COLLECTIONS
    described = [_describe(one.encode().static_collection_config) for one in definition.collections]
    try:
        write_file(package, content)
        write_file(collections, f"{json.dumps(described, indent=2)}\n".encode())
    except OSError as error:
        raise NetworkError(f"{error.filename}: cannot be written ({error.strerror})") from error
    options = ["--channelID", consortium.channel, "--name", definition.name, "--version", definition.version]
    options += ["--sequence", str(sequence), "--channel-config-policy", str(definition.endorsement_policy)]
    options += ["--collections-config", str(collections)]
    return ExportedDefinition(
        package=package,
        collections=collections,
        install=_command("install", str(package)),
        approve=_command("approveformyorg", *options, "--package-id", package_id(content)),
        commit=_command("commit", *options),
    )


def _command(step: str, *arguments: str) -> str:
    return shlex.join(["peer", "lifecycle", "chaincode", step, *arguments])


def _describe(collection: Any) -> dict[str, object]:
    """Return a ``StaticCollectionConfig`` as the file for ``--collections-config`` has it."""
    return {
        "name": collection.name,
        "policy": _describe_policy(collection.member_orgs_policy.signature_policy),
        "requiredPeerCount": collection.required_peer_count,
        "maxPeerCount": collection.maximum_peer_count,
        "blockToLive": collection.block_to_live,
        "memberOnlyRead": collection.member_only_read,
        "memberOnlyWrite": collection.member_only_write,
        "endorsementPolicy": {"signaturePolicy": _describe_policy(collection.endorsement_policy.signature_policy)},
    }


def _describe_policy(envelope: Any) -> str:
    """Return a policy "so many of these" in Fabric's language."""
    principals = []
    for one in envelope.identities:
        role = msp_principal_pb2.MSPRole.FromString(one.principal)
        if not _IN_POLICIES.fullmatch(role.msp_identifier):
            raise NetworkError(
                f"the MSP id {role.msp_identifier} cannot stand in the policies of `peer lifecycle` (letters, digits, "
                "dots, hyphens): approve with blockfl network contract approve"
            )
        kind = msp_principal_pb2.MSPRole.MSPRoleType.Name(role.role).lower()
        principals.append(f"'{role.msp_identifier}.{kind}'")
    return f"OutOf({envelope.rule.n_out_of.n}, {', '.join(principals)})"
