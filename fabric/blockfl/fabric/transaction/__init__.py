"""A transaction: proposal, read/write set, envelope, and the contracts' definitions and packages that travel in it."""
