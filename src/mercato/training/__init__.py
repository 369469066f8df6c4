"""Training: stages, tasks, batches, and the loop that runs them."""
