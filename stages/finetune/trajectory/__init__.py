"""One recorded sampler, one trainer, and what the methods that follow trajectories are made of."""
