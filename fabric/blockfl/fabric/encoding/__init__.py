"""What Fabric's programs take as protobuf, PEM and X.509: decoders with the rules of Go's, for all that judges."""
