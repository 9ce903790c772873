"""The metric source Logs: takes a training's numbers from the lines that it prints."""
