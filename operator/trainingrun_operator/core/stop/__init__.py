"""The phases of a stop, and which evidence ends each of them."""
