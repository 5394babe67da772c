"""Models inside wrappers: compiled ones, adapters, users' own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hart.modules.models.transformer.stage_transformer import StageTransformer

_HOLDERS = ("module", "_orig_mod", "model", "base_model")
"""Where wrappers that forward no attributes hold what they wrap."""
_STATE = (
    "cache_config",
    "cache_similarity_attn",
    "cache_similarity_mlp",
    "calibration",
    "collect_cache_statistics",
    "similarity",
    "use_cache",
)
"""What is set on a model; on a wrapper it would do nothing."""


def innermost(model: Any) -> StageTransformer:
    """The HART or VAR transformer inside wrappers, the model itself without any.

    A wrapper forwards the model's attributes, or holds what it wraps as ``module``.

    Raises:
        TypeError: there is no such model inside.
        AttributeError: an attribute that belongs on the model was set on a wrapper.
    """
    wrapper: Any = model
    seen: list[Any] = []
    while wrapper is not None and not any(wrapper is one for one in seen):
        inner = getattr(wrapper, "innermost", None)
        if inner is wrapper:
            return inner
        _refuse_state(wrapper)
        seen.append(wrapper)
        held = [getattr(wrapper, name, None) for name in _HOLDERS]
        if inner is not None:
            held = [one for one in held if getattr(one, "innermost", None) is inner]
        wrapper = next((one for one in held if one is not None), inner)
    raise TypeError(
        f"a {type(model).__name__} is no HART or VAR transformer, nor a wrapper around one: that "
        "forwards the attributes of the transformer or holds it as .module"
    )


def _refuse_state(wrapper: Any) -> None:
    for name in _STATE:
        if name in getattr(wrapper, "__dict__", {}):
            raise AttributeError(
                f"{name} was set on a {type(wrapper).__name__} around the model and does not reach "
                "it; set it on the model inside (pipeline.transformer)"
            )
