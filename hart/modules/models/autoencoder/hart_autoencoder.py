"""HART's image autoencoder: images to tokens and feature maps, and back.

Shapes: B batch, Z latent channels, H and W in pixels, h = H / downsample, w = W / downsample.
Images are in [-1, 1].
"""

# ruff: noqa: N802 (method names are those of the published interface)

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from hart.modules.models.autoencoder.configuration import (
    HARTAutoEncoderConfig,
    HARTAutoEncoderWithDiscConfig,
)
from hart.modules.models.autoencoder.quantize import HARTHybridQuantizer, VectorQuantizer2
from hart.modules.models.autoencoder.quantize.maps import PatchNums, square_side, to_map
from hart.modules.networks.basic_vae import Decoder, Encoder
from hart.utils.adapted import input_dtype
from hart.utils.checked_config import read_config
from hart.utils.model_sizes import Axis, Count, build_on_meta
from hart.utils.weights import check_fit, check_one_dtype, load_into, read_headers, read_state_dict

__all__ = ["HARTAutoEncoder"]


def with_fitting_hit_average(
    state_dict: Mapping[str, Any], hit_average: torch.Tensor, prefix: str = ""
) -> Mapping[str, Any]:
    """Replace hit statistics of another schedule by ``hit_average``, in a new dictionary.

    They are training statistics, one row per stage, on which no computation depends.
    """
    key = prefix + "quantize.ema_vocab_hit_SV"
    if key not in state_dict or state_dict[key].shape == hit_average.shape:
        return state_dict
    return {**state_dict, key: hit_average}


@torch.no_grad()
def initialize_module(module: nn.Module) -> bool:
    """Initialise a module unless transformers marked its weights as loaded; whether it did."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if any(getattr(tensor, "_is_hf_initialized", False) for tensor in own):
        return False
    if isinstance(module, VectorQuantizer2):
        module.ema_vocab_hit_SV.zero_()
    elif own:
        module.reset_parameters()  # type: ignore[operator]
    return True


def _second_decoder(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the first decoder, as separate tensors under the second one's names."""
    names = {"decoder.": "decoder2.", "post_quant_conv.": "post_quant_conv2."}
    return {
        second + key.removeprefix(first): tensor.clone()
        for first, second in names.items()
        for key, tensor in state_dict.items()
        if key.startswith(first)
    }


class HARTAutoEncoder(PreTrainedModel):
    """Convolutional autoencoder with a multi-scale quantizer."""

    quantize: Any  # a VectorQuantizer2, or what somebody has put in its place
    encoder: Encoder
    decoder: Decoder
    config_class = HARTAutoEncoderConfig
    main_input_name = "inp"
    WEIGHT_SIZES: ClassVar[dict[str, Axis | Count]] = {
        "vocab_size": Axis("quantize.embedding.weight", 0),
        "z_channels": Axis("quantize.embedding.weight", 1),
        "ch": Axis("encoder.conv_in.weight", 0),
        "ch_mult": Count("encoder.down."),
        "quant_conv_ks": Axis("quant_conv.weight", 2),
    }

    def __init__(self, config: HARTAutoEncoderConfig):
        super().__init__(config)
        self.V = self.vocab_size = config.vocab_size
        self.Cvae = config.z_channels
        self.downsample = 2 ** (len(config.ch_mult) - 1)
        self.test_mode, self.double_decoder = config.test_mode, config.double_decoder
        names = ("ch", "ch_mult", "dropout", "z_channels")
        layout = {name: getattr(config, name) for name in names}
        self.encoder = Encoder(**layout)
        self.decoder = Decoder(**layout)
        self.quant_conv = self._latent_conv()
        self.post_quant_conv = self._latent_conv()
        self.quantize = self._build_quantizer()
        if self.double_decoder:
            self.decoder2 = Decoder(**layout)
            self.post_quant_conv2 = self._latent_conv()
        self._freeze()
        self.post_init()

    def _latent_conv(self) -> nn.Conv2d:
        kernel = self.config.quant_conv_ks
        return nn.Conv2d(self.Cvae, self.Cvae, kernel, stride=1, padding=kernel // 2)

    @property
    def _is_hybrid(self) -> bool:
        return self.config.quantizer_type == "var_hybrid"

    def _build_quantizer(self) -> VectorQuantizer2:
        config = self.config
        quantizer_class = HARTHybridQuantizer if self._is_hybrid else VectorQuantizer2
        same = (
            *("using_znorm", "beta", "default_qresi_counts", "v_patch_nums", "quant_resi"),
            *("share_quant_resi", "disable_quant_resi"),
        )
        options = {name: getattr(config, name) for name in same}
        return quantizer_class(config.vocab_size, config.z_channels, **options)

    def _freeze(self) -> None:
        if self._is_hybrid and self.config.freeze_codebook_for_hybrid:
            for name in ("encoder", "quantize", "quant_conv", "decoder2", "post_quant_conv2"):
                if hasattr(self, name):
                    getattr(self, name).requires_grad_(False)
        if self.test_mode:
            self.eval().requires_grad_(False)

    def _init_weights(self, module: nn.Module) -> None:
        initialize_module(module)

    @classmethod
    def from_tokenizer_folder(
        cls,
        path: str | Path,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> HARTAutoEncoder:
        """Load the autoencoder of a local tokenizer folder, in evaluation mode.

        The folder may hold a ``HARTAutoEncoderWithDisc``; its discriminator is neither built nor
        read. Weights are held once, in ``dtype`` (``None``: as stored) on ``device`` (``None``:
        CPU). Raises ``CheckpointError`` naming the file and the first difference if the folder
        is incomplete, damaged, or does not match its configuration.
        """
        config = read_config(Path(path), HARTAutoEncoderConfig, HARTAutoEncoderWithDiscConfig)
        prefix, folder = "", config.name_or_path
        if isinstance(config, HARTAutoEncoderWithDiscConfig):
            prefix, config = "vae.", config.autoencoder_config()
            config.name_or_path = folder
        return cls._from_weights(config, Path(path), dtype, device, prefix=prefix)

    @classmethod
    def _from_weights(cls, config, source: Path, dtype, device, **where):
        """A model in evaluation mode, with the weights of ``read_state_dict(source, **where)``."""
        headers = read_headers(source, **where)
        model = build_on_meta(cls, config, headers, source)
        fitting = with_fitting_hit_average(headers, model.quantize.ema_vocab_hit_SV)
        check_fit(model, fitting, source=source)
        check_one_dtype(headers, dtype, source)
        state = read_state_dict(source, dtype=dtype, device=device, **where)
        like = next(iter(state.values()))
        unused = torch.zeros_like(
            model.quantize.ema_vocab_hit_SV, dtype=like.dtype, device=like.device
        )
        load_into(model, with_fitting_hit_average(state, unused), source=source)
        return model.eval()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As ``nn.Module.load_state_dict``, with two allowances.

        Hit statistics of another schedule are replaced by the model's own. If the second decoder
        is not in ``state_dict``, it starts as a copy of the first. ``state_dict`` is not changed.
        """
        state = with_fitting_hit_average(state_dict, self.quantize.ema_vocab_hit_SV)
        if self.double_decoder and not any(key.startswith("decoder2.") for key in state):
            state = {**state, **_second_decoder(state)}
        return super().load_state_dict(state, strict=strict, assign=assign)

    def fhat_to_img(
        self, f_hat: torch.Tensor, decoder: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Decode feature maps (B, Z, h, w), square or not, to images (B, 3, H, W) in [-1, 1].

        ``decoder`` runs in the place of ``self.post_quant_conv`` and ``self.decoder``.
        """
        return (decoder or self._decode)(f_hat).clamp(-1, 1)

    def _decode(self, f_hat: torch.Tensor, second: bool = False) -> torch.Tensor:
        conv = self.post_quant_conv2 if second else self.post_quant_conv
        decoder = self.decoder2 if second else self.decoder
        return decoder(conv(f_hat.to(input_dtype(conv, self))))

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        return self.quant_conv(self.encoder(images.to(input_dtype(self.quant_conv, self))))

    def encode(
        self, inp: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, list[torch.Tensor]]:
        """Encode images and quantize them as in training: ``(f_hat, usages, loss, ids)``."""
        return self.quantize(self._encode(inp))

    @torch.no_grad()
    def img_to_idxBl(
        self,
        inp_img_no_grad: torch.Tensor,
        v_patch_nums: PatchNums | None = None,
        exception_stages: Mapping[int, torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """Images (B, 3, H, W) to ids (B, pn^2) of every stage.

        ``v_patch_nums`` and ``exception_stages`` as in ``VectorQuantizer2.f_to_idxBl_or_fhat``.
        """
        f = self._encode(inp_img_no_grad)
        return self.quantize.f_to_idxBl_or_fhat(
            f, to_fhat=False, v_patch_nums=v_patch_nums, exception_stages=exception_stages
        )

    @torch.no_grad()
    def img_to_idxBl_and_frest(
        self, inp_img_no_grad: torch.Tensor, v_patch_nums: PatchNums | None = None
    ) -> list[torch.Tensor]:
        """As ``img_to_idxBl``, plus what the last stage has to express, (B, P^2, Z).

        Raises ``ValueError`` if the quantizer is not hybrid.
        """
        self._require_hybrid("img_to_idxBl_and_frest")
        return self.quantize.f_to_idxBl_and_frest(self._encode(inp_img_no_grad), v_patch_nums)

    def _require_hybrid(self, method: str) -> None:
        if not self._is_hybrid:
            raise ValueError(
                f"{method} needs quantizer_type 'var_hybrid', got {self.config.quantizer_type!r}"
            )

    def idxBl_to_img(
        self, ms_idx_Bl: Sequence[torch.Tensor], same_shape: bool, last_one: bool = False
    ) -> torch.Tensor | list[torch.Tensor]:
        """Ids (B, pn^2) of every stage to images; arguments as for ``idxBl_to_fhat``."""
        return self._decode_all(self.idxBl_to_fhat(ms_idx_Bl, same_shape, last_one))

    def idxBl_to_fhat(
        self, ms_idx_Bl: Sequence[torch.Tensor], same_shape: bool, last_one: bool = False
    ) -> torch.Tensor | list[torch.Tensor]:
        """Ids (B, pn^2) of every stage to the feature maps summed up to each stage.

        ``same_shape``: all maps have the last stage's size; ``last_one``: the last map only.
        The schedule is the one that the numbers of ids give.
        """
        sides = [square_side(ids.shape[1]) for ids in ms_idx_Bl]
        maps = [
            to_map(self.quantize.embedding(ids), (side, side))
            for ids, side in zip(ms_idx_Bl, sides, strict=True)
        ]
        return self.quantize.embed_to_fhat(maps, sides, same_shape, last_one)

    def embed_to_img(
        self, ms_h_BChw: Sequence[torch.Tensor], all_to_max_scale: bool, last_one: bool = False
    ) -> torch.Tensor | list[torch.Tensor]:
        """Codebook maps (B, Z, pn, pn) to images; see ``VectorQuantizer2.embed_to_fhat``."""
        sides = [h.shape[-1] for h in ms_h_BChw]
        maps = self.quantize.embed_to_fhat(ms_h_BChw, sides, all_to_max_scale, last_one)
        return self._decode_all(maps)

    @torch.no_grad()
    def img_to_reconstructed_img(
        self, x: torch.Tensor, v_patch_nums: PatchNums | None = None, last_one: bool = False
    ) -> torch.Tensor | list[torch.Tensor]:
        """Quantize images and decode them, from the stages up to each one (or up to the last)."""
        maps = self.quantize.f_to_idxBl_or_fhat(self._encode(x), True, v_patch_nums)
        return self._decode_all(maps[-1] if last_one else maps)

    def _decode_all(
        self, maps: torch.Tensor | Sequence[torch.Tensor]
    ) -> torch.Tensor | list[torch.Tensor]:
        if isinstance(maps, torch.Tensor):
            return self.fhat_to_img(maps)
        return [self.fhat_to_img(f_hat) for f_hat in maps]

    def forward(
        self,
        inp: torch.Tensor,
        ret_usages: bool = True,
        patch_nums: PatchNums | None = None,
        skip_continuous_prob: float = 0.0,
    ) -> dict[str, torch.Tensor | None]:
        """Reconstruct images (B, 3, H, W) with gradients.

        ``skip_continuous_prob`` as in ``HARTHybridQuantizer.forward``; the plain quantizer has
        no residual, it does not depend on it.

        Returns ``out`` (not clamped), ``usages`` (percent of codes used) and ``vq_loss``.
        """
        f = self._encode(inp)
        options = {}
        if self._is_hybrid:
            options["skip_continuous_prob"] = skip_continuous_prob
        f_hat, usages, vq_loss, _ = self.quantize(f, ret_usages, patch_nums, **options)
        return {"out": self._decode(f_hat), "usages": usages, "vq_loss": vq_loss}

    def forward_with_double_decoder(
        self,
        inp: torch.Tensor,
        ret_usages: bool = True,
        patch_nums: PatchNums | None = None,
        skip_continuous_prob: float = 0.0,
    ) -> dict[str, torch.Tensor | None]:
        """As ``forward``, but purely discrete maps go through the second decoder."""
        if not self.double_decoder:
            raise ValueError("forward_with_double_decoder needs double_decoder=True")
        result = self.quantize.quantize(self._encode(inp), ret_usages, patch_nums)
        discrete = random.random() < skip_continuous_prob
        f_hat = result.f_hat if discrete else result.f_hat + result.rest
        out = self._decode(f_hat, second=discrete)
        return {"out": out, "usages": result.usages, "vq_loss": result.loss}

    def compute_loss(
        self,
        out: torch.Tensor,
        usages: torch.Tensor | None,
        vq_loss: torch.Tensor,
        recon_weight: float = 1.0,
        xs: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Training loss from the entries of ``forward`` and the images ``xs``."""
        if xs is None:
            raise ValueError("compute_loss needs the images xs")
        return recon_weight * F.mse_loss(out, xs) + vq_loss

    def get_last_layer(self) -> torch.Tensor:
        """Weight of the decoder's last convolution (for adaptive loss weights)."""
        return self.decoder.conv_out.weight
