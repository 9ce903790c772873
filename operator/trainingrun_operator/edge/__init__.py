"""Effects: the only place that awaits anything."""
