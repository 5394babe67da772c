"""The training pass beyond what the golden cases cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from tests.tiny_models import text, tiny_model


@pytest.fixture(scope="module")
def model():
    sides = (1, 2, 3, 4, 5, 7)
    return tiny_model(HARTForT2I, patch_nums=sides, cond_drop_rate=-100.0)


def teacher_forced(model, bsz: int = 2) -> dict[str, torch.Tensor]:
    arguments = text(model, bsz)
    torch.manual_seed(0)
    return {
        "context": arguments["label_B"],
        "x_BLCv_wo_first_l": torch.randn(bsz, model.L - 1, model.Cvae),
        "context_position_ids": arguments["context_position_ids"],
        "context_mask": arguments["context_mask"],
    }


@pytest.mark.parametrize("num_stages", [1, 3, 5])
def test_early_logits_are_those_of_the_whole_pass(model, num_stages):
    inputs = teacher_forced(model)
    np.random.seed(0)
    last = model.last_level_pns
    with torch.no_grad():
        whole, _, _ = model(
            **inputs,
            last_layer_gt=torch.zeros(2, last, model.Cvae),
            last_layer_gt_discrete=torch.zeros(2, last, dtype=torch.long),
        )
        early = model.early_logits(**inputs, num_stages=num_stages)
    count = sum(side**2 for side in model.patch_nums[:num_stages])
    assert early.shape[1] == count
    torch.testing.assert_close(early, whole[:, :count], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_stages", [0, 6])
def test_early_logits_refuse_stages_that_are_not_early(model, num_stages):
    with pytest.raises(ValueError, match="num_stages must be from 1 to 5"):
        model.early_logits(**teacher_forced(model), num_stages=num_stages)
