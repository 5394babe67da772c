"""Writing a pipeline as a checkpoint that draws the same pictures when it is loaded again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hart.modules.models.autoencoder.vqvae import vqvae_config
from hart.modules.models.transformer.checkpoint import EMA_FILE
from hart.modules.models.transformer.var_checkpoint import SUFFIX, TRAINING_PATTERN, var_config
from hart.modules.networks.caching.similarity_io import similarity_file_of
from hart.pipeline.folders import SYSTEM_PROMPT_FILE, PathLike
from hart.utils.files import replacing, write_json
from hart.utils.weights import CheckpointError, check_fit

if TYPE_CHECKING:
    from hart.pipeline.base import Pipeline

MODEL_INDEX = "model_index.json"
"""By which ``diffusers`` knows the folder of a pipeline, see ``integrations/diffusers``."""

# What the weights of VAR's files tell about a transformer and an autoencoder, and what they do not.
_TOLD = (
    *("num_classes", "depth", "embed_dim", "num_heads", "mlp_ratio", "norm_eps", "shared_aln"),
    *("attn_l2_norm", "patch_nums", "vocab_size", "z_channels"),
)
_TOLD_OF_AUTOENCODER = (
    *("vocab_size", "z_channels", "ch", "ch_mult", "quant_conv_ks", "quant_resi"),
    *("share_quant_resi", "using_znorm", "quantizer_type", "double_decoder"),
)


def save_hart(pipeline: Pipeline, folder: PathLike) -> None:
    """See :meth:`HARTPipeline.save_pretrained`."""
    folder = Path(folder)
    for part in (pipeline.text_model, pipeline.text_tokenizer):
        if not hasattr(part, "save_pretrained"):
            raise TypeError(f"a {type(part).__name__} cannot be saved: it has no save_pretrained")
    if (folder / "llm" / EMA_FILE).exists():
        raise ValueError(
            f"{folder / 'llm' / EMA_FILE} would be read in the place of what is saved; "
            "remove it or choose another folder"
        )
    model = pipeline.transformer
    vae = model.vae_proxy[0]
    for part in (model, vae, pipeline.text_model):
        _check_at_hand(part)
    for part in (model, vae):
        _check_whole(part)
    use_cache = model.config.use_cache if model.use_cache else False
    with _as_saved(model, use_cache=use_cache, vae_path=None):
        model.save_pretrained(folder / "llm")
    similarity_file_of(folder).unlink(missing_ok=True)  # the table is in llm now
    vae.save_pretrained(folder / "tokenizer")
    pipeline.text_model.save_pretrained(folder / "text_model")
    pipeline.text_tokenizer.save_pretrained(folder / "text_model")
    with replacing(folder / "llm" / SYSTEM_PROMPT_FILE) as beside:
        beside.write_bytes(pipeline.system_prompt.encode("utf-8"))
    write_json(folder / MODEL_INDEX, {"_class_name": "HARTPipeline"})


def _check_at_hand(part: torch.nn.Module) -> None:
    if any(tensor.is_meta for tensor in part.parameters()):
        raise ValueError(
            f"the {type(part).__name__} is offloaded; call accelerate's "
            "hooks.remove_hook_from_submodules on it first"
        )


def _check_whole(part: torch.nn.Module) -> None:
    """Refuse what loading would refuse: adapters and other parts that the class does not have."""
    with torch.device("meta"):
        own = type(part)(part.config)
    try:
        check_fit(own, part.state_dict(), source="what would be saved")
    except CheckpointError as error:
        raise ValueError(f"{error}; merge adapters and unwrap compiled parts first") from None


@contextmanager
def _as_saved(model: torch.nn.Module, **fields: Any) -> Iterator[None]:
    """Fields of the configuration as they are written, for a moment."""
    before = {name: getattr(model.config, name) for name in fields}
    try:
        for name, value in fields.items():
            setattr(model.config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(model.config, name, value)


def save_var(pipeline: Pipeline, folder: PathLike) -> None:
    """See :meth:`VARPipeline.save_pretrained`."""
    folder, model = Path(folder), pipeline.transformer
    vae = model.vae_proxy[0]
    transformer = folder / _transformer_name(pipeline)
    sizes = f"ch{vae.config.ch}v{vae.config.vocab_size}z{vae.config.z_channels}"
    autoencoder = folder / f"vae_{sizes}{SUFFIX}"
    state, vae_state = model.state_dict(), vae.state_dict()
    for part in (model, vae):
        _check_at_hand(part)
        _check_whole(part)
    _check_told(model.config, var_config(state), _TOLD)
    _check_told(vae.config, vqvae_config(vae_state, model.patch_nums), _TOLD_OF_AUTOENCODER)
    others = {file.name for file in folder.glob(f"*{SUFFIX}")}
    others -= {transformer.name, autoencoder.name}
    if others:
        raise ValueError(
            f"{folder}: holds another model's {sorted(others)[0]}; choose a new folder"
        )
    for file, tensors in ((transformer, state), (autoencoder, vae_state)):
        with replacing(file) as beside:
            torch.save({key: tensor.cpu() for key, tensor in tensors.items()}, beside)
    model.save_own_similarity(similarity_file_of(transformer))


def _transformer_name(pipeline: Pipeline) -> str:
    source = pipeline.folders
    if source is not None and not source.transformer.match(TRAINING_PATTERN):
        return source.transformer.name
    return f"var_d{pipeline.transformer.depth}{SUFFIX}"


def _check_told(config: Any, told: Any, names: tuple[str, ...]) -> None:
    """Refuse what would be something else when the weights are read again."""
    for name in names:
        value, read = getattr(config, name), getattr(told, name)
        if value != read:
            raise ValueError(
                f"{name} is {value!r}, but VAR's files hold weights alone, which say {read!r}; "
                "save the model itself with model.save_pretrained"
            )
