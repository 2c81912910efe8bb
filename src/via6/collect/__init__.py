"""What the observers are fed with: probes, captures, other machines. All of it does I/O."""
