"""The tokenizer of BM25: one function for documents and for queries, the same for all languages."""

from __future__ import annotations

import re
import unicodedata

# Scripts that put no space between words: Thai, Lao, Burmese, Khmer, kana, bopomofo and Han.
_UNSPACED = "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u312f\u31a0-\u31ff\u3400-\u9fff\uf900-\ufaff"
_UNSPACED += "\U00020000-\U0003ffff"
_MARKS = "".join(chr(code) for code in range(0x300, 0x11000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
_RUNS = re.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|(?:(?![{_UNSPACED}])(?:[^\W_]|[{_MARKS}]))+")
_ACCENTS = re.compile("[\u0300-\u036f]")


def words(text: str) -> list[str]:
    """Return the words of `text` in order, repeats included: runs of letters and digits, numbers being words too.

    Lower case, compatibility forms made one (NFKC), accents folded; no stemming and no stop words. Where a script has
    no spaces, a run becomes its pairs of neighbouring characters ("红色沙" → "红色", "色沙"), and one alone stays.
    """
    found: list[str] = []
    for run in _RUNS.finditer(_folded(text)):
        word = run.group()
        if run["unspaced"] and len(word) > 1:
            found += (word[start : start + 2] for start in range(len(word) - 1))
        else:
            found.append(word)
    return found


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    apart = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFKC", _ACCENTS.sub("", apart)).casefold()
