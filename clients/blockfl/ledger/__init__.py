"""The contract, typed: transactions, events, chunk transfer and model store, for every process above the ledger."""
