"""A software token (SoftHSM) with keys of its own, for tests of PKCS#11."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from blockfl.fabric.identity.pkcs11 import subject_key_id
from blockfl.fabric.identity.signing import Identity
from support.organisation import Organisation

PIN = "1234"
LABEL = "fabric"
_LIBRARIES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
)


@dataclass(frozen=True)
class Token:
    """A token and the library that opens it."""

    library: str
    label: str = LABEL
    pin: str = PIN

    def make_identity(self, organisation: Organisation, common_name: str, *, key_id: bytes | None = None) -> Identity:
        """Have the token make a key, and the organisation a certificate for it; the key stays in the token."""
        import pkcs11
        from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

        token = pkcs11.lib(self.library).get_token(token_label=self.label)
        with token.open(rw=True, user_pin=self.pin) as session:
            curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
            parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
            public, private = parameters.generate_keypair(store=True, label=common_name)
            key: Any = serialization.load_der_public_key(encode_ec_public_key(public))
            assert isinstance(key, ec.EllipticCurvePublicKey)
            wanted = key_id or subject_key_id(key)
            public[pkcs11.Attribute.ID] = private[pkcs11.Attribute.ID] = wanted
        certificate = organisation.signing.issue(key, common_name=common_name, unit="client")
        return Identity(msp_id=organisation.name, certificate_pem=certificate)


@contextmanager
def software_token(directory: Path) -> Iterator[Token]:
    """An empty token; without SoftHSM or the extra `pkcs11` the test is skipped."""
    pytest.importorskip("pkcs11", reason="keys in tokens need the extra pkcs11 (python-pkcs11)")
    tool = shutil.which("softhsm2-util")
    library = next((one for one in _LIBRARIES if Path(one).exists()), None)
    if tool is None or library is None:
        pytest.skip("SoftHSM is missing (softhsm2): tests of PKCS#11 need it")
    (directory / "tokens").mkdir(parents=True)
    settings = directory / "softhsm2.conf"
    settings.write_text(
        f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(settings)
    try:
        command = [tool, "--init-token", "--free", "--label", LABEL, "--so-pin", "5678", "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True)
        # The library reads its settings when it is loaded: one that an earlier test has loaded has to be let go of.
        import pkcs11

        pkcs11.unload(library)
        yield Token(library)
        pkcs11.unload(library)
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before
