"""The durable state under ``MOAT_HOME``: `paths` and the one SQLite file, `db`.

It holds intent only; the truth is the engine's.
"""

from moat_core.store.db import LedgerRow, NewerStore, RunRow, Store
from moat_core.store.paths import Home, default_home

__all__ = ["Home", "LedgerRow", "NewerStore", "RunRow", "Store", "default_home"]
