"""Small models of every family, and what drawing with them gives."""

from __future__ import annotations

from typing import NamedTuple

import torch

from hart.engine import Engine, EngineDecoder
from hart.modules.models.transformer.configuration_var import VARForC2IConfig
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.models.transformer.var_transformer_c2i_enhanced import VARForC2IEnhanced
from hart.modules.models.transformer.wrappers import innermost
from tests.copies import copied
from tests.engine.comparison import MAP_TOLERANCE
from tests.tiny_models import fill, generators, text, tiny_model, tiny_vae

SIDES = (1, 2, 3, 4)
HART = {
    "hart-llama": {},
    "hart-gpt2-adaln": {"attn_type": "gpt2", "mlp_type": "gpt2", "disable_aln": False},
    "hart-shared-aln": {"shared_aln": True},
}
VAR = {"var": False, "var-shared-aln": True}
FAMILIES = (*HART, *VAR)


@copied
def build(family: str):
    """A model with a lively diffusion head whose modules in the last two stages are reused."""
    if family in HART:
        options = {"depth": 2, "patch_nums": SIDES, "num_sampling_steps": "4", **HART[family]}
        model = tiny_model(HARTForT2IEnhanced, **options)
        model.init_weights(init_std=0.15, init_head=1.0, init_adaln_gamma=0.5)
    else:
        torch.manual_seed(3)
        config = VARForC2IConfig(
            num_classes=5,
            depth=2,
            embed_dim=32,
            num_heads=2,
            patch_nums=SIDES,
            shared_aln=VAR[family],
            vocab_size=24,
            z_channels=4,
        )
        model = VARForC2IEnhanced(config).eval()
        model.init_weights(init_adaln_gamma=0.5, init_head=1.0, init_std=0.15)
        model.attach_autoencoder(tiny_vae(SIDES))
    torch.manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2 and not parameter.any():
                parameter.normal_(std=0.2)
    model.requires_grad_(False)
    fill(model, 0.95)
    model.set_cache_config("original")
    return model


def put(model: torch.nn.Module, path: str, part: torch.nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, part)


class Drawn(NamedTuple):
    """Feature maps (B, Z, P, P), images (B, 3, H, W), and the module calls of the last draw."""

    maps: torch.Tensor
    images: torch.Tensor
    calls: dict


def arguments(model, bsz: int, **options) -> dict:
    """Of ``generate_feature_map``, beside the batch size."""
    if hasattr(model, "num_classes"):
        condition = {"label_B": [i % model.num_classes for i in range(bsz)]}
    else:
        condition = text(model, bsz)
    fixed = {"cfg": 3.0, "more_smooth": True, "generator": generators(bsz, seed=1)}
    return {**condition, **fixed, **options}


def draw(model, engine: bool, bsz: int = 2, **options) -> Drawn:
    """Draw with a model or a wrapper around one."""
    inside = innermost(model)
    inside.reset_cache_statistics()
    target = model if hasattr(model, "generate_feature_map") else inside
    steps = Engine(model) if engine else None
    f_hat = target.generate_feature_map(bsz, steps=steps, **arguments(inside, bsz, **options))
    images = EngineDecoder().decode(inside, f_hat) if engine else target.decode_feature_map(f_hat)
    return Drawn(f_hat, images, inside.cache_statistics.calls())


def reused(drawn: Drawn) -> int:
    return sum(site["reused"] for stage in drawn.calls.values() for site in stage.values())


def assert_same(one: Drawn, other: Drawn) -> None:
    """The same reuse, and the same maps and images up to rounding."""
    assert one.calls == other.calls
    assert (one.maps - other.maps).abs().max() < MAP_TOLERANCE
    assert (one.images - other.images).abs().max() < MAP_TOLERANCE


def assert_changed(one: Drawn, other: Drawn) -> None:
    """The same reuse, but other maps or other images."""
    assert one.calls == other.calls
    difference = max((one.maps - other.maps).abs().max(), (one.images - other.images).abs().max())
    assert difference > 10 * MAP_TOLERANCE
