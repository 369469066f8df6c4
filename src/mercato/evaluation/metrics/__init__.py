"""One metric a file, and the bootstrap intervals of all of them."""
