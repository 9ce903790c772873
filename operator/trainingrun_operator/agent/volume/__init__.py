"""The checkpoint volume: its files, and which of them form a complete checkpoint."""
