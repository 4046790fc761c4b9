"""The index: which document holds which word how often."""

import math
from collections import Counter
from typing import NamedTuple

from textindex.words import words


class Match(NamedTuple):
    """A document that holds all words of a query."""

    name: str
    score: float


class Index:
    """Documents by name. Adding a name again replaces what was there."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, name: str, text: str) -> None:
        self._counts[name] = Counter(words(text))

    def remove(self, name: str) -> None:
        """Forget a document; one that is not there is a KeyError."""
        del self._counts[name]

    def search(self, query: str) -> list[Match]:
        """The documents with every word of the query, best first, equals by name; none for an empty query."""
        wanted = set(words(query))
        if not wanted:
            return []
        found = [
            Match(name, sum(self._weight(word, counts) for word in wanted))
            for name, counts in self._counts.items()
            if wanted <= counts.keys()
        ]
        return sorted(found, key=lambda match: (-match.score, match.name))

    def _weight(self, word: str, counts: Counter[str]) -> float:
        """How often here, against how common everywhere (TF-IDF)."""
        holders = sum(word in other for other in self._counts.values())
        return counts[word] / counts.total() * (1 + math.log(len(self._counts) / holders))
