"""Fabric for Python: identities, policies, channel configuration, blocks, clients and a node; no learning."""
