"""Nearest-neighbour lookup in a codebook."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def nearest_code(
    rows_NC: torch.Tensor, codes_VC: torch.Tensor, using_znorm: bool = False
) -> torch.Tensor:
    """Index of the nearest code for each row: (N, C), (V, C) -> (N,) int64, without gradient.

    Nearest by Euclidean distance, with ``using_znorm`` by cosine similarity, in float32. The
    squared distance is evaluated as |x|^2 + |e|^2 - 2 x.e, because its rounding decides ties.
    """
    x, codes = rows_NC.detach().float(), codes_VC.detach().float()
    if using_znorm:
        return (F.normalize(x, dim=-1) @ F.normalize(codes, dim=-1).T).argmax(dim=1)
    lengths = x.square().sum(dim=1, keepdim=True) + codes.square().sum(dim=1)
    return torch.addmm(lengths, x, codes.T, alpha=-2).argmin(dim=1)
