"""Our re-creation of the habits of HART's repository, as a baseline for speed and memory.

It is the plain model of this library, numerically equal to the public implementation, with what
that one does around the same arithmetic: keys and values grow by concatenation, rotary tables are
built anew in every layer (both are the plain path's own way), the token head looks at every text
position, the quadratic training mask is resident, a second float32 copy of the weights (the
averaged one) is too, half precision is autocast over float32 weights where it is fast, and the
decoder works in torch's default layout. Beside a float32 model nothing is autocast, so that both
multiply in float32. It is not HART's code, whose fused kernels need a build.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.pipeline import HARTPipeline
from hart.utils.device import computes_fast_in_half


class AsPublished(HARTForT2IEnhanced):
    """The plain path, with the token head on every text position."""

    def run_blocks(self, x, run, si, m_maskgit=None):
        hidden = super().run_blocks(x, run, si, m_maskgit)
        if si == 0:
            self.get_logits(hidden, run.cond)  # all but the last are thrown away
        return hidden


def as_published(pipeline: HARTPipeline) -> HARTPipeline:
    """A pipeline on the weights of another one, which are shared and not copied."""
    with torch.device("meta"):
        model = AsPublished(pipeline.model.config)
    model.load_state_dict(pipeline.model.state_dict(), assign=True)
    model.attach_autoencoder(pipeline.model.vae_proxy[0])
    model.set_cache_config("no-cache")
    twin = HARTPipeline(model.eval(), pipeline.text_model, pipeline.text_tokenizer, "")
    twin.use_engine = False
    return twin


@contextlib.contextmanager
def published_habits(pipeline: HARTPipeline) -> Iterator[None]:
    """While inside: what is resident beside the weights, and autocast."""
    model, device = pipeline.model, pipeline.device
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    in_half = pipeline.dtype is not torch.float32 and computes_fast_in_half(device.type)
    before = [(p, p.data) for p in model.parameters()]
    # Two copies of the weights in float32, as after loading averaged ones; together with the shared
    # weights, which stay. All are written, so that the operating system really hands memory out.
    resident = [p.data.clone() for p in model.parameters()]
    for p in model.parameters():
        p.data = p.data.float()
    resident.append(model.attn_bias_for_masking)
    try:
        with torch.autocast(device.type, dtype=half, enabled=in_half):
            yield
    finally:
        for p, data in before:
            p.data = data
        resident.clear()
