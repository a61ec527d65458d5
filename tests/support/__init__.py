"""What tests share."""

import os

# After a fork gRPC starts its threads anew, and ends the process where the kernel forbids that: a thread whose children
# belong to another process namespace may start none. Tests only fork to execute another program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
