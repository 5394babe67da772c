"""Modules that somebody has wrapped, adapted, hooked, quantised or offloaded.

What is put in a module's place is called. Reading a module's weights, or running the steps of its
``forward`` in another order, is only for modules that are nothing but themselves, see
:func:`is_bare`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import FunctionType

import torch
from torch import nn
from torch.nn.modules import module as torch_module

_COMPUTED_IN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_AUTHORS = ("hart", "torch")
"""Whose functions are the classes' own; the first part of the name of a function's module."""


def is_bare(module: nn.Module, *classes: type[nn.Module]) -> bool:
    """Whether calling ``module`` does what one of ``classes`` says, and nothing else.

    Its type is exactly one of them, nobody has replaced a method of the object or of the class,
    there are no hooks, neither its own nor for all modules, and its parameters are plain ones that
    hold values. Under a tracing compiler nothing is bare: the compiler shall see the call.
    """
    return not torch.compiler.is_compiling() and _are_bare((module,), classes)


def is_bare_tree(module: nn.Module, *classes: type[nn.Module]) -> bool:
    """:func:`is_bare` for a module and everything in it."""
    return not torch.compiler.is_compiling() and _are_bare(tuple(module.modules()), classes)


def _are_bare(modules: tuple[nn.Module, ...], classes: tuple[type[nn.Module], ...]) -> bool:
    kinds = {type(module) for module in modules}
    return (
        kinds.issubset(classes)
        and not _all_are_hooked()
        and all(map(_is_unpatched, kinds))
        and all(map(_is_untouched, modules))
    )


def _all_are_hooked() -> bool:
    """Whether there are hooks for all modules; torch's own counters and trackers only look on."""
    hooks = (
        hook
        for registered in (
            torch_module._global_forward_hooks,
            torch_module._global_forward_pre_hooks,
            torch_module._global_backward_hooks,
            torch_module._global_backward_pre_hooks,
        )
        for hook in registered.values()
    )
    return not all(_is_own(getattr(hook, "__func__", hook)) for hook in hooks)


def _is_unpatched(kind: type[nn.Module]) -> bool:
    """Whether a class's methods, looked at anew each time, are its authors'."""
    bases = kind.__mro__[: kind.__mro__.index(nn.Module)]
    own = (value for base in bases for value in vars(base).values() if _is_method(value))
    return all(map(_is_own, (*own, nn.Module.__call__)))


def _is_untouched(module: nn.Module) -> bool:
    """Whether the object, other than its class, is as it was made."""
    kind: type = type(module)
    hooked = (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
    return (
        not hooked
        and module._compiled_call_impl is None
        and _method_names(kind).isdisjoint(vars(module))
        and all(p is None or is_plain(p) for p in module._parameters.values())
    )


def has_own_methods(thing: object, *names: str) -> bool:
    """Whether an object's methods of these names are the library's, not replaced or overridden."""
    methods = (getattr(type(thing), name, None) for name in names)
    return vars(thing).keys().isdisjoint(names) and all(map(_is_own, methods))


@functools.cache
def _method_names(kind: type) -> frozenset[str]:
    return frozenset(name for name in dir(kind) if callable(getattr(kind, name, None)))


def _is_method(value: object) -> bool:
    return callable(value) and not isinstance(value, (type, staticmethod, classmethod))


def _is_own(function: Callable | None) -> bool:
    """Whether a function, and what it wraps, was written by the authors of the classes."""
    if not isinstance(function, FunctionType):
        return False
    author = function.__globals__["__name__"].partition(".")[0]
    wrapped = getattr(function, "__wrapped__", None)
    return author in _AUTHORS and (wrapped is None or _is_own(wrapped))


def is_plain(weight: object) -> bool:
    """Whether it is an ordinary parameter: not quantised, distributed or offloaded."""
    return type(weight) is nn.Parameter and weight.dtype in _COMPUTED_IN and not weight.is_meta


def input_dtype(layer: nn.Module, owner: nn.Module) -> torch.dtype:
    """The dtype that ``layer`` computes in: its weight's, else that of its owner's first weight.

    A layer in another's place may have no weight, or one in a dtype that nothing is computed in.
    """
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.dtype in _COMPUTED_IN:
        return weight.dtype
    dtypes = (parameter.dtype for parameter in owner.parameters())
    return next((dtype for dtype in dtypes if dtype in _COMPUTED_IN), torch.float32)


def compute_device(module: nn.Module) -> torch.device:
    """Where a module computes, which is not where its weights lie once ``accelerate`` offloads it.

    What its offload says about the whole module, else where its first tensor lies that is
    somewhere, else what its offload says about a part.
    """
    device = _execution_device(module)
    if device is not None:
        return device
    for tensors in (module.parameters(), module.buffers()):
        for tensor in tensors:
            if not tensor.is_meta:
                return tensor.device
    devices = map(_execution_device, module.modules())
    return next((device for device in devices if device is not None), torch.device("meta"))


def _execution_device(module: nn.Module) -> torch.device | None:
    hook = vars(module).get("_hf_hook")
    for part in getattr(hook, "hooks", (hook,)):
        device = getattr(part, "execution_device", None)
        if device is not None:
            return torch.device(device)
    return None


@contextlib.contextmanager
def at_hand(module: nn.Module) -> Iterator[None]:
    """Inside, the module's own parameters hold values though ``accelerate`` has offloaded them.

    Its hook does so around ``forward``; this is for methods beside it.
    """
    hook = getattr(module, "__dict__", {}).get("_hf_hook")
    if hook is None:
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)
