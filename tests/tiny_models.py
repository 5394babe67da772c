"""Small HART models with random weights, built in milliseconds."""

from __future__ import annotations

import torch

from hart.modules.models.autoencoder.configuration import HARTAutoEncoderConfig
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.modules.models.transformer.configuration import HARTForT2IConfig
from hart.modules.networks.caching.similarity import SimilarityTables
from tests.copies import copied

HART_SIDES = (1, 2, 3, 4, 5, 7)
"""The first stages of the published schedule, up to the gap in its table (25 -> 49)."""


def tiny_config(**overrides) -> HARTForT2IConfig:
    """A llama, plain-block configuration; every field can be overridden."""
    fields = {
        "context_token": 6,
        "context_dim": 12,
        "depth": 3,
        "embed_dim": 32,
        "num_heads": 2,
        "patch_nums": HART_SIDES,
        "mlp_type": "llama",
        "attn_type": "llama",
        "disable_aln": True,
        "use_timestep_embed": True,
        "use_context_norm": True,
        "diff_width": 32,
        "diff_depth": 1,
        "vocab_size": 24,
        "z_channels": 4,
    }
    return HARTForT2IConfig(**{**fields, **overrides})


@copied
def tiny_vae(sides=HART_SIDES, seed: int = 7) -> HARTAutoEncoder:
    """16-fold smaller maps, 24 codes of width 4."""
    torch.manual_seed(seed)
    config = HARTAutoEncoderConfig(
        vocab_size=24,
        z_channels=4,
        ch=32,
        ch_mult=(1, 1),
        v_patch_nums=sides,
        quantizer_type="var_hybrid",
    )
    return HARTAutoEncoder(config).eval()


@copied
def tiny_model(model_class, seed: int = 3, **overrides):
    """A model of ``model_class`` in eval mode with an autoencoder attached."""
    torch.manual_seed(seed)
    config = tiny_config(**overrides)
    model = model_class(config).eval()
    model.init_weights(init_std=0.15, init_head=1.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("proj.weight"):
                parameter.mul_(3)
    model.attach_autoencoder(tiny_vae(tuple(config.patch_nums)))
    return model


def text(model, bsz: int = 1, seed: int = 5) -> dict[str, torch.Tensor]:
    """Text arguments of the sampler for ``bsz`` different prompts."""
    generator = torch.Generator().manual_seed(seed)
    length = model.context_token
    mask = torch.arange(length)[None] <= torch.arange(bsz)[:, None] + length // 2
    return {
        "label_B": torch.randn(bsz, length, model.context_dim, generator=generator),
        "context_position_ids": mask.cumsum(1) - 1,
        "context_mask": mask,
    }


def generators(bsz: int, seed: int = 100) -> list[torch.Generator]:
    """One seeded generator per image."""
    return [torch.Generator().manual_seed(seed + i) for i in range(bsz)]


def draw(model, bsz: int = 1, seed: int = 100, **options) -> torch.Tensor:
    """Images (B, 3, H, W) with one generator per image."""
    arguments = {"cfg": 3.0, "more_smooth": True, **text(model, bsz), **options}
    return model.autoregressive_infer_cfg(bsz, generator=generators(bsz, seed), **arguments)


def fill(model, value: float) -> None:
    """Give an enhanced model the same similarity everywhere."""
    rows = [[value] * model.schedule.width for _ in range(model.depth)]
    model.similarity = SimilarityTables(rows, [list(row) for row in rows], images=1)
