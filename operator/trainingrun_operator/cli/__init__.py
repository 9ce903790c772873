"""The plugin `kubectl trainingrun`. It accesses the cluster through kubectl, and the bucket directly."""
