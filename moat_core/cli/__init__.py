"""The ``moat`` command: a thin client of the library. Only it prints."""
