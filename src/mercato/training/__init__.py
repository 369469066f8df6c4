"""Training: pairs into batches, the loop, stages, image vectors."""
