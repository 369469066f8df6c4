"""Text: normalising, the tokenizer, character trigrams, and all of a tower's inputs as arrays."""
