"""A metric source and a node provider for the TrainingRun operator."""
