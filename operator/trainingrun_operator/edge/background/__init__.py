"""Work that runs beside the looks at runs: loss curves, webhook events."""
