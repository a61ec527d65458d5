"""The embedded node: a Fabric network of one process, for trying, teaching, developing and testing.

Its operator sees and controls everything: it proves nothing against that operator.
"""
