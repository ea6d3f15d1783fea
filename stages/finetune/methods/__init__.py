"""Fine-tuning methods, one file each: `Settings`, `ABOUT` (title and source) and `METHOD` (its objective)."""
