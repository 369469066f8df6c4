"""A market as training data: pairs, features, batches, images, validation."""
