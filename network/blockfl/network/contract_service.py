"""The contract as every organisation runs it: package, definition, and the settings of each contract service.

The package lists every file of the contract's source, and the definition's version begins its digest: what was approved
can be compared with what runs.
"""

import hashlib
import json

from blockfl.contract.definition import contract_definition
from blockfl.contract.release import package_release, read_release
from blockfl.fabric.client.lifecycle import ChaincodeDefinition
from blockfl.fabric.transaction.package import package_id
from blockfl.network.description import Description, Organisation
from blockfl.network.layout import Layout
from blockfl.network.process import ProcessSpec, python_command
from blockfl.protocol.records import Consortium


def package_code(contract: str) -> bytes:
    """Return the contract's package; the same everywhere for the same code."""
    return package_release(contract, read_release())


def define_contract(consortium: Consortium, sequence: int = 1) -> ChaincodeDefinition:
    """Return the definition that all organisations approve."""
    return contract_definition(consortium, version=read_release().name, sequence=sequence)


def provision_services(description: Description, layout: Layout, *, in_containers: bool = False) -> None:
    """Write the package, the consortium's record and the settings of every contract service.

    Args:
        description: The network.
        layout: Where they are written.
        in_containers: Whether each service listens on every interface, which are its container's own.
    """
    package = package_code(description.contract)
    layout.package.write_bytes(package)
    layout.consortium.write_bytes(description.consortium.encode())
    for organisation in description.organisations:
        place = layout.organisation(organisation.name)
        settings = {
            "organisation": organisation.name,
            "consortium": "../../../consortium.json",
            "opening_key": "../opening-key" if "committee" in organisation.roles else None,
            "package_id": package_id(package),
            "listen": f"0.0.0.0:{organisation.ports.contract}" if in_containers else service_address(organisation),
            "allow_public": in_containers,
            "operations_listen": f"127.0.0.1:{organisation.ports.contract_operations}",
            "certificate": "tls-certificate.pem",
            "private_key": "tls-key.pem",
            "client_roots": "client-roots.pem",
        }
        place.service.write_text(json.dumps(settings, indent=2) + "\n")


def service_address(organisation: Organisation) -> str:
    """Return where an organisation's contract service listens and its peer dials."""
    return f"{organisation.host}:{organisation.ports.contract}"


def service_process(organisation: Organisation, layout: Layout) -> ProcessSpec:
    """Return how an organisation's contract service is started."""
    settings = layout.organisation(organisation.name).service
    agreed = hashlib.sha256(settings.read_bytes() + layout.consortium.read_bytes())
    return ProcessSpec(
        name=f"contract-{organisation.name}",
        command=python_command("blockfl.contract", "--config", str(settings.resolve())),
        # Fixed: the contract must not depend on it, and one thread is all that judging needs.
        # The digest tells a service that was started with other settings, or another record, from this one.
        environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "BLOCKFL_SETTINGS": agreed.hexdigest()},
    )
