"""What the tests of batches draw, and what they compare."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

LINES = (
    '{"prompt": "a red fox"}',
    '{"prompt": "two boats", "seed": 77, "cache_preset": "aggressive"}',
    '{"prompt": "", "seed": 5}',
    '{"prompt": "a tree"}',
    '{"prompt": "an owl", "cache_preset": "aggressive"}',
    '{"prompt": "a house"}',
)
GOOD = (0, 1, 3, 4, 5)
"""Indices of the images that the lines ask for; the third line is bad."""


def write_prompts(file: Path, lines=LINES) -> Path:
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return file


def arguments(prompts: Path, output: Path, *more: object) -> list[str]:
    """The command line of a batch on the tiny checkpoint beside ``prompts``."""
    checkpoint = prompts.parent / "checkpoint"
    fixed = ["batch", "--device", "cpu", "--no-use_llm_system_prompt", "--batch_size", "2"]
    places = ["--prompts_file", prompts, "--output_dir", output, "--model_path", checkpoint]
    return [str(word) for word in (*fixed, *places, *more)]


def rows(folder: Path) -> list[dict]:
    file = folder / "results.jsonl"
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def outcome(folder: Path) -> dict:
    """Everything in a batch's folder that does not depend on time: images byte for byte."""
    images = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.png")
    }
    timeless = [{k: v for k, v in row.items() if k != "seconds"} for row in rows(folder)]
    others = sorted(f.name for f in folder.iterdir() if f.suffix not in (".png", ".json"))
    return {"images": dict(sorted(images.items())), "rows": timeless, "others": others}
