"""Adapting the demo's decoder: the first stages are the true ones, and only the decoder changes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hart.demo import DEMO_CHECKPOINT
from hart.demo.data import render_batch
from hart.demo.token_data import Supply
from hart.demo.train_autoencoder import encode
from hart.demo.train_decoder import TrueFirstStages, adapt_decoder, picture_maps
from hart.pipeline import HARTPipeline


@pytest.fixture(scope="module")
def pipeline():
    return HARTPipeline.from_pretrained(DEMO_CHECKPOINT, device="cpu", dtype="float32")


@torch.no_grad()
def test_true_tokens_of_all_stages_give_the_true_discrete_map(pipeline):
    model, vae = pipeline.model, pipeline.model.vae_proxy[0]
    batch = render_batch(5, 2)
    f = encode(vae, batch.images)
    *ids, rest = vae.quantize.f_to_idxBl_and_frest(f)
    residual = rest - vae.quantize.embedding(ids[-1])
    discrete = f - residual.transpose(1, 2).reshape(f.shape)
    size = (2, model.context_token)
    drawn = model.generate_feature_map(
        2,
        torch.zeros(*size, model.context_dim),
        context_position_ids=torch.zeros(size, dtype=torch.long),
        context_mask=torch.ones(size, dtype=torch.long),
        more_smooth=True,
        final_stage=1,  # no residual
        generator=torch.Generator().manual_seed(0),
        steps=TrueFirstStages(model, ids, len(ids)),
    )
    torch.testing.assert_close(drawn, discrete, atol=1e-4, rtol=1e-4)


def test_maps_are_drawn_once_and_belong_to_their_pictures(pipeline, tmp_path, monkeypatch):
    supply = Supply(seed=3, chunk=3, chunks=1)
    monkeypatch.setattr("hart.demo.train_decoder.TRUE_STAGES", (8,))
    maps = picture_maps(
        pipeline.model, pipeline.text_model, pipeline.text_tokenizer, tmp_path, supply, 0, "cpu"
    )
    assert maps.pictures.shape == (3, 3, 128, 128)
    distance = torch.cdist(maps.drawn.float().flatten(1), maps.continuous.float().flatten(1))
    assert distance.argmin(dim=1).tolist() == [0, 1, 2]
    near = (maps.discrete.float() - maps.continuous.float()).square().mean()
    assert near < (maps.drawn.float() - maps.continuous.float()).square().mean()
    again = picture_maps(None, None, None, tmp_path, supply, 0, "cpu")  # only reads
    assert again.drawn.equal(maps.drawn)


@pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="training needs torch.optim.Muon (torch 2.9)"
)
def test_only_the_decoder_changes(tmp_path):
    pipeline = HARTPipeline.from_pretrained(DEMO_CHECKPOINT, device="cpu", dtype="float32")
    vae = pipeline.model.vae_proxy[0]
    parts = SimpleNamespace(
        decoder=vae.decoder, encoder=vae.encoder, quantizer=vae.quantize, blocks=pipeline.model
    )
    before = {
        name: torch.cat([p.detach().flatten() for p in part.parameters()])
        for name, part in vars(parts).items()
    }
    report = adapt_decoder(
        pipeline.model,
        pipeline.text_model,
        pipeline.text_tokenizer,
        tmp_path,
        scale=0.001,
        quiet=True,
    )
    assert report.steps == 2
    assert np.isfinite(report.losses["l1"])
    changed = {
        name: not before[name].equal(torch.cat([p.detach().flatten() for p in part.parameters()]))
        for name, part in vars(parts).items()
    }
    assert changed == {"decoder": True, "encoder": False, "quantizer": False, "blocks": False}
    assert not any(p.requires_grad for p in vae.parameters())
