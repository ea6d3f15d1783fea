"""Comparison with reference numbers that other code computed from the same weights and the same random arrays."""
