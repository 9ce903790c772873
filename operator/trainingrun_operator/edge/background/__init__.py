"""Background work next to observations: loss curves and webhook events."""
