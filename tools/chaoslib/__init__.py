"""What tools/chaos and tools/chaos-group share: an NBD client of our own, and what a client was told."""
