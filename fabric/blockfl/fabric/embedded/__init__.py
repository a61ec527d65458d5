"""The embedded node: a Fabric network of one process, for trying, teaching, developing and testing.

Whoever runs it sees and controls everything: it proves nothing against its own operator.
"""
