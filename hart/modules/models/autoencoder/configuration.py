"""Configurations of the image autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hart.modules.networks.basic_vae import NORM_GROUPS
from hart.modules.networks.caching.numbers import plain
from hart.utils.checked_config import CheckedConfig
from hart.utils.fields import Choice, Field, Flag, Items, Number, Whole

__all__ = ["HARTAutoEncoderConfig", "HARTAutoEncoderWithDiscConfig"]

QUANTIZER_TYPES = ("var", "var_hybrid")

_FLAG = Flag()
AUTOENCODER_FIELDS: dict[str, Field] = {
    "vocab_size": Whole(1, 1 << 24),
    "z_channels": Whole(1, 1 << 16),
    "ch": Whole(NORM_GROUPS, 1 << 14, NORM_GROUPS),
    "dropout": Number(0, 1),
    "beta": Number(),
    "using_znorm": _FLAG,
    "quant_conv_ks": Whole(1, 31, 2),  # an even kernel changes the map's size
    "quant_resi": Number(-1, 1),
    "share_quant_resi": Whole(0, 64),
    "default_qresi_counts": Whole(0, 64),
    "v_patch_nums": Items(Whole(1, 512), 2, 64),
    "test_mode": _FLAG,
    "ch_mult": Items(Whole(1, 64), 1, 8),
    "levels": Items(Whole(1, 1 << 24), 0, 64),
    "quantizer_type": Choice(QUANTIZER_TYPES),
    "hybrid": _FLAG,
    "disable_quant_resi": _FLAG,
    "freeze_codebook_for_hybrid": _FLAG,
    "double_decoder": _FLAG,
}
_SEQUENCES = {"v_patch_nums": tuple, "ch_mult": tuple, "levels": list}


class HARTAutoEncoderConfig(CheckedConfig):
    """Configuration of ``HARTAutoEncoder``.

    Args:
        vocab_size: number of codes.
        z_channels: latent channels.
        ch: base channels of encoder and decoder.
        dropout: dropout probability inside the residual blocks.
        beta: weight of the commitment loss.
        using_znorm: look codes up by cosine similarity instead of Euclidean distance.
        quant_conv_ks: kernel size of the convolutions around the quantizer.
        quant_resi: share of the residual convolutions in their output.
        share_quant_resi: 0: one residual convolution per stage; 1: one; K: K of them.
        default_qresi_counts: their number if none is shared; 0 means one per stage.
        v_patch_nums: default sides of the stages.
        test_mode: evaluation mode and frozen weights from construction on.
        ch_mult: channels of each level as multiples of ``ch``; the number of levels gives the
            downsampling factor 2^(levels - 1).
        levels, hybrid: stored only.
        quantizer_type: ``"var"`` or ``"var_hybrid"``.
        disable_quant_resi: stored on the quantizer only.
        freeze_codebook_for_hybrid: with ``"var_hybrid"``, train the first decoder only.
        double_decoder: a second decoder for purely discrete maps; needs ``"var_hybrid"``.

    Raises ``ValueError`` for a value that ``AUTOENCODER_FIELDS`` does not allow, or a second
    decoder without hybrid.
    """

    model_type = "hart_autoencoder"
    FIELDS = AUTOENCODER_FIELDS

    def __init__(
        self,
        vocab_size: int = 4096,
        z_channels: int = 32,
        ch: int = 160,
        dropout: float = 0.0,
        beta: float = 0.25,
        using_znorm: bool = False,
        quant_conv_ks: int = 3,
        quant_resi: float = 0.5,
        share_quant_resi: int = 4,
        default_qresi_counts: int = 0,
        v_patch_nums: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        test_mode: bool = False,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        levels: Sequence[int] = (8, 8, 8, 6, 5),
        quantizer_type: str = "var",
        hybrid: bool = False,
        disable_quant_resi: bool = False,
        freeze_codebook_for_hybrid: bool = True,
        double_decoder: bool = False,
        **kwargs: Any,
    ):
        given = locals()
        for name in AUTOENCODER_FIELDS:
            setattr(self, name, given[name])
        if double_decoder and quantizer_type != "var_hybrid":
            raise ValueError(
                f"double_decoder needs quantizer_type 'var_hybrid', got {quantizer_type!r}"
            )
        super().__init__(**kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        value = plain(value)
        if name in _SEQUENCES and isinstance(value, list | tuple):
            value = _SEQUENCES[name](value)
        super().__setattr__(name, value)


class HARTAutoEncoderWithDiscConfig(HARTAutoEncoderConfig):
    """Configuration of ``HARTAutoEncoderWithDisc``.

    Args:
        disc_ndf: base channels of the discriminator.

    The others are those of ``HARTAutoEncoderConfig``.
    """

    model_type = "hart_autoencoder_with_disc"
    FIELDS = AUTOENCODER_FIELDS | {"disc_ndf": Whole(1, 1 << 12)}

    def __init__(self, *args: Any, disc_ndf: int = 64, **kwargs: Any):
        self.disc_ndf = disc_ndf
        super().__init__(*args, **kwargs)

    def autoencoder_config(self) -> HARTAutoEncoderConfig:
        """The configuration of the autoencoder alone."""
        fields = self.to_dict()
        for name in ("model_type", "architectures", "disc_ndf"):
            fields.pop(name, None)
        return HARTAutoEncoderConfig.from_dict(fields)
