"""``python -m hart`` is the command ``hart``; launchers of several processes start it so."""

from __future__ import annotations

import sys

from hart.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
