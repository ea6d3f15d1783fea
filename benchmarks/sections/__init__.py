"""Sections of docs/benchmarks.md, a module per kind of question."""
