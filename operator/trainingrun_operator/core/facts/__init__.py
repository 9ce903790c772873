"""What was read about a run, as frozen values."""
