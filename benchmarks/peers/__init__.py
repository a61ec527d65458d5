"""Other federated learning, measured in the same run: each in an environment of its own, of locked packages."""
