"""The gRPC and HTTP services of the embedded node."""
