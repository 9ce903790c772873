"""Reads the numbers that a training writes into files under the checkpoint path."""
