"""What judges an image: reward models and feature extractors, one module a kind, behind one protocol (`base`)."""
