"""Fine-tuning methods, one module each: `Settings`, and `step`, which says what a micro-batch is judged on."""
