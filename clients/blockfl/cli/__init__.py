"""The ``blockfl`` command."""

import os

# Read by gRPC when it is loaded: otherwise it writes a line for every handshake that fails, before our own error.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# Read by NumPy's library when it is loaded: its threads spin while they wait for each other, which costs an agent or
# aggregator more than it brings. Training has a number of threads of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
