"""What an auditor asks the ledger, and proves."""
