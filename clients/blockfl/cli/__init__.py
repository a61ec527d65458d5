"""The ``blockfl`` command."""

import os

# Read by gRPC when it is loaded: otherwise it writes a line for every handshake that fails, before our own error.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# Read by NumPy's library when it is loaded: threads that wait for each other, spinning, cost an agent or aggregator more
# than they bring beside a contract service, a peer and a training process. Training has its own number of threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
