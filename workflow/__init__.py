"""Orchestration: which jobs a study has, where their files stand, what makes them run again. No machine learning."""
