"""Search: a request to candidates to a page, and what explains a hit."""
