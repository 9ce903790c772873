"""The checkpoint volume: what lies there, and which of it is a complete checkpoint."""
