"""rtnetlink: bytes to values of `via6.model` and back. Pure: sockets live in `via6.kernel`."""
