"""VAR's image autoencoder: HART's without a residual, loaded from its published ``.pth`` file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from hart.modules.models.autoencoder.configuration import HARTAutoEncoderConfig
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.utils.weights import CheckpointError, read_headers

__all__ = ["VQVAE"]

TRAINING_KEYS = ("trainer", "vae_local")
"""Where a training checkpoint of VAR holds the autoencoder."""

_PHI = "quantize.quant_resi."
_USED = 0.08  # a code counts as used from this share of an even distribution on


class VQVAE(HARTAutoEncoder):
    """The autoencoder of VAR: every stage is discrete, the last one passes its phi too.

    Parameter names are those of the published ``vae_ch160v4096z32.pth``. Beside what is said here,
    the methods are those of :class:`HARTAutoEncoder`.
    """

    @classmethod
    def from_pth(
        cls,
        path: str | Path,
        patch_nums: Sequence[int],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> VQVAE:
        """Load a state dict written by ``torch.save``, or the one inside a training checkpoint.

        Args:
            path: the file. Its sizes are read from the weights.
            patch_nums: sides of the stages, which the weights do not tell.
            dtype, device: None means as stored, on the CPU.

        Raises:
            CheckpointError: the file is missing, damaged, or not an autoencoder.
        """
        config = vqvae_config(read_headers(path, inside=TRAINING_KEYS), patch_nums, path)
        return cls._from_weights(config, Path(path), dtype, device, inside=TRAINING_KEYS)

    def forward(  # type: ignore[override]  # as published
        self, inp: torch.Tensor, ret_usages: bool = False
    ) -> tuple[torch.Tensor, list[float] | None, torch.Tensor]:
        """Reconstruct images (B, 3, H, W) with gradients.

        Returns:
            The reconstruction, not clamped; if asked for, the percentage of codes in use per stage,
            by the running hit statistics; and the quantizer's loss.
        """
        f = self._encode(inp)
        result = self.quantize.quantize(f, ret_usages=False)
        usages = None
        if ret_usages:
            margin = _USED * f.shape[0] * f.shape[2] * f.shape[3] / self.V
            used = self.quantize.ema_vocab_hit_SV >= margin
            usages = (used.float().mean(dim=1) * 100).tolist()
        return self._decode(result.f_hat), usages, result.loss


def vqvae_config(
    state: Mapping[str, torch.Tensor], patch_nums: Sequence[int], source: str | Path = "state dict"
) -> HARTAutoEncoderConfig:
    """The configuration that a state dict of VAR's autoencoder implies.

    Raises:
        CheckpointError: a weight that tells a size is not there.
    """
    needed = ("encoder.conv_in.weight", "quantize.embedding.weight", "quant_conv.weight")
    for key in needed:
        if key not in state:
            raise CheckpointError(f"{source}: not an autoencoder of VAR, it has no {key!r}")
    conv_in, codebook, quant_conv = (state[key] for key in needed)
    if (conv_in.ndim, codebook.ndim, quant_conv.ndim) != (4, 2, 4):
        shapes = ", ".join(f"{key!r} {tuple(state[key].shape)}" for key in needed)
        raise CheckpointError(f"{source}: not an autoencoder of VAR, it has {shapes}")
    phis = len([key for key in state if key.startswith(_PHI) and key.endswith(".weight")])
    try:
        return HARTAutoEncoderConfig(
            vocab_size=codebook.shape[0],
            z_channels=codebook.shape[1],
            ch=conv_in.shape[0],
            quant_conv_ks=quant_conv.shape[-1],
            share_quant_resi=_sharing(state, phis),
            default_qresi_counts=phis,
            v_patch_nums=tuple(patch_nums),
            test_mode=True,
            name_or_path=str(source),
        )
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _sharing(state: Mapping[str, torch.Tensor], phis: int) -> int:
    """0: one residual convolution per stage, 1: one for all, K: K of them."""
    if any(key.startswith(_PHI + "qresi_ls.") for key in state):
        return phis
    return 1 if any(key.startswith(_PHI + "qresi.") for key in state) else 0
