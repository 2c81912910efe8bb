"""What is told of a node or a packet, from values alone."""
