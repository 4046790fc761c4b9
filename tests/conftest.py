"""For all tests."""

from __future__ import annotations

import signal

from hypothesis import settings

# Started in the background by a shell, or by nohup, we would inherit ignored signals, and so would every program under
# test: those that are sent one would never end.
for each in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
    if signal.getsignal(each) is signal.SIG_IGN:
        signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)

# How long an example takes is the machine's affair: other tests run beside.
settings.register_profile("moat", deadline=None)
settings.load_profile("moat")
