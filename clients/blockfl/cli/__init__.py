"""The ``blockfl`` command."""

import os

# Read by gRPC when it is loaded: otherwise it writes a line for every handshake that fails, before our own error.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
