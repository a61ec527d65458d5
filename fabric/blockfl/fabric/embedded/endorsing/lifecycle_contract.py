"""The `_lifecycle` system chaincode: packages are installed, definitions approved by organisations and committed.

Writes exactly what a real peer's lifecycle writes, so that a definition is an ordinary transaction that anybody can
verify. Refuses definitions that are malformed, out of sequence or not approved by the organisation whose peer is
asked.

Source: Fabric's core/chaincode/lifecycle/scc.go and lifecycle.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fabric_protos.peer import collection_pb2
from fabric_protos.peer.lifecycle import lifecycle_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import ENDORSEMENT, ChannelConfig
from blockfl.fabric.embedded.endorsing.collection_rules import check_collections, check_names, check_upgrade
from blockfl.fabric.embedded.endorsing.installation import Installation
from blockfl.fabric.embedded.endorsing.lifecycle_state import (
    NAMESPACES,
    SOURCES,
    OrganisationState,
    Parameters,
    PublicState,
    encode_data,
    find_mismatches,
    read_integer,
    read_metadata,
    write,
)
from blockfl.fabric.embedded.endorsing.simulator import SimulationError, Simulator
from blockfl.fabric.embedded.storage.definition import LEGACY_LIFECYCLE, channel_policy_reference, decode_state_data
from blockfl.fabric.errors import NodeError

_PARAMETERS = "ChaincodeParameters"
_DEFINITION = "ChaincodeDefinition"
_LOCAL_PACKAGE = "ChaincodeLocalPackage"
# Functions for the administrators of the peer's own organisation; the others have a policy of the channel.
_ADMIN_FUNCTIONS = frozenset(
    {
        "InstallChaincode",
        "QueryInstalledChaincode",
        "QueryInstalledChaincodes",
        "GetInstalledChaincodePackage",
        "ApproveChaincodeDefinitionForMyOrg",
        "QueryApprovedChaincodeDefinition",
        "QueryApprovedChaincodeDefinitions",
    }
)


class LifecycleRefusal(SimulationError):
    """The lifecycle refuses a call; `status` is what the response says."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class LifecycleContract:
    """The lifecycle as the peer of one organisation runs it.

    Args:
        organisation: The peer's MSP id.
        installation: The packages installed at this peer.
        config: Returns the channel's current configuration.
        committed: Lists (chaincode, version, package id approved by this organisation) of committed definitions.
    """

    def __init__(
        self,
        organisation: str,
        installation: Installation,
        config: Callable[[], ChannelConfig],
        committed: Callable[[], list[tuple[str, str, str]]],
    ) -> None:
        self._organisation = organisation
        self._installation = installation
        self._config = config
        self._committed = committed

    @staticmethod
    def needs_admin(function: str) -> bool:
        """Tells whether a function is for the organisation's own administrators."""
        return function in _ADMIN_FUNCTIONS

    def invoke(self, args: tuple[bytes, ...], simulator: Simulator | None) -> bytes:
        """Runs one call.

        Args:
            args: Name of the function and its serialised arguments.
            simulator: Where to read and write; None for calls that belong to no channel.

        Returns:
            The serialised result.

        Raises:
            LifecycleRefusal: The call is refused.
        """
        if len(args) != 2:
            raise LifecycleRefusal(f"lifecycle scc operations require exactly two arguments but received {len(args)}")
        function = args[0].decode(errors="replace")
        handler = _FUNCTIONS.get(function)
        if handler is None:
            raise LifecycleRefusal(f"the lifecycle has no function '{function}'")
        run, kind = handler
        try:
            request = kind.FromString(args[1])
            if simulator is None and function not in _CHANNELLESS:
                raise SimulationError("invalid channel-less operation: name a channel")
            return bytes(run(self, request, simulator).SerializeToString(deterministic=True))
        except LifecycleRefusal:
            raise
        except DecodeError as error:
            raise LifecycleRefusal(
                f"failed to invoke backing implementation of '{function}': could not parse its arguments: {error}"
            ) from error
        except (SimulationError, NodeError) as error:
            raise LifecycleRefusal(f"failed to invoke backing implementation of '{function}': {error}") from error

    # --- packages

    def _install(self, request: Any, _: Simulator | None) -> Any:
        package = self._installation.install(request.chaincode_install_package)
        return lifecycle_pb2.InstallChaincodeResult(label=package.label, package_id=package.package_id)

    def _query_installed(self, request: Any, _: Simulator | None) -> Any:
        package = self._installation.packages.get(request.package_id)
        if package is None:
            raise _not_installed(request.package_id)
        result = lifecycle_pb2.QueryInstalledChaincodeResult(label=package.label, package_id=package.package_id)
        self._add_references(result, package.package_id)
        return result

    def _query_all_installed(self, _request: Any, _: Simulator | None) -> Any:
        result = lifecycle_pb2.QueryInstalledChaincodesResult()
        for package in sorted(self._installation.packages.values(), key=lambda p: p.package_id):
            entry = result.installed_chaincodes.add(label=package.label, package_id=package.package_id)
            self._add_references(entry, package.package_id)
        return result

    def _add_references(self, result: Any, package_id: str) -> None:
        for name, version, approved in self._committed():
            if approved == package_id:
                result.references[self._config().channel_id].chaincodes.add(name=name, version=version)

    def _get_package(self, request: Any, _: Simulator | None) -> Any:
        if request.package_id not in self._installation.packages:
            raise _not_installed(request.package_id)
        archive = self._installation.read(request.package_id)
        return lifecycle_pb2.GetInstalledChaincodePackageResult(chaincode_install_package=archive)

    # --- approvals

    def _approve(self, request: Any, simulator: Simulator) -> Any:
        self._check_input(request, simulator)
        parameters = self._parameters(request)
        package_id = request.source.local_package.package_id
        public, own = PublicState(simulator), OrganisationState(simulator, self._organisation)
        current, requested = read_integer(request.name, "Sequence", public), request.sequence
        _check_sequence(current, requested)
        private_name = f"{request.name}#{requested}"
        if requested == current:
            if read_metadata(NAMESPACES, request.name, public) is None:
                raise SimulationError(f"missing metadata for currently committed sequence number ({current})")
            # The whole structure is read, its sequence included, as a peer does.
            read_integer(request.name, "Sequence", public)
            if difference := Parameters.read(request.name, public).difference(parameters):
                raise SimulationError(
                    f"attempted to redefine the current committed sequence ({current}) for namespace {request.name} "
                    f"with different parameters: {difference}"
                )
        if self._is_approved(private_name, parameters, package_id, own):
            if requested == current:
                raise SimulationError(
                    f"attempted to redefine the current committed sequence ({current}) for namespace {request.name}"
                )
            raise SimulationError(
                f"attempted to redefine uncommitted sequence ({requested}) for namespace {request.name} "
                "with unchanged content"
            )
        write(NAMESPACES, private_name, _PARAMETERS, parameters.fields(), own)
        write(SOURCES, private_name, _LOCAL_PACKAGE, {"PackageID": encode_data(String=package_id)}, own)
        return lifecycle_pb2.ApproveChaincodeDefinitionForMyOrgResult()

    def _is_approved(self, name: str, parameters: Parameters, package_id: str, own: OrganisationState) -> bool:
        if read_metadata(NAMESPACES, name, own) is None or Parameters.read(name, own).difference(parameters):
            return False
        return read_metadata(SOURCES, name, own) is not None and _read_package_id(name, own) == package_id

    def _query_approved(self, request: Any, simulator: Simulator) -> Any:
        public, own = PublicState(simulator), OrganisationState(simulator, self._organisation)
        sequence = request.sequence
        if not sequence:
            sequence = read_integer(request.name, "Sequence", public)
            if read_metadata(NAMESPACES, f"{request.name}#{sequence + 1}", own) is not None:
                sequence += 1
        name = f"{request.name}#{sequence}"
        if read_metadata(NAMESPACES, name, own) is None:
            raise SimulationError(
                f"could not fetch approved chaincode definition (name: '{request.name}', sequence: '{sequence}') "
                f"on channel '{self._config().channel_id}'"
            )
        return _fill(
            lifecycle_pb2.QueryApprovedChaincodeDefinitionResult(), Parameters.read(name, own), sequence, own, name
        )

    def _query_all_approved(self, _: Any, simulator: Simulator) -> Any:
        own = OrganisationState(simulator, self._organisation)
        result = lifecycle_pb2.QueryApprovedChaincodeDefinitionsResult()
        prefix = f"{NAMESPACES}/metadata/"
        scan = simulator.scan_private("_lifecycle", f"_implicit_org_{self._organisation}", prefix, prefix + "\x7f")
        while (row := scan.next()) is not None:
            name = row[0].removeprefix(prefix)
            chaincode, _, sequence = name.partition("#")
            entry = result.approved_chaincode_definitions.add(name=chaincode)
            _fill(entry, Parameters.read(name, own), int(sequence), own, name)
        return result

    # --- committed definitions

    def _check_readiness(self, request: Any, simulator: Simulator) -> Any:
        mismatches = self._find_approvals(request, simulator)
        result = lifecycle_pb2.CheckCommitReadinessResult(
            approvals={msp_id: not found for msp_id, found in mismatches.items()}
        )
        for msp_id, found in mismatches.items():
            if found:
                result.mismatches[msp_id].items.extend(found)
        return result

    def _commit(self, request: Any, simulator: Simulator) -> Any:
        self._check_input(request, simulator)
        if self._organisation not in self._config().application_msp_ids:
            raise SimulationError(f"{self._organisation} is not an application organisation of the channel")
        mismatches = self._find_approvals(request, simulator)
        fields = {"Sequence": encode_data(Int64=request.sequence), **self._parameters(request).fields()}
        write(NAMESPACES, request.name, _DEFINITION, fields, PublicState(simulator))
        if mismatches[self._organisation]:
            raise SimulationError(f"chaincode definition not agreed to by this org ({self._organisation})")
        return lifecycle_pb2.CommitChaincodeDefinitionResult()

    def _find_approvals(self, request: Any, simulator: Simulator) -> dict[str, list[str]]:
        current = read_integer(request.name, "Sequence", PublicState(simulator))
        if request.sequence != current + 1:
            raise SimulationError(
                f"requested sequence is {request.sequence}, but new definition must be sequence {current + 1}"
            )
        return self._compare(request.name, request.sequence, self._parameters(request), simulator)

    def _compare(self, name: str, sequence: int, parameters: Parameters, simulator: Simulator) -> dict[str, list[str]]:
        fields = parameters.fields()
        return {
            msp_id: find_mismatches(f"{name}#{sequence}", _PARAMETERS, fields, OrganisationState(simulator, msp_id))
            for msp_id in self._config().application_msp_ids
        }

    def _query_definition(self, request: Any, simulator: Simulator) -> Any:
        sequence, parameters = self._read_definition(request.name, simulator)
        result = _fill(lifecycle_pb2.QueryChaincodeDefinitionResult(), parameters, sequence)
        compared = self._compare(request.name, sequence, parameters, simulator)
        result.approvals.update({msp_id: not found for msp_id, found in compared.items()})
        return result

    def _query_definitions(self, _: Any, simulator: Simulator) -> Any:
        result = lifecycle_pb2.QueryChaincodeDefinitionsResult()
        prefix = f"{NAMESPACES}/metadata/"
        scan = simulator.scan("_lifecycle", prefix, prefix + "\x7f")
        while (row := scan.next()) is not None:
            name = row[0].removeprefix(prefix)
            sequence, parameters = self._read_definition(name, simulator)
            _fill(result.chaincode_definitions.add(name=name), parameters, sequence)
        return result

    def _read_definition(self, name: str, simulator: Simulator) -> tuple[int, Parameters]:
        public = PublicState(simulator)
        if read_metadata(NAMESPACES, name, public) is None:
            raise LifecycleRefusal(f"namespace {name} is not defined", 404)
        return read_integer(name, "Sequence", public), Parameters.read(name, public)

    # --- what is asked for

    def _check_input(self, request: Any, simulator: Simulator) -> None:
        check_names(request.name, request.version)
        check_collections(request.collections, self._config().msps)
        if simulator.definition(request.name) is None:
            simulator.get_state(LEGACY_LIFECYCLE, request.name)  # peers look there, too, so it is in the read set
        else:
            check_upgrade(request.collections, Parameters.read(request.name, PublicState(simulator)).collections)

    def _parameters(self, request: Any) -> Parameters:
        collections = collection_pb2.CollectionConfigPackage()
        collections.CopyFrom(request.collections)
        return Parameters(
            version=request.version,
            endorsement_plugin=request.endorsement_plugin or "escc",
            validation_plugin=request.validation_plugin or "vscc",
            policy=request.validation_parameter or channel_policy_reference(ENDORSEMENT),
            init_required=request.init_required,
            collections=collections,
        )


def _check_sequence(current: int, requested: int) -> None:
    if requested == current == 0:
        raise SimulationError("requested sequence is 0, but first definable sequence number is 1")
    if requested < current:
        raise SimulationError(f"currently defined sequence {current} is larger than requested sequence {requested}")
    if requested > current + 1:
        raise SimulationError(
            f"requested sequence {requested} is larger than the next available sequence number {current + 1}"
        )


def _read_package_id(name: str, own: OrganisationState) -> str:
    return str(decode_state_data(own.get(f"{SOURCES}/fields/{name}/PackageID")).String)


def _fill(
    result: Any, parameters: Parameters, sequence: int, own: OrganisationState | None = None, name: str = ""
) -> Any:
    result.sequence = sequence
    result.version = parameters.version
    result.endorsement_plugin = parameters.endorsement_plugin
    result.validation_plugin = parameters.validation_plugin
    result.validation_parameter = parameters.policy
    result.init_required = parameters.init_required
    result.collections.CopyFrom(parameters.collections)
    if own is not None:
        package_id = _read_package_id(name, own)
        if package_id:
            result.source.local_package.package_id = package_id
        else:
            result.source.unavailable.SetInParent()
    return result


def _not_installed(package_id: str) -> LifecycleRefusal:
    return LifecycleRefusal(f"chaincode install package '{package_id}' not found", 404)


_CHANNELLESS = frozenset(
    {"InstallChaincode", "QueryInstalledChaincode", "QueryInstalledChaincodes", "GetInstalledChaincodePackage"}
)
_Function = Callable[[LifecycleContract, Any, Any], Any]
_FUNCTIONS: dict[str, tuple[_Function, Any]] = {
    "InstallChaincode": (LifecycleContract._install, lifecycle_pb2.InstallChaincodeArgs),
    "QueryInstalledChaincode": (LifecycleContract._query_installed, lifecycle_pb2.QueryInstalledChaincodeArgs),
    "QueryInstalledChaincodes": (LifecycleContract._query_all_installed, lifecycle_pb2.QueryInstalledChaincodesArgs),
    "GetInstalledChaincodePackage": (
        LifecycleContract._get_package,
        lifecycle_pb2.GetInstalledChaincodePackageArgs,
    ),
    "ApproveChaincodeDefinitionForMyOrg": (
        LifecycleContract._approve,
        lifecycle_pb2.ApproveChaincodeDefinitionForMyOrgArgs,
    ),
    "QueryApprovedChaincodeDefinition": (
        LifecycleContract._query_approved,
        lifecycle_pb2.QueryApprovedChaincodeDefinitionArgs,
    ),
    "QueryApprovedChaincodeDefinitions": (
        LifecycleContract._query_all_approved,
        lifecycle_pb2.QueryApprovedChaincodeDefinitionsArgs,
    ),
    "CheckCommitReadiness": (LifecycleContract._check_readiness, lifecycle_pb2.CheckCommitReadinessArgs),
    "CommitChaincodeDefinition": (LifecycleContract._commit, lifecycle_pb2.CommitChaincodeDefinitionArgs),
    "QueryChaincodeDefinition": (LifecycleContract._query_definition, lifecycle_pb2.QueryChaincodeDefinitionArgs),
    "QueryChaincodeDefinitions": (LifecycleContract._query_definitions, lifecycle_pb2.QueryChaincodeDefinitionsArgs),
}
