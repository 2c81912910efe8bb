"""What changes a node and remembers it: apply with its journal, and the daemon."""
