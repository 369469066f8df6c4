"""One normal form of text for queries, trigrams and tokenizers trained here: the one by which the log is aggregated."""

from mercato.data.queries import clean
from mercato.data.queries import normalise_query as normalize

__all__ = ["clean", "normalize"]
