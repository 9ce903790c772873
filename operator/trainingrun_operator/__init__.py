"""The TrainingRun operator: every GPU run ends with its checkpoint proven safe and its node proven released."""

__version__ = "0.1.0"
