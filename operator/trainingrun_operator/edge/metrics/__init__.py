"""Where a run's numbers are read from; every source yields the same `Reading`."""
