"""`kubectl trainingrun`: what a person asks and says at a terminal. Talks to the cluster through kubectl, and to nobody else but the bucket."""
