"""What judges an image: reward models and feature extractors, one module per kind, behind one protocol (`base`)."""
