"""A sweep over learning rates on training prompts, and the rule that chooses one per method."""
