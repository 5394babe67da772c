import os

SHARE = float(os.environ.get("HART_FUZZ", "1"))
"""How many of the inputs to try: 1 in the test run; docs/reliability.md tells what more found."""
