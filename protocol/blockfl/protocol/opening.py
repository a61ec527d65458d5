"""What opens the commitment to an update: its values, and randomness that follows from the sealing seed.

Owns: the opening, made by the institution before it signs and again by the committee when it judges and sums.

    opening = derive_opening(values, seed, place, payload_digest)
    commitment = opening.commit()

Source: ``docs/protocol.md``, commitment.
"""

from dataclasses import dataclass

from blockfl.protocol.commitment import Randomness, compute_commitment, expand_randomness
from blockfl.protocol.payload import Values
from blockfl.protocol.seal import SealPlace, derive_commitment_secret


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Values, int16 of shape (d,), and randomness, int16 of shape (4, 1024): secret, both of them."""

    values: Values
    randomness: Randomness

    def commit(self) -> bytes:
        """Return the commitment that this opens."""
        return compute_commitment(self.values, self.randomness)


def derive_opening(values: Values, seed: bytes, place: SealPlace, payload_digest: str) -> Opening:
    """Return the opening of the commitment to an update.

    Args:
        values: int16, shape (d,).
        seed: what the payload ends with.
        place: where the update belongs.
        payload_digest: SHA-256 of the payload; another payload has other randomness.
    """
    secret = derive_commitment_secret(seed, place, payload_digest)
    return Opening(values=values, randomness=expand_randomness(secret))
