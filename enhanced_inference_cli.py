#!/usr/bin/env python
"""Draw images of prompts with HART and feature caching; the same as ``hart generate``."""

from __future__ import annotations

import sys

from hart.cli.main import generate_main

if __name__ == "__main__":
    sys.exit(generate_main())
