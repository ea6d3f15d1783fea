"""Pairs of two renoisings of one real image by the base, in a job of their own beside the curated ones."""
