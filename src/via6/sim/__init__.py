"""The simulated twin of the kernel: the same answers, no privileges, faults on request."""
