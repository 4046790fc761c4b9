"""Starts both services. Ends both when one ends, or when it is told to end."""

import os
import signal
import subprocess
import sys


def main() -> int:
    """Return the exit code of the service that ended; 0 when all was told to."""
    services = {}
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        for name in ("api.py", "web.py"):
            services[subprocess.Popen([sys.executable, name]).pid] = name
        pid, status = os.wait()
        print(f"{services[pid]} has ended", file=sys.stderr)
        return os.waitstatus_to_exitcode(status) % 256
    except KeyboardInterrupt:
        return 130
    finally:
        for pid in services:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass


if __name__ == "__main__":
    sys.exit(main())
