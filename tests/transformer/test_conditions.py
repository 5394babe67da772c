"""HART and VAR are called with the public implementations' arguments, in their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from tests.tiny_models import text, tiny_model
from tests.var.test_var_model import tiny_var


def test_positional_arguments_are_in_the_public_order():
    model = tiny_model(HARTForT2I)
    inputs = text(model, 2)
    given = (inputs["label_B"], 3, 2.0, 0, 0.9, True)
    given += (inputs["context_position_ids"], inputs["context_mask"], 1, 2)
    named = {"cfg": 2.0, "top_p": 0.9, "more_smooth": True, "final_stage": 1}
    named |= {"num_maskgit_iters": 2, "g_seed": 3, "top_k": 7}  # HART ignores top_k
    np.random.seed(0)  # of the last stage's order
    images = model.autoregressive_infer_cfg(2, *given)
    np.random.seed(0)
    assert images.equal(model.autoregressive_infer_cfg(2, **inputs, **named))


def test_what_a_model_does_not_draw_from_is_refused():
    hart, var = tiny_model(HARTForT2I), tiny_var()
    with pytest.raises(TypeError, match="unexpected keyword argument 'classes'"):
        hart.generate_feature_map(1, **text(hart), classes=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_maskgit_iters'"):
        var.autoregressive_infer_cfg(1, [2], num_maskgit_iters=2)
    with pytest.raises(TypeError, match="positional arguments"):
        var.generate_feature_map(1, [2], 3, 1.5, torch.ones(1, 6))
    with pytest.raises(ValueError, match="context_mask must have the shape"):
        hart.generate_feature_map(1, text(hart)["label_B"], 3, 1.5, torch.ones(1, 6))
