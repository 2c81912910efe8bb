"""What becomes of every IPv4 packet in a network, from the snapshots of its nodes. Pure.

`table` cuts the address space by each node's routes, `network` into the classes of all nodes together, `links` says who
is at the other end of a next hop, `fates` walks all classes from all nodes at once, `trace` one packet; `check` finds
what is wrong, `expect` compares with a file of rules, `failure` breaks links and nodes, `diff` compares two networks.
"""
