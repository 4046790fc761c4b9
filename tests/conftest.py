"""For all tests."""

from __future__ import annotations

import signal

from hypothesis import settings

# Started in the background by a shell, we would inherit an ignored SIGINT, and so would every program under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is the machine's affair: other tests run beside.
settings.register_profile("moat", deadline=None)
settings.load_profile("moat")
