"""Cutting text into the words that are indexed and searched for."""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text in order, folded so that case and composed accents make no difference."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [word.replace("\u2019", "'") for word in _WORD.findall(folded)]
