"""Reasons to end a run, one module per kind."""
