"""Rotary position embeddings of HART: 1-D for the text, 2-D for the token maps.

The 2-D variant pairs channels that carry different angles (row against column), so it is not a
rotation; checkpoints were trained with it and it is reproduced as it is.
"""

from __future__ import annotations

import torch
from torch import nn

from hart.modules.networks.constants import Constants

MaskIndex = tuple[torch.Tensor, torch.Tensor]
"""``nonzero(as_tuple=True)`` of a (rows, positions) mask with equally many hits in every row."""


def _grid_coordinates(sides: tuple[int, ...], last_side: int) -> torch.Tensor:
    """(n, 2) float32 row and column of every cell of the maps, scaled to the last map's grid."""
    grids = []
    for side in sides:
        axis = torch.arange(side, dtype=torch.float32, device="cpu") / side * last_side
        grids.append(torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).view(-1, 2))
    return torch.cat(grids)


def get_position_ids(
    batch_size: int,
    patch_nums: tuple[int, ...],
    device: torch.device | str,
    si: int = -1,
    m_maskgit: MaskIndex | None = None,
    constants: Constants | None = None,
) -> torch.Tensor:
    """Grid coordinates of a stage's tokens in units of the last map's cells, without text offset.

    Args:
        batch_size: rows.
        patch_nums: sides of the maps; the last one gives the unit.
        device: device of the result.
        si: index into ``patch_nums``, -1 for all maps one after the other.
        m_maskgit: selects positions per row; all rows select equally many.
        constants: keeps the coordinates of all rows; by default they are made anew.

    Returns:
        (batch_size, n, 2) float32, row then column.
    """
    sides = tuple(patch_nums) if si == -1 else (patch_nums[si],)
    constants = constants or Constants()
    coordinates = constants.get(device, _grid_coordinates, sides, patch_nums[-1])
    if m_maskgit is not None:
        return coordinates[m_maskgit[1].to(device)].view(batch_size, -1, 2)
    return coordinates.expand(batch_size, -1, -1)


def get_position_ids_1d(batch_size: int, length: int, device: torch.device | str) -> torch.Tensor:
    """(batch_size, length) int64 positions 0, 1, 2, ..."""
    return torch.arange(length, dtype=torch.int64, device=device).expand(batch_size, -1)


def _frequencies(count: int, exponent_step: int, dim: int, base: float) -> torch.Tensor:
    exponents = torch.arange(
        0, count * exponent_step, exponent_step, dtype=torch.float32, device="cpu"
    )
    return 1.0 / base ** (exponents / dim)


class _RotaryBase(nn.Module):
    """Holds the geometry; frequencies are made when first used: there is no buffer to lose."""

    def __init__(
        self,
        dim: int,
        max_position_embeddings: int = 2048,
        base: float = 10000,
        device: torch.device | str | None = None,
        scaling_factor: float = 1.0,
    ):
        super().__init__()
        self.dim = dim
        self.max_position_embeddings = max_position_embeddings
        self.base = base
        self.scaling_factor = scaling_factor
        self.constants = Constants()

    def angles(self, position_ids: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def frequencies(self, step: int, device: torch.device) -> torch.Tensor:
        """(dim / step,) float32, falling from 1."""
        count = self.dim // step
        return self.constants.get(device, _frequencies, count, step, self.dim, self.base)

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine tables (batch, n, dim) in the dtype of ``x``, computed in float32."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            angles = self.angles(position_ids.to(x.device).float() / self.scaling_factor)
            return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class LlamaRotaryEmbedding(_RotaryBase):
    """2-D tables: ``position_ids`` (batch, n, 2); angles are [row, row, column, column]."""

    def angles(self, position_ids: torch.Tensor) -> torch.Tensor:
        omega = self.frequencies(4, position_ids.device)
        row, column = (position_ids[..., axis, None] * omega for axis in (0, 1))
        return torch.cat((row, row, column, column), dim=-1)


class LlamaRotaryEmbedding1D(_RotaryBase):
    """1-D tables: ``position_ids`` (batch, n)."""

    def angles(self, position_ids: torch.Tensor) -> torch.Tensor:
        omega = self.frequencies(2, position_ids.device)
        half = position_ids[..., None] * omega
        return torch.cat((half, half), dim=-1)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    """``[a, b] -> [-b, a]`` for the two halves of the last axis."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rotary_pos_emb(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    position_ids: torch.Tensor | None = None,
    unsqueeze_dim: int = 2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply tables (batch, n, d) to queries and keys.

    Args:
        q, k: (batch, n, H, d) with ``unsqueeze_dim=2``, (batch, H, n, d) with 1.
        position_ids: ignored, kept for the signature.
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


class FusedRoPEFunc:
    """The fused kernel's function on plain tensors: float32 inside, one rounding at the end."""

    @staticmethod
    def apply(
        x: torch.Tensor, freqs: torch.Tensor, transpose_output_memory: bool = False
    ) -> torch.Tensor:
        """Rotate ``x`` by the angles ``freqs``, which broadcast against it."""
        x32, angles = x.float(), freqs.float()
        return (x32 * angles.cos() + rotate_half(x32) * angles.sin()).to(x.dtype)


# Names of the compiled variants; no forward pass uses them and the plain modules are equivalent.
FusedRoPEFuncWithPos = FusedRoPEFunc
FusedLlamaRotaryEmbedding1D = LlamaRotaryEmbedding1D
FusedLlamaRotaryEmbedding1DWithPos = LlamaRotaryEmbedding1D
FusedLlamaRotaryEmbedding2DWithPos = LlamaRotaryEmbedding
