"""The sampling loop: stage by stage from the 1x1 map to the feature map of the image.

HART (arXiv 2410.10812): discrete tokens for every stage, drawn with classifier-free guidance; in
the last stage a diffusion head adds the residual that the codebook cannot express.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch

from hart.modules.models.transformer.generation_state import (
    RESIDUAL_PART,
    FeatureMapCallback,
    Generation,
    GenerationSteps,
    SamplingOptions,
    StageCallback,
    check_chunks,
    stage_part,
)
from hart.modules.models.transformer.random_source import resolve_random_source
from hart.modules.models.transformer.turns import exclusive, is_generating
from hart.modules.networks.caching.numbers import integer
from hart.modules.networks.kv_cache import KVCache
from hart.modules.networks.rope import MaskIndex
from hart.modules.networks.utils import filter_top_k_top_p_, gumbel_softmax
from hart.utils.adapted import at_hand
from hart.utils.timing import Timeline

NO_GUIDANCE = 1.0
"""Guidance scale at which the diffusion head samples every row by itself."""


def mask_by_order(mask_len: int, order: torch.Tensor, bsz: int, seq_len: int) -> torch.Tensor:
    """(bsz, seq_len) bool, True at the first ``mask_len`` entries of each row of ``order``."""
    mask = torch.zeros(bsz, seq_len, dtype=torch.bool, device=order.device)
    return mask.scatter_(1, order[:, : int(mask_len)].long(), True)


def default_top_k(si: int) -> int:
    """Candidates kept at stage ``si``; the public sampler fixes them."""
    return 600 if si < 7 else 300


def smoothing_temperature(ratio: float) -> float:
    """Temperature of the Gumbel softmax at ``ratio`` of the way through the stages."""
    return max(0.27 * (1 - 0.95 * ratio), 0.005)


class GenerationMixin:
    """Sampling for :class:`HARTForT2I`."""

    def autoregressive_infer_cfg(
        self,
        B: int,
        label_B: torch.Tensor,
        g_seed: int | None = None,
        cfg: float = 1.5,
        top_k: int = 0,
        top_p: float = 0.0,
        more_smooth: bool = False,
        context_position_ids: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
        final_stage: int = 0,
        num_maskgit_iters: int = 1,
        *,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        callback: StageCallback | None = None,
    ) -> torch.Tensor:
        """Draw images for text features.

        With ``g_seed`` the draws are those of the public implementation: token ids from a
        generator seeded with it, the rest from numpy's and torch's global generators. With
        ``generator`` every draw of an image comes from its own generator.

        Args:
            B: number of images.
            label_B: text features (B, T, E).
            g_seed: seed of the token draws; None draws them from the device's global generator.
            cfg: guidance scale, reached in the last stage but one.
            top_k: ignored, as in the public implementation: 600 candidates in the first seven
                stages, 300 afterwards.
            top_p: nucleus mass, 0 means off.
            more_smooth: soft mixtures instead of single codebook rows.
            context_position_ids: (B, T) int64 positions of the text tokens.
            context_mask: (B, T) nonzero at real text tokens.
            final_stage: 0 adds the residual of the diffusion head, any other value does not.
            num_maskgit_iters: chunks of the last stage, at most its tokens; 0 leaves it out.
            generator: one generator, or one per image.
            callback: called after every stage with its index and the number of stages.

        Returns:
            (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: arguments of the wrong shape or number.
            RuntimeError: another thread is generating on this model.
        """
        f_hat = self.generate_feature_map(
            B,
            label_B,
            g_seed,
            cfg,
            top_p=top_p,
            more_smooth=more_smooth,
            context_position_ids=context_position_ids,
            context_mask=context_mask,
            final_stage=final_stage,
            num_maskgit_iters=num_maskgit_iters,
            generator=generator,
            callback=callback,
        )
        return self.decode_feature_map(f_hat)

    @torch.no_grad()
    def generate_feature_map(
        self,
        B: int,
        label_B: torch.Tensor,
        g_seed: int | None = None,
        cfg: float = 1.5,
        *,
        top_p: float = 0.0,
        more_smooth: bool = False,
        context_position_ids: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
        final_stage: int = 0,
        num_maskgit_iters: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        callback: StageCallback | None = None,
        timeline: Timeline | None = None,
        steps: GenerationSteps | None = None,
        on_feature_map: FeatureMapCallback | None = None,
        wait: bool = False,
    ) -> torch.Tensor:
        """The part of :meth:`autoregressive_infer_cfg` before decoding: (B, Z, P, P).

        Args:
            wait: while another thread generates on this model, wait instead of raising.
            steps: executes the expensive steps in the model's place, see
                :class:`GenerationSteps`; None is the model itself, the plain path.
            timeline: receives a mark at the end of every stage and around the diffusion head, see
                :class:`GenerationSeconds`. It serves one generation; the first stage starts at
                its last mark.
            on_feature_map: sees the feature map after every stage, before ``callback``; what it
                does counts to the next stage unless it closes a part on the timeline itself.
        """
        B = integer("B", B)
        self._check_context(B, label_B, context_position_ids, context_mask)
        options = SamplingOptions(cfg, top_p, more_smooth, final_stage == 0, num_maskgit_iters)
        check_chunks(options.num_maskgit_iters, self.patch_nums)
        random = resolve_random_source(self.rng, g_seed, generator, B, self.device)
        with self._exclusive(wait), self._generation_scope(B, timeline) as marks:
            run = self._begin_generation(
                B, label_B, context_position_ids, context_mask, options, random, callback, marks
            )
            run.on_feature_map = on_feature_map
            return self._run_stages(run, steps or self)

    @torch.no_grad()
    def decode_feature_map(
        self, f_hat: torch.Tensor, decoder: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Feature map (B, Z, P, P) to images (B, 3, H, W) in [0, 1].

        ``decoder`` runs in the place of the autoencoder's, see ``HARTAutoEncoder.fhat_to_img``.
        """
        vae = self.vae_proxy[0]
        with at_hand(vae):
            image = vae.fhat_to_img(f_hat, decoder) if decoder else vae.fhat_to_img(f_hat)
        return (image + 1) / 2

    # --- one generation -----------------------------------------------------------------------

    @property
    def _generating(self) -> bool:
        return is_generating(self)

    @contextlib.contextmanager
    def _exclusive(self, wait: bool) -> Iterator[None]:
        """Surrounds one generation: no other one runs on this model, and its weights are at hand.

        See :func:`exclusive`.
        """
        with exclusive(self, wait), at_hand(self), at_hand(self.vae_proxy[0]):
            yield

    @contextlib.contextmanager
    def _generation_scope(self, bsz: int, timeline: Timeline | None) -> Iterator[Timeline | None]:
        """Surrounds one generation; subclasses set up state here and release it.

        Yields the timeline that the sampler marks, None for no marks.
        """
        yield timeline

    def _block_options(self, layer: int) -> dict:
        """Extra keywords for a block's call; subclasses add theirs."""
        return {}

    def _guidance_stop(self) -> int | None:
        """Index of the stage from which on there is no guidance; the plain model has no such."""
        return None

    def _stop_guidance(self, x: torch.Tensor, run: Generation) -> torch.Tensor:
        """End the guidance before a stage: (2B, n, C) tokens to those with text, (B, n, C)."""
        run.stop_guidance()
        return x[: run.bsz]

    def _check_context(self, B, label_B, position_ids, mask) -> None:
        if B < 1:
            raise ValueError(f"B must be at least 1, got {B}")
        expected = {
            "label_B": (label_B, (B, self.context_token, self.context_dim)),
            "context_position_ids": (position_ids, (B, self.context_token)),
            "context_mask": (mask, (B, self.context_token)),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is None or tuple(tensor.shape) != shape:
                found = None if tensor is None else tuple(tensor.shape)
                raise ValueError(f"{name} must have the shape {shape}, got {found}")

    def _begin_generation(
        self, B, label_B, position_ids, mask, options, random, callback, timeline
    ) -> Generation:
        """Double the batch for guidance: zero features, zero positions, mask 1, 0, 0, ..."""
        device = self.device
        label_B, position_ids, mask = (t.to(device) for t in (label_B, position_ids, mask))
        empty_mask = torch.zeros_like(mask)
        empty_mask[:, 0] = 1
        cond = self.embed_context(torch.cat((label_B, torch.zeros_like(label_B))))
        side = self.patch_nums[-1]
        return Generation(
            options=options,
            bsz=B,
            cond=cond,
            context_position_ids=torch.cat((position_ids, torch.zeros_like(position_ids))),
            context_mask=torch.cat((mask, empty_mask)),
            levels=self.level_embeddings(),
            f_hat=cond.new_zeros(B, self.Cvae, side, side),
            kv=KVCache(self.depth),
            random=random,
            callback=callback,
            timeline=timeline,
        )

    def _run_stages(self, run: Generation, steps: GenerationSteps) -> torch.Tensor:
        steps.begin(run)
        x = run.cond + run.levels[0] + self._position_embedding(0)
        stop = self._guidance_stop()
        for si in range(self.num_stages_minus_1):
            if si == stop:
                x = self._stop_guidance(x, run)
            hidden = steps.run_blocks(x, run, si)
            if si == 0:
                hidden = hidden[:, -1:]  # the text's last position predicts the 1x1 map
            ratio = si / self.num_stages_minus_1
            logits = steps.guided_logits(hidden, run, run.options.cfg * ratio)
            _, h = self._draw_tokens(logits, run, si, ratio)
            x = self._feed_back(h, run, si)
            run.finish_stage(si)
        if run.options.num_maskgit_iters:
            if stop == self.num_stages_minus_1:
                x = self._stop_guidance(x, run)
            self._run_last_stage(x, run, steps)
            run.finish_stage(self.num_stages_minus_1)
        return run.f_hat

    def begin(self, run: Generation) -> None:
        """See :class:`GenerationSteps`: the plain path prepares nothing."""

    def run_blocks(
        self, x: torch.Tensor, run: Generation, si: int, m_maskgit: MaskIndex | None = None
    ) -> torch.Tensor:
        """See :class:`GenerationSteps`: every block computes, one after the other."""
        cond = self.shared_ada_lin(run.cond)
        for layer, block in enumerate(self.blocks):
            x = block(
                x,
                cond,
                attn_bias=None,
                si=si,
                context_position_ids=run.context_position_ids,
                context_mask=run.context_mask,
                m_maskgit=m_maskgit,
                kv_cache=run.kv[layer],
                **self._block_options(layer),
            )
        return x

    def guided_logits(self, hidden: torch.Tensor, run: Generation, t: float) -> torch.Tensor:
        """See :class:`GenerationSteps`."""
        if not run.guided:
            return self.get_logits(hidden, run.cond)
        with_text, without = self.get_logits(hidden, run.cond).chunk(2)
        return (1 + t) * with_text - t * without

    def _draw_tokens(
        self, logits: torch.Tensor, run: Generation, si: int, ratio: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (B, n) and codebook values (B, n, Z) for guided logits (B, n, V), which it changes.

        Smoothing sees the filtered logits, and its noise is drawn after the ids.
        """
        options = run.options
        top_k = default_top_k(si) if options.top_k is None else options.top_k
        filter_top_k_top_p_(logits, top_k, options.top_p)
        ids = run.random.token_ids(logits.softmax(dim=-1))
        if not options.more_smooth:
            return ids, self.vae_quant_proxy[0].embedding(ids)
        exponential = run.random.exponential(logits)
        weights = gumbel_softmax(logits.mul_(1 + ratio), smoothing_temperature(ratio), exponential)
        codes = self.vae_quant_proxy[0].codes()
        return ids, weights.to(codes.dtype) @ codes

    def _feed_back(self, h: torch.Tensor, run: Generation, si: int) -> torch.Tensor:
        """Add stage ``si``'s values to the feature map; (2B, n', C) tokens of the next stage."""
        values = self._add_stage(h, run, si).flatten(2).transpose(1, 2)
        x = self.embed_tokens(values) + run.levels[si + 1] + self._position_embedding(si + 1)
        return x.repeat(run.copies, 1, 1)

    def _add_stage(self, h: torch.Tensor, run: Generation, si: int) -> torch.Tensor:
        """Add stage ``si``'s values (B, n, Z) to the feature map; the map that comes next."""
        side = self.patch_nums[si]
        maps = h.transpose(1, 2).reshape(run.bsz, self.Cvae, side, side)
        run.f_hat, next_map = self.vae_quant_proxy[0].get_next_autoregressive_input(
            si, len(self.patch_nums), run.f_hat, maps.to(run.f_hat.dtype), self.patch_nums
        )
        return next_map

    def _position_embedding(self, si: int) -> torch.Tensor | float:
        """Learned positions of a stage, (1, n, C); llama attention has none (0)."""
        if self.attn_type != "gpt2":
            return 0.0
        begin, end = self.begin_ends[si]
        positions = self.pos_1LC[:, begin:end]
        return positions + self.pos_start if si == 0 else positions

    # --- the masked last stage ----------------------------------------------------------------

    def _run_last_stage(self, x: torch.Tensor, run: Generation, steps: GenerationSteps) -> None:
        """Predict the last map in chunks and add it to the feature map, without phi.

        Guidance and smoothing keep the ratio of the stage before: the public sampler does not
        advance it.
        """
        bsz, positions, si = run.bsz, self.last_level_pns, self.num_stages_minus_1
        ratio = (si - 1) / si
        values = torch.zeros(bsz, positions, self.Cvae, dtype=torch.float32, device=x.device)
        orders = run.random.orders(bsz, positions).to(x.device)
        for chunk in self._chunks(orders, run.options.num_maskgit_iters):
            rows = chunk.repeat(run.copies, 1).nonzero(as_tuple=True)
            tokens = x[rows].view(run.copies * bsz, -1, self.C)
            hidden = steps.run_blocks(tokens, run, si, rows)
            logits = steps.guided_logits(hidden, run, run.options.cfg * ratio)
            ids, h = self._draw_tokens(logits, run, si, ratio)
            if run.options.residual_diffusion:
                run.mark(stage_part(si))
                h = h + steps.residual(hidden, ids, run, run.options.cfg * ratio)
                run.mark(RESIDUAL_PART)
            values[chunk] = h.reshape(-1, self.Cvae).float()
        side = self.patch_nums[-1]
        maps = values.transpose(1, 2).reshape(bsz, self.Cvae, side, side)
        run.f_hat += maps.to(run.f_hat.dtype)

    def _chunks(self, orders: torch.Tensor, iterations: int) -> Iterator[torch.Tensor]:
        """(B, P * P) bool per chunk: the positions that it predicts, equally many per sample."""
        bsz, positions = orders.shape
        remaining = positions
        masked = torch.ones(bsz, positions, dtype=torch.bool, device=orders.device)
        for step in range(iterations):
            if step == iterations - 1 or remaining <= 1:
                yield masked
                return
            cosine = math.floor(positions * math.cos(math.pi / 2 * (step + 1) / iterations))
            remaining = max(1, min(remaining - 1, cosine))
            still_masked = mask_by_order(remaining, orders, bsz, positions)
            yield masked & ~still_masked
            masked = still_masked

    def residual(
        self, hidden: torch.Tensor, ids: torch.Tensor, run: Generation, t: float
    ) -> torch.Tensor:
        """See :class:`GenerationSteps`."""
        residual = self.diffloss.sample(
            self.residual_condition(hidden, ids).flatten(0, 1),
            temperature=1.0,
            cfg=t if run.guided else NO_GUIDANCE,
            noise_source=run.random.noise_source(ids.shape[1]),
        )
        return residual.view(run.copies, *ids.shape, self.Cvae)[0]

    def residual_condition(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """What the diffusion head is conditioned on: (rows, n, C), ids (B, n) to (rows, n, C)."""
        drawn = self.embed_tokens(self.vae_quant_proxy[0].embedding(ids))
        return self.decoder_norm(hidden + drawn.repeat(len(hidden) // len(ids), 1, 1))
