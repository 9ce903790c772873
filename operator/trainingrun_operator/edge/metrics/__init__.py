"""Metric sources; each returns a `Reading`."""
