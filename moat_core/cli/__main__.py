"""``python -m moat_core.cli``, the same as ``moat``."""

import sys

from moat_core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
