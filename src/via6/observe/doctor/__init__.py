"""What is wrong with a node or a network, why, and what mends it."""
