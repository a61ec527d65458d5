"""From ``consortium.yaml`` to a running network."""
