"""A Fabric network in a test: the embedded node, organisations made for it, and a contract service for each.

It is for tests and for trying: keys are made on the spot, and the user who runs it sees and controls everything.

    async with embedded_network(tmp_path, contract) as network, network.gateway("Org1MSP") as gateway:
        await gateway.submit("app", "Put", "key", "value")

`plugin` has the same as a pytest fixture.
"""

from blockfl.fabric.testing.network import Network, embedded_network
from blockfl.fabric.testing.organisation import Organisation, channel_spec, make_organisation

__all__ = ["Network", "Organisation", "channel_spec", "embedded_network", "make_organisation"]
