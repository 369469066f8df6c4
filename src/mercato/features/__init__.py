"""Tower inputs as arrays: tokens, trigrams, image vectors, context."""
