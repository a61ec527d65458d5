"""A proof that failed."""


class VerificationError(Exception):
    """Something on the ledger is not as it must be; the text names the place.

    Attributes:
        block: Number of the block, or None.
    """

    def __init__(self, message: str, block: int | None = None) -> None:
        super().__init__(f"block {block}: {message}" if block is not None else message)
        self.block = block


class DisputedError(VerificationError):
    """A block's record is consistent, but a transaction in it is judged otherwise: other members' peers must speak."""
