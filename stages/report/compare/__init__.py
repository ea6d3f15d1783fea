"""Several finished studies on one frontier, where they were measured in one evaluation."""
