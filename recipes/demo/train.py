"""Train the bundled demo from nothing: ``python -m recipes.demo.train --run-dir RUN --out FOLDER``.

Phases: text encoder, encoder and codebook, transformer, decoder, attribute reader, then the
checkpoint folder with calibrated similarity data. A run that is interrupted continues where it was
when the command is given again. The manifest beside the checkpoint says what was done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hart.demo import DEMO_ASSETS
from hart.demo.captions import corpus
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.networks.caching.similarity_io import SIMILARITY_FILE
from hart.pipeline import HARTPipeline
from recipes.demo.autoencoder import train_decoder, train_encoder
from recipes.demo.loop import PhaseReport
from recipes.demo.reader import train_reader
from recipes.demo.text import DEMO_SYSTEM_PROMPT, save_text_model, train_text
from recipes.demo.transformer import train_transformer

STORED_DTYPE = torch.float16
CALIBRATION_PROMPTS, CALIBRATION_SEED = 64, 77
READER_STEPS = 2000


def train_demo(
    run_dir: Path,
    out: Path,
    scale: float = 1.0,
    quiet: bool = False,
    device: str = "cpu",
    compile_blocks: bool = False,
    start: Path | None = None,
) -> dict:
    """Train every part and write the assets; returns the manifest.

    Args:
        run_dir: where the phases keep their state.
        out: asset folder; gets ``checkpoint`` and ``reader``.
        scale: factor of all step counts (tests use a small one).
        compile_blocks: faster transformer steps, see :func:`train_transformer`.
        start: checkpoint of this recipe to train further: its text encoder, image encoder and
            codebook stay, its transformer and decoder go on.
    """
    if start is None:
        text_model, tokenizer, text_report = train_text(run_dir / "text", scale, quiet, device)
        vae, reports = train_encoder(run_dir / "autoencoder", scale, quiet, device)
        reports, weights = {"text": text_report, **reports}, None
    else:
        begun = HARTPipeline.from_pretrained(start, device=device, dtype="float32")
        text_model, tokenizer = begun.text_model, begun.text_tokenizer
        vae = begun.transformer.vae_proxy[0].requires_grad_(False).eval()
        reports, weights = {}, begun.transformer.state_dict()
    model, reports["transformer"] = train_transformer(
        *(vae, text_model, tokenizer, run_dir / "transformer"),
        *(scale, quiet, device, compile_blocks, weights),
    )
    reports["decoder"] = train_decoder(vae, run_dir / "autoencoder", scale, quiet, device)
    reader_file = out / "reader" / "model.safetensors"
    if not reader_file.is_file():
        train_reader(reader_file, max(2, round(READER_STEPS * scale)), seed=0)
    checkpoint = out / "checkpoint"
    save_checkpoint(model, vae, text_model, tokenizer, checkpoint)
    calibrate_checkpoint(checkpoint, max(1, round(CALIBRATION_PROMPTS * min(1.0, scale))), quiet)
    return write_manifest(out, reports, scale, device)


def save_checkpoint(
    model: HARTForT2I, vae: HARTAutoEncoder, text_model: nn.Module, tokenizer, folder: Path
) -> None:
    """Write an ordinary checkpoint folder, all weights in half precision."""
    model = model.cpu().to(STORED_DTYPE)
    model.save_pretrained(folder / "llm")
    vae.to(STORED_DTYPE).save_pretrained(folder / "tokenizer")
    save_text_model(text_model, tokenizer, folder / "text_model", STORED_DTYPE)
    (folder / "system_prompt.txt").write_bytes(DEMO_SYSTEM_PROMPT.encode("utf-8"))


def calibrate_checkpoint(folder: Path, prompts: int, quiet: bool = False) -> Path:
    """Measure similarities on training captions and store them in the transformer's folder.

    A table that is there was measured with earlier weights and is thrown away.
    """
    file = folder / "llm" / SIMILARITY_FILE
    file.unlink(missing_ok=True)
    pipeline = HARTPipeline.from_pretrained(folder, device="cpu", dtype="float32")
    pipeline.calibrate(corpus(prompts, CALIBRATION_SEED), batch_size=8, quiet=quiet)
    return pipeline.model.save_similarity_data(file)


def write_manifest(out: Path, reports: dict[str, PhaseReport], scale: float, device: str) -> dict:
    """``manifest.json`` beside the checkpoint: steps, seconds, losses, versions and file hashes."""
    files = sorted(p for p in out.rglob("*") if p.is_file() and p.name != "manifest.json")
    manifest = {
        "recipe": "python -m recipes.demo.train",
        "scale": scale,
        "phases": {name: _plain(report) for name, report in reports.items()},
        "device": device,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "files": {
            p.relative_to(out).as_posix(): {
                "bytes": p.stat().st_size,
                "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
            }
            for p in files
        },
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _plain(report: PhaseReport | dict) -> dict:
    return dict(report) if isinstance(report, dict) else vars(report)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m recipes.demo.train", description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=DEMO_ASSETS)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all step counts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile the blocks; needs a C++ compiler"
    )
    parser.add_argument(
        "--start-from", type=Path, metavar="CHECKPOINT", help="train this checkpoint further"
    )
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(argv)
    train_demo(
        args.run_dir, args.out, args.scale, args.quiet, args.device, args.compile, args.start_from
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
