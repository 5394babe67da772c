"""Steps of :mod:`benchmarks.gpu_session` that draw no picture: tests, ceilings, the decoder."""

from __future__ import annotations

import gc
import importlib.util
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.roofline import Machine, seconds_of
from hart.engine import decoder_copy, decoding
from hart.engine.decoder_copy import DecoderCopy, Precision
from hart.engine.decoding import EngineDecoder
from hart.evaluation.random_weights import random_config, random_pipeline
from hart.version import __version__

ROOT = Path(__file__).parent.parent
TESTS_S = 55
BACKENDS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
MATH_SCORES = 2**30
"""Most scores that are written out in memory."""


class LeftOutError(Exception):
    """A step has nothing to do here; the text says why."""


@dataclass
class Session:
    """What the steps share.

    Attributes:
        out: folder of the report.
        shape, device, dtype: of the pipeline, which is made when it is first wanted.
    """

    out: Path
    shape: str
    device: torch.device
    dtype: torch.dtype
    _pipeline: Any = field(default=None, init=False)

    @property
    def rehearsed(self) -> bool:
        """Whether this is no GPU: figures mean nothing, and steps do as little as they can."""
        return self.device.type == "cpu"

    @cached_property
    def machine(self) -> Machine:
        sizes = (256, 2**20) if self.rehearsed else None
        return Machine.measure(self.device, self.dtype, sizes=sizes)

    @property
    def pipeline(self) -> Any:
        if self._pipeline is None:
            self._pipeline = self.build()
            self.tidy()
        return self._pipeline

    def build(self, dtype: torch.dtype | None = None) -> Any:
        """A pipeline of the session's weights, up to rounding to ``dtype``."""
        dtype = dtype or self.dtype
        return random_pipeline(self.shape, device=self.device, dtype=dtype, drawn_there=True)

    def tidy(self) -> None:
        """The pipeline as it was made, whatever a step has left; its memory is given back."""
        if self._pipeline is not None:
            self._pipeline.use_engine, self._pipeline.compile = True, False
            self._pipeline.transformer.set_cache_config("no-cache")
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def ms(self, work: Callable[[], Any], repeats: int = 5) -> float:
        """Least milliseconds of ``work`` on the device's clock."""
        return 1000 * min(seconds_of(work, self.device, repeats))

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, device=self.device).to(self.dtype)


def guarded(work: Callable[[], Any]) -> Any:
    """What ``work`` returns, or in one line why it cannot."""
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"


def versions(session: Session) -> dict[str, Any]:
    """Of everything that decides about speed."""
    found = {
        "hart": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "flash_attn": importlib.util.find_spec("flash_attn") is not None,
        "threads": torch.get_num_threads(),
    }
    if session.device.type == "cuda":
        device = torch.cuda.get_device_properties(session.device)
        found |= {
            "name": device.name,
            "memory_bytes": device.total_memory,
            "multiprocessors": device.multi_processor_count,
            "capability": list(torch.cuda.get_device_capability(session.device)),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def gpu_tests(session: Session) -> dict[str, Any]:
    """The tests that need a GPU, of the files that have some; the log beside the report."""
    if importlib.util.find_spec("pytest") is None:
        raise LeftOutError("pytest is not installed")
    files = sorted(f for f in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in f.read_text())
    if not files:
        raise LeftOutError("there are no tests beside the benchmarks")
    command = [
        *(sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"),
        *("-o", "addopts=--strict-markers"),
        *(str(file.relative_to(ROOT)) for file in files),
    ]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_S)
        log, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        log, code = (error.stdout or b"").decode(errors="replace"), None
    (session.out / "tests.log").write_text(log[-(2**20) :], encoding="utf-8")
    return {"exit_code": code, "last_lines": log.splitlines()[-12:]}


def ceilings(session: Session) -> dict[str, Any]:
    """Rates of a copy, a product, attention by every kernel and a convolution in both layouts."""
    return {
        "copy_bytes_per_s": session.machine.bytes_per_s,
        "product_flops": 2 * session.machine.macs_per_s,
        "attention": _attention_rates(session),
        "convolution": _convolution_rates(session),
    }


def _attention_rates(session: Session) -> dict[str, Any]:
    """By stage and kernel: milliseconds of one layer, and operations per second."""
    config = random_config(session.shape)
    lengths = [side**2 for side in config.patch_nums]
    heads = config.num_heads
    found: dict[str, Any] = {}
    for si in sorted({len(lengths) - n for n in (5, 2, 1)}):
        n, m = lengths[si], config.context_token + sum(lengths[1 : si + 1])
        q, k, v = (
            session.random(2, heads, tokens, config.embed_dim // heads) for tokens in (n, m, m)
        )
        found[str(lengths[si])] = of_stage = {}
        for name in BACKENDS:
            if name == "MATH" and 2 * heads * n * m > MATH_SCORES:
                continue

            of_stage[name] = guarded(partial(_kernel_rate, session, name, (q, k, v)))
    return found


def _kernel_rate(session: Session, name: str, qkv: tuple) -> dict[str, float]:
    """Of one kernel, on queries, keys and values (rows, H, ., d)."""
    rows, heads, n, width = qkv[0].shape
    with sdpa_kernel(getattr(SDPBackend, name)):
        ms = session.ms(lambda: F.scaled_dot_product_attention(*qkv))
    return {"ms": ms, "flops": 4 * rows * heads * n * qkv[1].shape[2] * width / ms * 1000}


def _convolution_rates(session: Session) -> dict[str, Any]:
    """The decoder's largest convolution, 3x3 at the picture's resolution, by layout."""
    vae = session.pipeline.vae
    channels, side = vae.config.ch, session.pipeline.model.patch_nums[-1] * vae.downsample
    x, weight = session.random(1, channels, side, side), session.random(channels, channels, 3, 3)
    found = {}
    for name in ("contiguous_format", "channels_last"):
        layout = getattr(torch, name)
        pair = [tensor.contiguous(memory_format=layout) for tensor in (x, weight)]
        ms = session.ms(partial(F.conv2d, *pair, padding=1))
        found[name] = {"ms": ms, "flops": 2 * 9 * channels**2 * side**2 / ms * 1000}
    return found


def build(session: Session) -> dict[str, Any]:
    """Draw the weights on the device."""
    model, vae = session.pipeline.model, session.pipeline.vae
    count = [sum(p.numel() for p in part.parameters()) for part in (model, vae)]
    return {"transformer_weights": count[0], "autoencoder_weights": count[1]}


@torch.no_grad()
def decoder_variants(session: Session) -> dict[str, Any]:
    """Milliseconds of decoding one map in every precision and layout, and of two other choices."""
    model, vae = session.pipeline.model, session.pipeline.vae
    side = model.patch_nums[-1]
    f_hat = session.random(1, model.Cvae, side, side)
    half = torch.float16 if session.device.type == "cuda" else torch.bfloat16
    precisions = (Precision(half), Precision(torch.float32, half), Precision(torch.float32))
    found: dict[str, Any] = {}
    for precision in precisions:
        for layout, devices in (("channels last", (session.device.type,)), ("contiguous", ())):
            with mock.patch.object(decoder_copy, "CHANNELS_LAST_DEVICES", devices):
                copy = DecoderCopy(vae, precision)
            name = ", ".join(str(each).removeprefix("torch.") for each in precision if each)
            found[f"{name}, {layout}"] = session.ms(partial(copy, f_hat), 3)
    return {
        "ms": found,
        "chosen": [str(each) for each in decoder_copy.fit_precision(vae)],
        "attention_ms": _decoder_attention(session, side**2),
        "of_eight_ms": _decoding_of_eight(session, f_hat),
    }


def _decoder_attention(session: Session, tokens: int) -> dict[str, Any]:
    """The decoder's one wide head by torch's kernel, and by plain products."""
    width = session.pipeline.vae.decoder.mid.block_1.out_channels
    q, k, v = (session.random(1, 1, tokens, width) for _ in range(3))

    def products() -> torch.Tensor:
        return ((q * width**-0.5) @ k.transpose(-1, -2)).softmax(dim=-1) @ v

    return {
        "kernel": session.ms(lambda: F.scaled_dot_product_attention(q, k, v)),
        "products": session.ms(products),
    }


def _decoding_of_eight(session: Session, f_hat: torch.Tensor) -> dict[str, Any]:
    """Eight pictures one by one and at once."""
    maps, decoder = f_hat.repeat(8, 1, 1, 1), EngineDecoder()
    found = {}
    for name, pixels in (("one by one", 1), ("at once", 2**62)):
        with mock.patch.object(decoding, "PIXELS_AT_ONCE", pixels):
            found[name] = guarded(
                lambda: session.ms(lambda: decoder.decode(session.pipeline.model, maps), 2)
            )
    return found
