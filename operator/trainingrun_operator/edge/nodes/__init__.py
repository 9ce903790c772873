"""Node providers: the Protocol, one module per provider, and the registry."""
