"""Evaluate checkpoints by a protocol: a study file is written, and the workflow runs it."""
