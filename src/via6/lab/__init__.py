"""Real networks in namespaces: read from a file, set up, measured, taken down."""
