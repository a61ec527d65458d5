"""A whole task in one process, on the protocol's own rules and without a ledger: for choosing rules and bounds."""
