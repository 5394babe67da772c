"""What images are drawn from, text in HART and a class in VAR, and what the sampler does then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from hart.modules.models.transformer.generation_state import check_chunks
from hart.modules.models.transformer.random_source import PerImageRandom, UpstreamRandom
from hart.modules.networks.caching.numbers import integer, plain, plain_list

if TYPE_CHECKING:
    from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
    from hart.modules.models.transformer.var_transformer_c2i import VARForC2I

Labels = torch.Tensor | Sequence[int] | int | None
"""Class indices, one per image; one for all, negative for none; None to draw them."""

Embedded = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""Conditioning of 2B rows, and positions and mask of the text, if it is one."""


class TextCondition:
    """Text features. The last stage comes in chunks, and the diffusion head adds a residual to it.

    Args:
        model: the transformer.
        B: number of images.
        label_B: text features (B, T, E).
        context_position_ids: (B, T) int64 positions of the text tokens.
        context_mask: (B, T) nonzero at real text tokens.
        final_stage: 0 adds the residual of the diffusion head, any other value does not.
        num_maskgit_iters: chunks of the last stage, at most its tokens; 0 leaves it out.
        top_k: ignored, as in the public implementation.

    Attributes:
        options: fields of :class:`SamplingOptions`.

    Raises:
        ValueError: a wrong shape or number.
    """

    def __init__(
        self,
        model: HARTForT2I,
        B: int,
        label_B: Any,
        context_position_ids: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
        final_stage: int = 0,
        num_maskgit_iters: int = 1,
        *,
        top_k: int = 0,
    ) -> None:
        expected = {
            "label_B": (label_B, (B, model.context_token, model.context_dim)),
            "context_position_ids": (context_position_ids, (B, model.context_token)),
            "context_mask": (context_mask, (B, model.context_token)),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is None or tuple(tensor.shape) != shape:
                found = None if tensor is None else tuple(tensor.shape)
                raise ValueError(f"{name} must have the shape {shape}, got {found}")
        chunks = integer("num_maskgit_iters", num_maskgit_iters, 0)
        check_chunks(chunks, model.patch_nums)
        self.tensors: Any = (label_B, context_position_ids, context_mask)
        self.options: dict[str, Any] = {
            "in_chunks": True,
            "residual_diffusion": final_stage == 0,
            "num_maskgit_iters": chunks,
        }

    def embed(self, model: HARTForT2I, random: UpstreamRandom | PerImageRandom) -> Embedded:
        """Double the batch for guidance: zero features, zero positions, mask 1, 0, 0, ..."""
        features, position_ids, mask = (tensor.to(model.device) for tensor in self.tensors)
        empty_mask = torch.zeros_like(mask)
        empty_mask[:, 0] = 1
        return (
            model.embed_context(torch.cat((features, torch.zeros_like(features)))),
            torch.cat((position_ids, torch.zeros_like(position_ids))),
            torch.cat((mask, empty_mask)),
        )


class ClassCondition:
    """Classes. All stages are alike, and the caller says how many candidates are kept.

    Args:
        model: the transformer.
        B: number of images.
        label_B: class indices (B,), where ``num_classes`` itself means no class; an integer for
            all images, negative for no class; None draws them.
        top_k: candidates kept at every stage, 0 means all.

    Attributes:
        options: fields of :class:`SamplingOptions`.

    Raises:
        ValueError: classes of the wrong number or range, or a wrong ``top_k``.
    """

    def __init__(self, model: VARForC2I, B: int, label_B: Labels, *, top_k: int = 0) -> None:
        self.labels = None if label_B is None else _checked_labels(model, B, label_B)
        self.bsz = B
        self.options: dict[str, Any] = {"top_k": integer("top_k", top_k, 0)}

    def embed(self, model: VARForC2I, random: UpstreamRandom | PerImageRandom) -> Embedded:
        """Double the batch for guidance: the classes, then no class."""
        labels = self.labels
        if labels is None:
            labels = random.classes(self.bsz, model.num_classes, model.device)
        none = torch.full_like(labels, model.num_classes)
        return model.class_emb(torch.cat((labels, none))), None, None


def _checked_labels(model: VARForC2I, B: int, label_B: Labels) -> torch.Tensor:
    """(B,) int64 on the model's device."""
    label_B = plain(label_B)
    if isinstance(label_B, int) and not isinstance(label_B, bool):
        label_B = [model.num_classes if label_B < 0 else label_B] * B
    if not isinstance(label_B, torch.Tensor):
        label_B = [integer(f"label_B[{i}]", v) for i, v in enumerate(plain_list(label_B))]
        label_B = torch.as_tensor(label_B, device="cpu")
    labels = label_B
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != (B,):
        raise ValueError(
            f"label_B must hold {B} integers, got {tuple(labels.shape)} of {labels.dtype}"
        )
    wrong = labels[(labels < 0) | (labels > model.num_classes)]
    if wrong.numel():
        raise ValueError(
            f"label_B must be within 0 .. {model.num_classes} ({model.num_classes}: no class), "
            f"got {int(wrong[0])}"
        )
    return labels.long().to(model.device)
