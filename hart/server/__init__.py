"""``hart serve``: one model behind the HTTP interface of OpenAI's image clients.

What the command line shows as defaults is here, because it is printed before anything heavy is
imported.
"""

DEFAULT_SERVER_PORT = 8000
DEFAULT_SERVER_WAITING = 64
DEFAULT_MAX_IMAGES = 10
"""Images of one request, as OpenAI has it."""

DEFAULT_MAX_PROMPT = 4000
"""Characters of a prompt."""

DEFAULT_GRACE_S = 120
"""How long a server that is being stopped may finish what it draws."""

API_KEY_VARIABLE = "HART_API_KEY"
"""Where the key may stand instead of on a command line, which other users of a machine can see."""
