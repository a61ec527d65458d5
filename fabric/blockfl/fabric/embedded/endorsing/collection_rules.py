"""What a chaincode definition may say: names, versions, private data collections.

Source: Fabric's core/chaincode/lifecycle/scc.go.
"""

from __future__ import annotations

import re
from typing import Any

from fabric_protos.msp import msp_principal_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.embedded.endorsing.simulator import SimulationError
from blockfl.fabric.errors import IdentityError, PolicyError
from blockfl.fabric.identity.msp_manager import MspManager
from blockfl.fabric.identity.policy import SignaturePolicy

_NAME = re.compile(r"[a-zA-Z0-9]+([-_][a-zA-Z0-9]+)*")
_VERSION = re.compile(r"[A-Za-z0-9_.+-]+")
_COLLECTION = re.compile(r"[A-Za-z0-9-]+[A-Za-z0-9_-]*")
_SYSTEM_NAMES = frozenset({"cscc", "escc", "lscc", "qscc", "vscc"})


def check_names(name: str, version: str) -> None:
    """Checks the name and version of a chaincode.

    Raises:
        SimulationError: They are malformed or reserved.
    """
    if not _NAME.fullmatch(name):
        raise SimulationError(
            f"error validating chaincode definition: invalid chaincode name '{name}'. Names can only consist of "
            "alphanumerics, '_', and '-' and can only begin with alphanumerics"
        )
    if name in _SYSTEM_NAMES:
        raise SimulationError(
            f"error validating chaincode definition: chaincode name '{name}' is the name of a system chaincode"
        )
    if not _VERSION.fullmatch(version):
        raise SimulationError(
            f"error validating chaincode definition: invalid chaincode version '{version}'. Versions can only "
            "consist of alphanumerics, '_', '-', '+', and '.'"
        )


def check_collections(package: Any, msps: MspManager) -> None:
    """Checks the collections of a definition (protos.CollectionConfigPackage).

    Raises:
        SimulationError: One is malformed, named twice or names strangers.
    """
    seen: set[str] = set()
    for config in package.config:
        if config.WhichOneof("payload") != "static_collection_config":
            raise SimulationError("error validating chaincode definition: collection configuration is empty")
        collection = config.static_collection_config
        try:
            _check_collection(collection, msps)
            if collection.name in seen:
                raise SimulationError("found duplicate in collection configuration")
        except SimulationError as error:
            raise SimulationError(
                f"error validating chaincode definition: collection-name: {collection.name} -- {error}"
            ) from error
        seen.add(collection.name)


def check_upgrade(package: Any, committed: Any) -> None:
    """Checks that a new definition keeps the collections of the committed one.

    Raises:
        SimulationError: One is missing, or its blocks to live were changed.
    """
    new = {c.static_collection_config.name: c.static_collection_config for c in package.config}
    for config in committed.config:
        old = config.static_collection_config
        found = new.get(old.name)
        if found is None:
            raise SimulationError(
                f"error validating chaincode definition: existing collection [{old.name}] missing in the proposed "
                "collection configuration"
            )
        if found.block_to_live != old.block_to_live:
            raise SimulationError(
                f"error validating chaincode definition: the BlockToLive in an existing collection [{old.name}] "
                f"modified. Existing value [{old.block_to_live}]"
            )


def _check_collection(collection: Any, msps: MspManager) -> None:
    if not _COLLECTION.fullmatch(collection.name):
        raise SimulationError(
            "invalid name: it can only consist of alphanumerics, '_', and '-' and cannot begin with '_'"
        )
    required, maximum = collection.required_peer_count, collection.maximum_peer_count
    if required < 0:
        raise SimulationError(f"requiredPeerCount ({required}) cannot be less than zero")
    if maximum < required:
        raise SimulationError(
            f"maximum peer count ({maximum}) cannot be less than the required peer count ({required})"
        )
    if collection.member_orgs_policy.WhichOneof("payload") != "signature_policy":
        raise SimulationError("collection member policy is not set")
    policy = collection.member_orgs_policy.signature_policy
    try:
        SignaturePolicy(policy)
    except PolicyError as error:
        raise SimulationError(f"invalid member org policy: {error}") from error
    _check_alternatives(policy.rule)
    for principal in policy.identities:
        _check_member(principal, msps)


def _check_alternatives(rule: Any) -> None:
    if rule.WhichOneof("Type") != "n_out_of":
        return
    if rule.n_out_of.n != 1:
        raise SimulationError(
            f"error in member org policy: signature policy is not an OR concatenation, NOutOf {rule.n_out_of.n}"
        )
    for part in rule.n_out_of.rules:
        _check_alternatives(part)


def _check_member(principal: Any, msps: MspManager) -> None:
    kinds = msp_principal_pb2.MSPPrincipal
    kind = principal.principal_classification
    try:
        if kind == kinds.IDENTITY:
            msps.parse(principal.principal)
            return
        if kind == kinds.ROLE:
            msp_id = msp_principal_pb2.MSPRole.FromString(principal.principal).msp_identifier
        elif kind == kinds.ORGANIZATION_UNIT:
            msp_id = msp_principal_pb2.OrganizationUnit.FromString(principal.principal).msp_identifier
        else:
            raise SimulationError(f"principal type {kind} is not supported")
    except (DecodeError, IdentityError) as error:
        raise SimulationError(f"contains an identity that is not part of the channel: {error}") from error
    if msp_id not in msps:
        raise SimulationError(f"collection member '{msp_id}' is not part of the channel")
