"""The containers that the operator adds to a training pod: restore (before the training), agent (during it), gate (after it).

This package imports nothing of core, edge or controller; ``gate`` imports the standard library only.
"""
