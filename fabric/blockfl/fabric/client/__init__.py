"""The client's side of Fabric's services: gateway, events, blocks, lifecycle, administration of nodes."""
