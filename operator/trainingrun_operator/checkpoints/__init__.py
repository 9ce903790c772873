"""Checkpoints in the bucket: documents, keys, the S3 client, proof and download. Shared by agent, operator and plugin."""
