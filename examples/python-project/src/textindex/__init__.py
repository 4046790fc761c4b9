"""A small full-text index: add documents, search them, best match first."""

from textindex.index import Index, Match
from textindex.words import words

__all__ = ["Index", "Match", "words"]
