"""The way of one packet through all nodes, there and back: who asks, who answers, and what is made of it."""
