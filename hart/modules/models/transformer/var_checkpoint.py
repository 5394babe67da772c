"""VAR's published checkpoints: plain ``.pth`` state dicts, whose sizes the weights tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hart.modules.models.transformer.checkpoint import WeightSource
from hart.modules.models.transformer.configuration_var import VARForC2IConfig
from hart.modules.models.transformer.fields import MAX_TOKENS
from hart.modules.networks.caching.plan_files import plan_folder_of
from hart.modules.networks.caching.similarity_io import similarity_file_of
from hart.utils.hub import local_path
from hart.utils.model_sizes import Count
from hart.utils.weights import CheckpointError, read_state_dict

SUFFIX = ".pth"
AUTOENCODER_PATTERN = f"vae*{SUFFIX}"
TRAINING_PATTERN = f"ar-ckpt*{SUFFIX}"
TRAINING_KEYS = ("trainer", "var_wo_ddp")
"""Where a training checkpoint of VAR holds the transformer."""

_SIZED = (
    *("class_emb.weight", "word_embed.weight", "head.weight", "lvl_1L"),
    "blocks.0.ffn.fc1.weight",
)
_HEAD_DIM = 64  # of every published model
_DROP_PATH_RATE_AT_24 = 0.1


@dataclass(frozen=True)
class VARFiles:
    """The files of a VAR checkpoint.

    Attributes:
        transformer: ``var_d16.pth``, or a training checkpoint.
        autoencoder: ``vae_ch160v4096z32.pth`` beside it, or a training checkpoint itself; None if
            there is none.
    """

    transformer: Path
    autoencoder: Path | None

    @property
    def similarity_files(self) -> tuple[Path, ...]:
        """Where the transformer's similarity table is, if it has one."""
        return (similarity_file_of(self.transformer),)

    @property
    def plan_folders(self) -> tuple[Path, ...]:
        """Where the transformer's plans are, if it has any."""
        return (plan_folder_of(self.transformer),)

    @property
    def parts(self) -> dict[str, str]:
        """The files by name, for a report."""
        return {"model": str(self.transformer), "autoencoder": str(self.autoencoder)}


def is_var_checkpoint(path: str | Path) -> bool:
    """Whether a path is a ``.pth`` file or a folder of them, and no folder of another layout."""
    path = Path(path).expanduser()
    if path.is_dir():
        other = (path / "config.json").is_file() or (path / "llm").is_dir()
        return not other and any(path.glob(f"*{SUFFIX}"))
    return path.suffix == SUFFIX


def locate_var_files(path: str | Path) -> VARFiles:
    """The transformer and the autoencoder of a VAR checkpoint.

    Args:
        path: the transformer's file, or a folder with one transformer; on the hub likewise.

    Raises:
        CheckpointError: no such file, or no or several transformers in the folder.
    """
    path = local_path(path)
    transformer = _only_transformer(path) if path.is_dir() else path
    if not transformer.is_file():
        raise CheckpointError(f"{transformer}: no such file")
    if transformer.match(AUTOENCODER_PATTERN):
        raise CheckpointError(
            f"{transformer}: this is the autoencoder; name the transformer's file"
        )
    if transformer.match(TRAINING_PATTERN):
        return VARFiles(transformer, transformer)
    beside = sorted(transformer.parent.glob(AUTOENCODER_PATTERN))
    if len(beside) > 1:
        names = ", ".join(file.name for file in beside)
        raise CheckpointError(f"{transformer.parent}: several autoencoders ({names}); keep one")
    return VARFiles(transformer, beside[0] if beside else None)


def _only_transformer(folder: Path) -> Path:
    found = [
        file for file in sorted(folder.glob(f"*{SUFFIX}")) if not file.match(AUTOENCODER_PATTERN)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CheckpointError(f"{folder}: no transformer of VAR (such as var_d16.pth) in it")
    names = ", ".join(file.name for file in found)
    raise CheckpointError(f"{folder}: several transformers ({names}); name one of the files")


def var_config(
    state: Mapping[str, torch.Tensor], source: str | Path = "state dict"
) -> VARForC2IConfig:
    """The configuration that a state dict of VAR's transformer implies.

    Without l2-normalised attention the weights do not tell the number of heads; it is then that of
    the published head width, 64.

    Raises:
        CheckpointError: a weight that tells a size is not there, or no schedule is in ``lvl_1L``.
    """
    class_emb, word_embed, head, levels, fc1 = (_weight(state, key, source) for key in _SIZED)
    C = class_emb.shape[1]
    depth = Count("blocks.").found(state)
    temperature = state.get("blocks.0.attn.scale_mul_1H11")
    if temperature is not None:
        _weight(state, "blocks.0.attn.scale_mul_1H11", source, 4)
    try:
        return VARForC2IConfig(
            num_classes=class_emb.shape[0] - 1,
            depth=depth,
            embed_dim=C,
            num_heads=max(C // _HEAD_DIM, 1) if temperature is None else temperature.shape[1],
            mlp_ratio=fc1.shape[0] / max(C, 1),
            drop_path_rate=_DROP_PATH_RATE_AT_24 * depth / 24,
            shared_aln="blocks.0.ada_gss" in state,
            attn_l2_norm=temperature is not None,
            patch_nums=_sides(levels, source),
            vocab_size=head.shape[0],
            z_channels=word_embed.shape[1],
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _weight(
    state: Mapping[str, torch.Tensor], key: str, source: str | Path, axes: int = 2
) -> torch.Tensor:
    if key not in state:
        raise CheckpointError(f"{source}: not a transformer of VAR, it has no {key!r}")
    if state[key].ndim != axes:
        shape = tuple(state[key].shape)
        raise CheckpointError(f"{source}: {key!r} has shape {shape}, expected {axes} axes")
    return state[key]


def _read_levels(source: Path, header: torch.Tensor) -> torch.Tensor:
    if header.dtype.is_floating_point or header.numel() > MAX_TOKENS:
        raise CheckpointError(
            f"{source}: 'lvl_1L' holds {header.numel()} values of {header.dtype}, expected at most "
            f"{MAX_TOKENS} whole numbers"
        )
    return read_state_dict(source, inside=TRAINING_KEYS, wanted={"lvl_1L"}.__contains__)["lvl_1L"]


def _sides(levels: torch.Tensor, source: str | Path) -> tuple[int, ...]:
    """Sides of the stages from the stage index of every position (1, L)."""
    _, counts = torch.unique_consecutive(levels.flatten(), return_counts=True)
    sides = tuple(math.isqrt(count) for count in counts.tolist())
    if [side * side for side in sides] != counts.tolist():
        raise CheckpointError(
            f"{source}: 'lvl_1L' has stages of {counts.tolist()} tokens, not maps"
        )
    return sides


class PthSource(WeightSource):
    """A ``.pth`` file, or the transformer inside a training checkpoint."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, TRAINING_KEYS)
        _split_merged_biases(self.headers)
        if "lvl_1L" in self.headers:
            self.headers["lvl_1L"] = _read_levels(path, self.headers["lvl_1L"])

    def read(
        self, dtype: torch.dtype | None, device: torch.device | str | None
    ) -> dict[str, torch.Tensor]:
        state = super().read(dtype, device)
        _split_merged_biases(state)
        return state


def _split_merged_biases(state: dict[str, torch.Tensor]) -> None:
    """Undo what a public fork does to checkpoints: one bias for queries, keys and values."""
    merged = [key for key in state if key.endswith(".attn.mat_qkv.bias")]
    for key in merged:
        prefix = key.removesuffix("mat_qkv.bias")
        parts = state.pop(key).chunk(3)
        names = ("q_bias", "zero_k_bias", "v_bias")
        state.update({prefix + name: part for name, part in zip(names, parts, strict=True)})
