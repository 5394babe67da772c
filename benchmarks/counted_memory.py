"""Peak memory on a GPU, counted without one: the bytes of all tensors that live at once.

Run ``python -m benchmarks.counted_memory``. A generation of the published shape is traced on CUDA
tensors that hold nothing, and decoded. Every layer is alike, so that models of 2 and 4 layers say
how much one takes. Beyond its tensors a process has CUDA's context, the workspaces of kernels and
what the allocator rounds up.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Qwen2Config, Qwen2Model

from benchmarks.common import RESULTS, benchmark_parser
from hart.engine import Engine, EngineDecoder
from hart.engine.decoder_copy import Precision
from hart.evaluation.comparison_report import table_lines
from hart.evaluation.memory import LiveBytes
from hart.evaluation.random_shapes import RANDOM_SHAPES
from hart.evaluation.random_weights import random_config
from hart.modules.models.autoencoder import HARTAutoEncoder, HARTAutoEncoderConfig
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.models.transformer.random_source import PerImageRandom
from hart.utils.files import write_json
from hart.utils.timing import Timeline

CUDA, HALF = torch.device("cuda"), torch.float16
DEPTHS = 2, 4
TEXT_ENCODER = {  # the language model of Qwen2-VL-1.5B, as far as HART uses it
    "hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960,
    "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151_936,
}  # fmt: skip


def text_encoder_bytes() -> int:
    """Of the text encoder's weights in bfloat16."""
    with torch.device("meta"):
        model = Qwen2Model(Qwen2Config(**TEXT_ENCODER))
    return 2 * sum(p.numel() for p in model.parameters())


# --- tensors on a device that is not there --------------------------------------------------------

_AT = torch.ops.aten


def _taken(x: torch.Tensor, index: Any) -> tuple[torch.Tensor, list | None]:
    """Slices of ``x``, and what is left to be indexed by tensors."""
    parts = list(index) if isinstance(index, tuple) else [index]
    for at, part in enumerate(parts):
        if part is Ellipsis:
            named = sum(each is not None for each in parts) - 1
            parts[at : at + 1] = [slice(None)] * (x.dim() - named)
            break
    dim, tensors = 0, {}
    for part in parts:
        if part is None:
            x, dim = x.unsqueeze(dim), dim + 1
        elif isinstance(part, slice):
            x, dim = _AT.slice.Tensor(x, dim, part.start, part.stop, part.step or 1), dim + 1
        elif isinstance(part, int):
            x = _AT.select.int(x, dim, part)
        else:
            tensors[dim], dim = part, dim + 1
    return x, [tensors.get(i) for i in range(max(tensors) + 1)] if tensors else None


def _get(x: torch.Tensor, index: Any) -> torch.Tensor:
    x, by = _taken(x, index)
    return x if by is None else _AT.index.Tensor(x, by)


def _put(x: torch.Tensor, index: Any, value: Any) -> None:
    x, by = _taken(x, index)
    value = value if isinstance(value, torch.Tensor) else x.new_full((), value)
    _AT.copy_.default(x, value) if by is None else _AT.index_put_.default(x, by, value)


def _contiguous(x: torch.Tensor, memory_format: Any = torch.contiguous_format) -> torch.Tensor:
    same = x.is_contiguous(memory_format=memory_format)
    return x if same else _AT.clone.default(x, memory_format=memory_format)


def _nonzero(x: torch.Tensor, as_tuple: bool = True) -> tuple[torch.Tensor, ...]:
    """Of a mask (rows, n) that is true everywhere."""
    rows, n = x.shape
    i, j = (torch.arange(size, device=x.device) for size in (rows, n))
    return i[:, None].expand(rows, n).reshape(-1), j[None].expand(rows, n).reshape(-1)


@contextlib.contextmanager
def without_a_gpu() -> Iterator[None]:
    """Inside, tensors have a shape and a CUDA device, but no numbers.

    A torch without CUDA refuses some methods on them, which are done by other operators instead.
    """
    methods = {
        "__getitem__": _get, "__setitem__": _put, "contiguous": _contiguous, "nonzero": _nonzero,
    }  # fmt: skip
    with contextlib.ExitStack() as patches:
        patches.enter_context(FakeTensorMode())
        for name, method in methods.items():
            patches.enter_context(mock.patch.object(torch.Tensor, name, method))
        yield


def _drawn(fill: Any, shape: Any, dtype: torch.dtype, generator: Any) -> torch.Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device=CUDA)


def _orders(source: PerImageRandom, rows: int, n: int) -> torch.Tensor:
    return torch.arange(n, device=CUDA).expand(rows, n)


@contextlib.contextmanager
def _without_numbers() -> Iterator[None]:
    """Inside, noise is not drawn, and what would be decided by numbers is decided."""
    source = "hart.modules.models.transformer.random_source"
    with (
        mock.patch(f"{source}._drawn", _drawn),
        mock.patch.object(PerImageRandom, "orders", _orders),
        mock.patch("hart.utils.adapted.is_plain", return_value=True),
        mock.patch("hart.engine.decoder_copy._state", return_value=[]),
        mock.patch("hart.engine.decoder_copy.fit_precision", return_value=Precision(HALF)),
    ):
        yield


def _to_the_device(module: nn.Module) -> None:
    """New tensors for those of a module on the meta device."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                weight = torch.empty(p.shape, dtype=p.dtype, device=CUDA)
                part._parameters[name] = nn.Parameter(weight, False)
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = torch.empty(b.shape, dtype=b.dtype, device=CUDA)


def _parts(shape: str, depth: int) -> tuple[HARTForT2IEnhanced, HARTAutoEncoder]:
    config = HARTForT2IConfig(**{**RANDOM_SHAPES[shape].transformer, "depth": depth})
    autoencoder = HARTAutoEncoderConfig(
        v_patch_nums=config.patch_nums,
        quantizer_type="var_hybrid",
        vocab_size=config.vocab_size,  # type: ignore[arg-type]
        z_channels=config.z_channels,  # type: ignore[arg-type]
        **RANDOM_SHAPES[shape].autoencoder,
    )
    with torch.device("meta"):
        model = HARTForT2IEnhanced(config).to(HALF).eval()
        return model, HARTAutoEncoder(autoencoder).to(HALF).eval()


# --- counting -------------------------------------------------------------------------------------


def peaks(shape: str, batch_size: int, depth: int, preset: str = "no-cache") -> dict[str, int]:
    """Bytes of the weights, and most at once while a batch is drawn and decoded, of some layers."""
    model, vae = _parts(shape, depth)
    with without_a_gpu(), _without_numbers(), LiveBytes(CUDA) as live:
        for part in (model, vae):
            _to_the_device(part)
        found = {"weights": live.live}
        model.attach_autoencoder(vae)
        model.set_cache_config(preset)
        tokens = (batch_size, model.context_token)
        f_hat = model.generate_feature_map(
            batch_size,
            torch.empty(*tokens, model.context_dim, device=CUDA),
            context_position_ids=torch.zeros(tokens, dtype=torch.int64, device=CUDA),
            context_mask=torch.ones(tokens, dtype=torch.bool, device=CUDA),
            generator=[SimpleNamespace(device=CUDA)] * batch_size,  # type: ignore[list-item]
            steps=Engine(model),
            timeline=Timeline("cpu"),
            more_smooth=True,
        )
        found["drawing"] = live.peak
        live.restart()
        EngineDecoder().decode(model, f_hat)
        found["decoding"] = live.peak
    return found


def counted(shape: str, batch_size: int, preset: str = "no-cache") -> dict[str, int]:
    """:func:`peaks` of the whole model, and the largest of them, with the text encoder or without.

    Encoding text is never the peak: keys and values do not live yet.
    """
    depth = random_config(shape).depth
    few, more = (peaks(shape, batch_size, n, preset) for n in DEPTHS)
    per_layer = {name: (more[name] - few[name]) // (DEPTHS[1] - DEPTHS[0]) for name in few}
    found = {name: few[name] + (depth - DEPTHS[0]) * per_layer[name] for name in few}
    offloaded = max(found["drawing"], found["decoding"])
    return {**found, "offloaded": offloaded, "everything": offloaded + text_encoder_bytes()}


def markdown(report: dict[str, Any]) -> str:
    rows = [
        (name, *(f"{found[part] / 2**30:.1f} GiB" for part in ("everything", "offloaded")))
        for name, found in report["batches"].items()
    ]
    return "\n".join(table_lines(("batch", "peak", "text encoder offloaded"), rows)) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = benchmark_parser("counted_memory")
    parser.set_defaults(output=Path(RESULTS / "counted_memory.json"))
    parser.add_argument("--shape", default="0.7b-1024", choices=("0.7b-1024", "tiny"))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--preset", default="no-cache")
    args = parser.parse_args(argv)
    batches = {str(n): counted(args.shape, n, args.preset) for n in args.batch_sizes}
    report = {
        "shape": args.shape, "preset": args.preset, "dtype": "float16",
        "torch": torch.__version__, "text_encoder": text_encoder_bytes(), "batches": batches,
    }  # fmt: skip
    write_json(args.output, report)
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
