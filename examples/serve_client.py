"""Draw with a server of ``hart serve``, with OpenAI's client.

hart serve
pip install openai
python examples/serve_client.py "a strawberry on a pink background" --output strawberry.png
"""

from __future__ import annotations

import argparse
import base64
import os
from pathlib import Path

import openai


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--output", default="picture.png")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache_preset", default="original")
    args = parser.parse_args()

    client = openai.OpenAI(base_url=args.url, api_key=os.environ.get("HART_API_KEY", "none"))
    answer = client.images.generate(
        prompt=args.prompt, extra_body={"seed": args.seed, "cache_preset": args.cache_preset}
    )
    Path(args.output).write_bytes(base64.b64decode(answer.data[0].b64_json))
    print(f"{args.output}, drawn with seed {answer.data[0].seed}")


if __name__ == "__main__":
    main()
