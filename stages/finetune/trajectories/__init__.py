"""The recorded stochastic sampler, and what objectives that learn from its rollouts share."""
