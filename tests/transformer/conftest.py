"""A tiny model, and what its modules compute."""

from __future__ import annotations

import pytest

from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.attention import LlamaAttention, SelfAttention
from hart.modules.networks.basic_hart import FFN, LlamaMLP
from tests.tiny_models import tiny_model

MODULES = {"attn": (LlamaAttention, SelfAttention), "mlp": (LlamaMLP, FFN)}


@pytest.fixture
def model():
    return tiny_model(HARTForT2IEnhanced)


@pytest.fixture
def computed(monkeypatch):
    """Tokens per module call, per site."""
    calls = {"attn": [], "mlp": []}
    for site, modules in MODULES.items():
        for module in modules:
            original = module.forward

            def counting(self, x, *args, _original=original, _site=site, **kwargs):
                calls[_site].append(x.shape[1])
                return _original(self, x, *args, **kwargs)

            monkeypatch.setattr(module, "forward", counting)
    return calls
