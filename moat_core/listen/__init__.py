"""Listening, where strangers may connect: one place decides how many are let in, whose, and for how long.

`serve` is for connections that are read as streams, each in a task of its own; `open_servers` for protocols of an
event loop, which count by themselves with a `Room`. Nothing else in moat accepts a connection (a contract test looks).
Whoever connects costs one descriptor and some KB before they have said who they are, and these are limited in number,
in all and for each peer; a lack of descriptors is a pause, and no error of one connection is another's or the run's.
"""

from moat_core.listen.room import Limits, Room
from moat_core.listen.serve import BACKLOG, open_servers, serve
from moat_core.listen.visitor import Visitor

__all__ = ["BACKLOG", "Limits", "Room", "Visitor", "open_servers", "serve"]
