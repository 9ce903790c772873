"""The phases of a stop, and the evidence that ends each."""
