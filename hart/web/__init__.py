"""``hart web``: a page on which people draw, compare and find plans.

Where it is served, and how many may wait, unless somebody says otherwise; here, because the command
line shows these before anything heavy is imported.
"""

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 7860
DEFAULT_MAX_WAITING = 8
