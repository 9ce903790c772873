"""Reads the facts for a decision."""
