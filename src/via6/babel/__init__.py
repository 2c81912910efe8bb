"""Babel (RFC 8966) with IPv4 routes over IPv6 next hops (RFC 9229). Pure: no sockets, no clocks."""
