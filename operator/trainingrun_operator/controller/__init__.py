"""Who looks at which run when: kopf brings the events, one scheduler hands out the looks, one worker at a time looks at a run."""
