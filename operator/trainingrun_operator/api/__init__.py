"""What users write and read: pure data, no clock, no I/O."""
