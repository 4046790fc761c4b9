"""For all tests."""

from __future__ import annotations

import signal

# Started in the background by a shell, we would inherit an ignored SIGINT, and so would every program under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
