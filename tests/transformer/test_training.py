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


def train_once(model) -> dict[str, torch.Tensor]:
    """Gradients of one teacher-forced pass, by parameter."""
    inputs, last = teacher_forced(model), model.last_level_pns
    model.zero_grad()
    np.random.seed(0)
    torch.manual_seed(1)
    model.rng.manual_seed(2)
    logits, loss, _ = model.train()(
        **inputs,
        last_layer_gt=torch.zeros(2, last, model.Cvae),
        last_layer_gt_discrete=torch.zeros(2, last, dtype=torch.long),
    )
    (logits.square().mean() + loss).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:.*deprecated and will be removed:FutureWarning")
@pytest.mark.parametrize(
    "options", [{}, {"gradient_checkpointing_kwargs": {"use_reentrant": True}}]
)
def test_gradient_checkpointing_computes_blocks_again_and_changes_no_gradient(options):
    model = tiny_model(HARTForT2I, cond_drop_rate=-100.0)
    expected = train_once(model)
    calls = []
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda module, args: calls.append(module))

    model.gradient_checkpointing_enable(**options)
    assert model.is_gradient_checkpointing
    torch.testing.assert_close(train_once(model), expected)
    assert len(calls) == 2 * model.depth

    calls.clear()
    model.gradient_checkpointing_disable()
    train_once(model)
    assert len(calls) == model.depth
    assert not model.is_gradient_checkpointing


def test_gradient_checkpointing_can_leave_layers_out():
    model = tiny_model(HARTForT2I, cond_drop_rate=-100.0)
    calls = []
    for layer, block in enumerate(model.blocks):
        block.attn.register_forward_pre_hook(lambda *_, layer=layer: calls.append(layer))
    model._set_gradient_checkpointing(every_n_layers=2)
    train_once(model)
    assert sorted(calls) == [0, 0, 1, 2, 2]


@pytest.mark.filterwarnings("ignore:.*deprecated and will be removed:FutureWarning")
def test_gradients_reach_an_adapter_in_a_frozen_model():
    model = tiny_model(HARTForT2I, cond_drop_rate=-100.0).requires_grad_(False)
    weight = model.blocks[0].ffn.down_proj.weight.requires_grad_()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    train_once(model)
    assert weight.grad.abs().sum() > 0
