"""The one way to the FIB, and the namespaces it lives in."""
