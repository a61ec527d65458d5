"""The contract's transactions, events, chunk transfer and model store, typed: what every process above the ledger uses."""
