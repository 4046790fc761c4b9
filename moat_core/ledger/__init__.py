"""Nothing is ever left behind: resources, the ledger that knows them, the watchdog and the reaper."""

from moat_core.ledger.connections import Connections
from moat_core.ledger.lane import Reaped
from moat_core.ledger.ledger import Held, Kinds, Ledger, LedgerStep, follow_moves
from moat_core.ledger.resource import VOLATILE, Resource, ResourceContext
from moat_core.ledger.upkeep import Upkeep, kinds_of
from moat_core.ledger.view import Entry, LedgerView
from moat_core.ledger.watchdog import Watchdog

__all__ = [
    "VOLATILE",
    "Connections",
    "Entry",
    "Held",
    "Kinds",
    "Ledger",
    "LedgerStep",
    "LedgerView",
    "Reaped",
    "Resource",
    "ResourceContext",
    "Upkeep",
    "Watchdog",
    "follow_moves",
    "kinds_of",
]
