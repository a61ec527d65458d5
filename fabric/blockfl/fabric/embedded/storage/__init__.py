"""What the embedded node keeps on the disk: blocks, state, private data, definitions."""
