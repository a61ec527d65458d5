"""How the embedded node endorses: proposals, simulation, contract services, lifecycle."""
