"""Losses of methods that do not follow the reward's gradient through the image: functions of numbers, no networks."""
