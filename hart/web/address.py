"""Where the page is served unless somebody says otherwise."""

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 7860
