"""The auditor's page: a verified chain to look at in a browser, live or from a bundle, read-only."""
