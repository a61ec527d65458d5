"""How an organisation's membership is described: its authorities, administrators and roles.

config = msp_config("alpha", [root_pem], [tls_root_pem])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fabric_protos.msp import msp_config_pb2

ROLES: Final = ("client", "peer", "admin", "orderer")
FABRIC_TYPE: Final = 0
IDEMIX_TYPE: Final = 1


def msp_config(
    msp_id: str,
    roots: Sequence[bytes],
    tls_roots: Sequence[bytes],
    *,
    admins: Sequence[bytes] = (),
    crls: Sequence[bytes] = (),
) -> Any:
    """Describe an organisation's membership, with node OUs (client, peer, admin, orderer) enabled.

    Args:
        msp_id: the organisation's id in every identity.
        roots: PEM certificates of the authorities that sign its members' certificates.
        tls_roots: PEM certificates of the authorities of its TLS endpoints.
        admins: PEM certificates that are administrators with any OU; usually none.
        crls: PEM revocation lists.

    Returns:
        An msp.MSPConfig.
    """
    units = {
        f"{unit}_ou_identifier": msp_config_pb2.FabricOUIdentifier(organizational_unit_identifier=unit)
        for unit in ROLES
    }
    fabric = msp_config_pb2.FabricMSPConfig(
        name=msp_id,
        root_certs=roots,
        tls_root_certs=tls_roots,
        admins=admins,
        revocation_list=crls,
        crypto_config=msp_config_pb2.FabricCryptoConfig(
            signature_hash_family="SHA2", identity_identifier_hash_function="SHA256"
        ),
        fabric_node_ous=msp_config_pb2.FabricNodeOUs(enable=True, **units),
    )
    return msp_config_pb2.MSPConfig(type=FABRIC_TYPE, config=fabric.SerializeToString())
