"""Loading a transformer checkpoint, and the autoencoder that belongs to it.

Layout: ``<root>/llm`` holds the transformer (``config.json`` and weights, or ``ema_model.bin``),
``<root>/tokenizer`` the image autoencoder.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from hart.modules.models.autoencoder.configuration import AUTOENCODER_FIELDS
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.utils.converted import changes, converted_copy
from hart.utils.fields import CONFIG_FILE, check_fields
from hart.utils.hub import local_path, take_hub_options
from hart.utils.json_files import read_json_object
from hart.utils.model_sizes import build_on_meta
from hart.utils.names import SHORT_DTYPES
from hart.utils.weights import (
    WEIGHT_FILE_NAMES,
    CheckpointError,
    check_fit,
    check_one_dtype,
    load_into,
    read_headers,
    read_state_dict,
)

EMA_FILE = "ema_model.bin"
DEFAULT_VOCAB_SIZE, DEFAULT_Z_CHANNELS = 4096, 32

# In published checkpoints but used only in training: 363 MiB for the 1024-pixel model.
TRAINING_ONLY_KEY = "attn_bias_for_masking"

# Keywords of `transformers` that need no action when a local folder is loaded.
_IGNORED_KEYWORDS = frozenset(
    {
        "_from_auto",
        "_from_pipeline",
        "adapter_kwargs",
        "low_cpu_mem_usage",
        "trust_remote_code",
        "use_safetensors",
    }
)


def resolve_autoencoder_folder(config: PretrainedConfig) -> Path | None:
    """``config.vae_path``, else the folder ``tokenizer`` beside the one the config came from."""
    if config.vae_path is not None:
        return Path(config.vae_path)
    if not config.name_or_path:
        return None
    return Path(config.name_or_path).absolute().parent / "tokenizer"


def resolve_autoencoder_sizes(config: PretrainedConfig) -> None:
    """Fill in ``vocab_size`` and ``z_channels`` where the config leaves them open.

    Only the autoencoder's ``config.json`` is read; without one the published sizes are assumed.
    """
    if config.vocab_size is not None and config.z_channels is not None:
        return
    folder = resolve_autoencoder_folder(config)
    found = {}
    if folder and (file := folder / CONFIG_FILE).is_file():
        found = read_json_object(file)
        check_fields(file, found, AUTOENCODER_FIELDS)
    if config.vocab_size is None:
        config.vocab_size = found.get("vocab_size", DEFAULT_VOCAB_SIZE)
    if config.z_channels is None:
        config.z_channels = found.get("z_channels", DEFAULT_Z_CHANNELS)


def check_model_type(folder: Path, allowed: tuple[str, ...]) -> dict:
    """The folder's ``config.json``, refused unless its ``model_type`` is one of ``allowed``.

    Raises:
        CheckpointError: no such folder or file, or a config of another model.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder}: no config.json in this folder")
    config = read_json_object(file)
    found = config.get("model_type")
    if found not in allowed:
        raise CheckpointError(
            f"{file}: model_type is {found!r}, expected {' or '.join(map(repr, allowed))}"
        )
    return config


def override_fields(config: PretrainedConfig, fields: Mapping[str, Any]) -> None:
    """Set fields of a configuration from the keywords of ``from_pretrained``.

    Raises:
        TypeError: there is no such field.
    """
    for name, value in fields.items():
        if hasattr(config, name):
            setattr(config, name, value)
        elif name not in _IGNORED_KEYWORDS:
            raise TypeError(f"from_pretrained does not take {name!r}")


class WeightSource:
    """Where the weights of a transformer are.

    Args:
        path, inside: as for :func:`hart.utils.weights.read_state_dict`.

    Attributes:
        headers: the state dict on the meta device.
    """

    def __init__(self, path: Path, inside: Sequence[str] = ()) -> None:
        self.path, self.inside = path, inside
        self.headers = read_headers(path, inside=inside)

    def read(
        self, dtype: torch.dtype | None, device: torch.device | str | None
    ) -> dict[str, torch.Tensor]:
        """The state dict, without what is used in training only."""
        return read_state_dict(self.path, None, dtype, device, self.inside, wanted=is_used)


class CheckpointModel(PreTrainedModel):
    """``from_pretrained`` with strict errors, EMA weights, and the attached autoencoder."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args,
        config: PretrainedConfig | str | Path | None = None,
        use_ema: bool = False,
        vae: HARTAutoEncoder | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """Load a checkpoint folder (``llm``), or a model on the Hugging Face hub, fetched first.

        One copy of the weights is made, in ``dtype`` (None or "auto": as stored). Fields of the
        configuration can be overridden by keyword.

        Args:
            config: configuration to use instead of the folder's.
            use_ema: read ``ema_model.bin`` instead of the ordinary weights.
            vae: autoencoder to attach; by default it is found when it is first needed.
            device: where the weights go, CPU by default.
            output_loading_info: also return the dictionary that ``transformers`` would return.
            kwargs: fields of the configuration; ``subfolder``, and how the hub's client fetches,
                see :func:`hart.utils.hub.local_path`.

        Raises:
            CheckpointError: folder or file missing, damaged, of another model, or not fitting
                the configuration; the message names the file and the first difference.
            TypeError: a keyword that is neither.
        """
        path = local_path(pretrained_model_name_or_path, **take_hub_options(kwargs))
        dtype = torch_dtype_of(dtype if dtype is not None else torch_dtype)
        source, config = cls._open(path, config, use_ema)
        override_fields(config, kwargs)
        model = build_on_meta(cls, config, source.headers, source.path, *model_args)
        headers = model._completed(source.headers)
        check_fit(model, headers, source=source.path)
        check_one_dtype(headers, dtype, source.path)
        model._load_checkpoint(source.read(dtype, device), source.path)
        model.eval()
        if vae is not None:
            model.attach_autoencoder(vae)
        if not output_loading_info:
            return model
        kinds = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
        return model, {kind: [] for kind in kinds}  # loading is strict

    @classmethod
    def _open(cls, path: Path, config: Any, use_ema: bool) -> tuple[WeightSource, PretrainedConfig]:
        """The weights of a checkpoint, and a configuration to be changed."""
        check_model_type(path, (cls.config_class.model_type,))
        if isinstance(config, PretrainedConfig):
            config = copy.deepcopy(config)
        else:
            config = cls.config_class.from_pretrained(config or path)
        config.name_or_path = str(path)
        return WeightSource(path / EMA_FILE if use_ema else path), config

    @classmethod
    def holds_weights(cls, path: Path) -> bool:
        """Whether :meth:`from_pretrained` finds a configuration and ordinary weights there."""
        weights = (path / name for name in WEIGHT_FILE_NAMES)
        return (path / CONFIG_FILE).is_file() and any(file.is_file() for file in weights)

    def _completed(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``state`` without what is used in training only, and with every constant."""
        state = {key: tensor for key, tensor in state.items() if is_used(key)}
        device = next(iter(state.values())).device if state else "cpu"
        with torch.device("cpu"):
            state.setdefault("lvl_1L", self._levels().to(device))
        for layer in range(self.depth):
            key = f"blocks.{layer}.attn."
            if key + "q_bias" in state:
                state.setdefault(key + "zero_k_bias", torch.zeros_like(state[key + "q_bias"]))
        return state

    def _load_checkpoint(self, state: dict[str, torch.Tensor], source: Path) -> None:
        state = self._completed(state)
        load_into(self, state, source=source)
        with torch.device("cpu"):
            levels = self._levels()
        if not torch.equal(state["lvl_1L"].cpu().long(), levels):
            raise CheckpointError(
                f"{source}: 'lvl_1L' has other stages than patch_nums {self.patch_nums}"
            )

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        state_dict.pop(prefix + TRAINING_ONLY_KEY, None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # --- the autoencoder: attached, never a submodule ------------------------------------------

    def attach_autoencoder(self, vae: HARTAutoEncoder) -> None:
        """Use this autoencoder.

        It is never changed: ``to``, ``half`` and the like give this model a converted copy of its
        own, and others that use the same autoencoder keep it as it is. A deep copy of this model
        has its own.

        Raises:
            ValueError: its codebook does not have the size the transformer was built for.
        """
        found = (vae.config.vocab_size, vae.config.z_channels)
        if found != (self.V, self.Cvae):
            raise ValueError(
                f"the autoencoder has vocab_size, z_channels = {found}, "
                f"the transformer expects {(self.V, self.Cvae)}"
            )
        self._autoencoder = (vae,)

    @property
    def vae_proxy(self) -> tuple[HARTAutoEncoder]:
        """The autoencoder in a tuple; loaded from its folder when first asked for.

        Raises:
            CheckpointError: none is attached and no folder is known or readable.
        """
        if "_autoencoder" not in self.__dict__:
            folder = resolve_autoencoder_folder(self.config)
            if folder is None:
                raise CheckpointError(
                    "no autoencoder: set config.vae_path or call attach_autoencoder(vae)"
                )
            try:
                with torch.inference_mode(False):  # it outlives a draw that asks for it
                    self.attach_autoencoder(self._load_autoencoder(folder))
            except CheckpointError:
                raise
            except ValueError as error:
                raise CheckpointError(f"{folder}: {error}") from error
        return self._autoencoder

    def _load_autoencoder(self, path: Path) -> HARTAutoEncoder:
        return HARTAutoEncoder.from_tokenizer_folder(path, dtype=self.dtype, device=self.device)

    @property
    def vae_quant_proxy(self) -> tuple[Any]:
        """The autoencoder's quantizer in a tuple."""
        return (self.vae_proxy[0].quantize,)

    def _apply(self, fn, *args, **kwargs):
        super()._apply(fn, *args, **kwargs)
        vae = self.__dict__.get("_autoencoder", (None,))[0]
        if vae is not None and changes(vae, fn):
            self.__dict__["_autoencoder"] = (converted_copy(vae, fn),)
        return self


def is_used(key: str) -> bool:
    return key != TRAINING_ONLY_KEY


def torch_dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or dtype == "auto":
        return None
    if isinstance(dtype, torch.dtype):
        return dtype
    resolved = getattr(torch, SHORT_DTYPES.get(str(dtype), str(dtype)), None)
    if not isinstance(resolved, torch.dtype):
        raise ValueError(f"dtype must be a torch dtype or its name, got {dtype!r}")
    return resolved
