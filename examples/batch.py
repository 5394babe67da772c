"""Draw a list of prompts, several at a time, and keep each picture as soon as it is finished.

    python examples/batch.py prompts.txt pictures

``hart batch`` does the same for files of any length, and goes on after an interruption.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hart import HARTPipeline
from hart.demo import DEMO_CHECKPOINT


def main(prompts_file: str, folder: str) -> None:
    prompts = Path(prompts_file).read_text("utf-8").splitlines()
    Path(folder).mkdir(parents=True, exist_ok=True)
    pipeline = HARTPipeline.from_pretrained(DEMO_CHECKPOINT, cache="hybrid")
    for finished in pipeline.stream(prompts, seed=1, batch_size=4):
        for result in finished:
            result.image.save(Path(folder) / f"{result.seed}.png")
            print(result.seed, result.prompt)


if __name__ == "__main__":
    main(*sys.argv[1:])
