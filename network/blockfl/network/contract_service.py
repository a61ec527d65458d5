"""The contract as every organisation runs it: package, definition, and the settings of each contract service.

The package lists every file of the contract's source, and the definition's version begins its digest: what was approved
can be compared with what runs.
"""

import hashlib
import json

from blockfl.contract.definition import contract_definition
from blockfl.contract.release import package_release, read_release
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.lifecycle import ChaincodeDefinition
from blockfl.fabric.transaction.package import package_id
from blockfl.network.errors import NetworkError
from blockfl.network.identities import write_file
from blockfl.network.layout import OrganisationLayout
from blockfl.network.node import make_connection
from blockfl.network.organisation import Organisation
from blockfl.network.process import ProcessSpec, python_command
from blockfl.protocol.records import Consortium


def package_code(contract: str) -> bytes:
    """Return the contract's package; the same everywhere for the same code."""
    return package_release(contract, read_release())


def define_contract(consortium: Consortium, sequence: int = 1) -> ChaincodeDefinition:
    """Return the definition that all organisations approve."""
    return contract_definition(consortium, version=read_release().name, sequence=sequence)


def provision_service(organisation: Organisation, place: OrganisationLayout, consortium: Consortium) -> None:
    """Write the contract's package and the settings of an organisation's contract service."""
    package = package_code(consortium.contract)
    settings = {
        "organisation": organisation.msp_id,
        "consortium": "../consortium.json",
        "opening_key": "../opening-key" if "committee" in organisation.roles else None,
        "package_id": package_id(package),
        "listen": organisation.contract_listen,
        "allow_public": organisation.contract_listen != organisation.contract_address,
        "operations_listen": organisation.contract_operations_address,
        "watched": "watched",
        "certificate": "tls-certificate.pem",
        "private_key": "tls-key.pem",
        "client_roots": "client-roots.pem",
    }
    write_file(place.package, package)
    write_file(place.service, f"{json.dumps(settings, indent=2)}\n".encode())


def service_process(organisation: Organisation, place: OrganisationLayout) -> ProcessSpec:
    """Return how an organisation's contract service is started."""
    agreed = hashlib.sha256(place.service.read_bytes() + place.consortium.read_bytes())
    return ProcessSpec(
        name=service_name(organisation),
        command=python_command("blockfl.contract", "--config", str(place.service.resolve())),
        # Fixed: the contract must not depend on it, and one thread is all that judging needs.
        # The digest tells a service that was started with other settings, or another record, from this one.
        environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "BLOCKFL_SETTINGS": agreed.hexdigest()},
    )


def service_name(organisation: Organisation) -> str:
    """Return what ``blockfl network status`` calls an organisation's contract service."""
    return f"contract-{organisation.name}"


def service_endpoint(organisation: Organisation, place: OrganisationLayout) -> Endpoint:
    """Return an organisation's contract service as its peer dials it.

    Raises:
        IdentityError: A certificate does not parse.
        NetworkError: One cannot be read.
    """
    try:
        return Endpoint(
            address=organisation.contract_address,
            tls_roots_pem=place.tls_roots.read_bytes(),
            client_certificate=place.node("contract", "client-certificate.pem").read_bytes(),
            client_key=place.node("contract", "client-key.pem").read_bytes(),
        )
    except OSError as error:
        raise NetworkError(f"{error.filename}: cannot be read ({error.strerror})") from error


def embed_connection(organisation: Organisation, place: OrganisationLayout) -> dict[str, str]:
    """Return the variable from which a peer knows its contract service, files' contents in it: a secret."""
    names = ("client-certificate.pem", "client-key.pem")
    certificate, key = (place.node("contract", name).read_text() for name in names)
    return make_connection(organisation.contract_address, place.tls_roots.read_text(), certificate, key)


def code_name(package_id: str) -> str:
    """Return what the definition calls the code of a package."""
    return package_id.partition(":")[0].rpartition("_")[2]
