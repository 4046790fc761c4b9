"""The durable state under ``MOAT_HOME``: `paths` and the one SQLite file, `db`.

It holds intent only; the truth is the engine's.
"""

from moat_core.store.db import LedgerRow, RunRow, Store
from moat_core.store.paths import Home, default_home

__all__ = ["Home", "LedgerRow", "RunRow", "Store", "default_home"]
