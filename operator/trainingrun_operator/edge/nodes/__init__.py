"""Releasing the GPU node: one Protocol, one module per provider, and the door by which other packages bring theirs."""
