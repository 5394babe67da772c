"""Copies of modules in another format, which leave the module that they are made of alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Part = TypeVar("Part", bound=nn.Module)
Convert = Callable[[Tensor], Tensor]
"""A tensor to a converted one, or to itself where there is nothing to do."""


def converted_copy(module: Part, convert: Convert) -> Part:
    """A copy of ``module`` whose tensors are converted ones of its own.

    No tensor exists in the old format a second time. The copy holds ordinary tensors, also if it
    is made in inference mode.
    """
    with torch.inference_mode(False), torch.no_grad():
        memo: dict[int, object] = {}
        for tensor in (*module.parameters(), *module.buffers()):
            new = convert(tensor)
            if new is tensor or new.is_inference():
                new = new.detach().clone()
            if isinstance(tensor, nn.Parameter):
                new = nn.Parameter(new, requires_grad=tensor.requires_grad)
            memo[id(tensor)] = new
        return copy.deepcopy(module, memo)


@torch.no_grad()
def changes(module: nn.Module, convert: Convert) -> bool:
    """Whether ``convert`` gives another tensor for any tensor of ``module``."""
    return any(convert(t) is not t for t in (*module.parameters(), *module.buffers()))
