"""Reads everything that a decision needs. Decides nothing."""
