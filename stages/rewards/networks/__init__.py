"""What rewards and features are made of: the networks, and the files that their weights come from."""
