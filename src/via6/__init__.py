"""via6: IPv4 across IPv6-only networks. See ARCHITECTURE.md for the rooms of this house."""

__version__ = "0.1.0"
