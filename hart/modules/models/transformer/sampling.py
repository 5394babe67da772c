"""The sampling loop: stage by stage from the smallest map to the feature map of the image.

HART (arXiv 2410.10812) and VAR (arXiv 2404.02905): discrete tokens for every stage, drawn with
classifier-free guidance. In HART's last stage, which comes in chunks, a diffusion head adds the
residual that the codebook cannot express.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import torch

from hart.modules.models.transformer.conditions import ClassCondition, Labels, TextCondition
from hart.modules.models.transformer.execution.bare import blocks_are_bare
from hart.modules.models.transformer.execution.executor import Executor
from hart.modules.models.transformer.execution.token_wise import TokenWise
from hart.modules.models.transformer.generation_state import (
    RESIDUAL_PART,
    FeatureMapCallback,
    Generation,
    GenerationSteps,
    SamplingOptions,
    StageCallback,
    stage_part,
)
from hart.modules.models.transformer.random_source import (
    PerImageRandom,
    UpstreamRandom,
    resolve_random_source,
)
from hart.modules.models.transformer.stage_transformer import StageTransformer, in_every_row
from hart.modules.networks.caching.generation_cache import GenerationCache
from hart.modules.networks.caching.interpolate import select_positions
from hart.modules.networks.caching.numbers import integer
from hart.modules.networks.caching.statistics import CacheStatistics
from hart.modules.networks.kv_cache import LayerKVCache
from hart.modules.networks.rope import MaskIndex
from hart.modules.networks.utils import chunks_of, filter_top_k_top_p_, gumbel_softmax
from hart.utils.adapted import at_hand
from hart.utils.timing import Timeline

_offloaded_turn = threading.RLock()

NO_GUIDANCE = 1.0
"""Guidance scale at which the diffusion head samples every row by itself."""


def default_top_k(si: int) -> int:
    """Candidates kept at stage ``si``; HART's public sampler fixes them."""
    return 600 if si < 7 else 300


def smoothing_temperature(ratio: float) -> float:
    """Temperature of the Gumbel softmax at ``ratio`` of the way through the stages."""
    return max(0.27 * (1 - 0.95 * ratio), 0.005)


class SamplingTransformer(StageTransformer):
    """Sampling for :class:`HARTForT2I` and :class:`VARForC2I`; their conditions differ."""

    condition_class: ClassVar[type[TextCondition | ClassCondition]]
    context_dim: int
    decoder_norm: Any  # of models with a diffusion head
    diffloss: Any

    def autoregressive_infer_cfg(
        self,
        B: int,
        label_B: torch.Tensor | Labels,
        g_seed: int | None = None,
        cfg: float = 1.5,
        top_k: int = 0,
        top_p: float = 0.0,
        more_smooth: bool = False,
        *text: Any,
        **options: Any,
    ) -> torch.Tensor:
        """Draw images: :meth:`generate_feature_map`, and the map decoded.

        Args:
            B, label_B, g_seed, cfg, top_p, more_smooth, text, options: as there.
            top_k: candidates kept at every stage, 0 means all. HART ignores it, as its public
                implementation does: 600 in the first seven stages, 300 afterwards.

        Returns:
            (B, 3, H, W) in [0, 1].
        """
        options = {"top_k": top_k, "top_p": top_p, "more_smooth": more_smooth, **options}
        return self.decode_feature_map(
            self.generate_feature_map(B, label_B, g_seed, cfg, *text, **options)
        )

    @torch.no_grad()
    def generate_feature_map(
        self,
        B: int,
        label_B: torch.Tensor | Labels,
        g_seed: int | None = None,
        cfg: float = 1.5,
        *text: Any,
        top_p: float = 0.0,
        more_smooth: bool = False,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        callback: StageCallback | None = None,
        timeline: Timeline | None = None,
        statistics: CacheStatistics | None = None,
        steps: GenerationSteps | None = None,
        on_feature_map: FeatureMapCallback | None = None,
        **condition: Any,
    ) -> torch.Tensor:
        """The feature map (B, Z, P, P) of images of texts, for HART, or classes, for VAR.

        With ``g_seed`` the draws are those of the public implementation: all from a generator
        seeded with it, but HART's order of the last stage and its residual's noise from numpy's
        and torch's global generators. With ``generator`` every draw of an image comes from its own
        generator.

        Args:
            B: number of images.
            label_B: text features (B, T, E), or class indices (B,), see :class:`ClassCondition`.
            g_seed: seed of the draws; None draws from the device's global generator.
            cfg: guidance scale, reached in VAR's last stage and in HART's last but one.
            text, condition: what else :class:`TextCondition` or :class:`ClassCondition` takes.
            top_p: nucleus mass, 0 means off.
            more_smooth: soft mixtures instead of single codebook rows.
            generator: one generator, or one per image.
            callback: called after every stage with its index and the number of stages.
            timeline: receives a mark at the end of every stage and around the diffusion head, see
                :class:`GenerationSeconds`. It serves one generation; the first stage starts at
                its last mark.
            statistics: where a model with feature caching counts; None is its own.
            steps: executes the expensive steps in the model's place, see
                :class:`GenerationSteps`; None is the model itself.
            on_feature_map: sees the feature map after every stage, before ``callback``; what it
                does counts to the next stage unless it closes a part on the timeline itself.

        Raises:
            ValueError: arguments of the wrong shape, number or range, or ``g_seed`` with
                ``generator``.
        """
        B = integer("B", B, 1)
        drawn_from = self.condition_class(self, B, label_B, *text, **condition)
        options = SamplingOptions(cfg, top_p, more_smooth, **drawn_from.options)
        random = resolve_random_source(g_seed, generator, B, self.device)
        scope = self._generation_scope(B, timeline, statistics)
        with self._weights_at_hand(), scope as (marks, cache):
            run = self._begun(B, drawn_from, options, random)
            run.callback, run.on_feature_map = callback, on_feature_map
            run.timeline, run.cache = marks, cache
            return self._run_stages(run, steps or self)

    def _begun(
        self,
        B: int,
        drawn_from: TextCondition | ClassCondition,
        options: SamplingOptions,
        random: UpstreamRandom | PerImageRandom,
    ) -> Generation:
        """A generation before its first stage."""
        cond, position_ids, mask = drawn_from.embed(self, random)
        return Generation(
            options=options,
            bsz=B,
            cond=cond,
            context_position_ids=position_ids,
            context_mask=mask,
            levels=self.level_embeddings(),
            f_hat=cond.new_zeros(B, self.Cvae, self.patch_nums[-1], self.patch_nums[-1]),
            kv=[LayerKVCache() for _ in range(self.depth)],
            random=random,
        )

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

    # --- what surrounds a generation ----------------------------------------------------------

    @contextlib.contextmanager
    def _weights_at_hand(self) -> Iterator[None]:
        """Surrounds one generation; weights that ``accelerate`` moves serve one after the other."""
        offloaded = any("_hf_hook" in vars(module) for module in self.modules())
        turn = _offloaded_turn if offloaded else contextlib.nullcontext()
        with turn, at_hand(self), at_hand(self.vae_proxy[0]):
            yield

    @contextlib.contextmanager
    def _generation_scope(
        self, bsz: int, timeline: Timeline | None, statistics: CacheStatistics | None
    ) -> Iterator[tuple[Timeline | None, GenerationCache | None]]:
        """Surrounds one generation: the timeline that it marks and its cache, None for neither."""
        yield timeline, None

    # --- the loop -----------------------------------------------------------------------------

    def _run_stages(self, run: Generation, steps: GenerationSteps) -> torch.Tensor:
        steps.begin(run)
        x = self._stage_input(run.cond.reshape(len(run.cond), -1, self.C), run, 0)
        return self.run_stages_from(0, x, run, steps)

    def run_stages_from(
        self, first: int, x: torch.Tensor, run: Generation, steps: GenerationSteps
    ) -> torch.Tensor:
        """The feature map (B, Z, P, P), from a generation that has come to stage ``first``.

        Args:
            x: (2B, n, C), the tokens of that stage.
        """
        last, stop = self.num_stages_minus_1, run.guidance_stop
        for si in range(first, last + (run.options.num_maskgit_iters > 0)):
            if si == stop:
                run.stop_guidance()
                x = x[: run.bsz]
            if si == last and run.options.in_chunks:
                values = self._draw_chunks(x, run, steps)
            else:
                values = self._draw_values(x, run, si, si / last, steps)
            next_map = self._add_stage(values, run, si)
            if si < last:
                tokens = self.embed_tokens(next_map.flatten(2).transpose(1, 2))
                x = self._stage_input(tokens, run, si + 1).repeat(run.copies, 1, 1)
            run.finish_stage(si)
        return run.f_hat

    def _stage_input(self, tokens: torch.Tensor, run: Generation, si: int) -> torch.Tensor:
        """Tokens (rows, n, C) with the embedding of their stage and, in gpt2 blocks, positions."""
        x = tokens + run.levels[si]
        if self.attn_type != "gpt2":
            return x
        begin, end = self.begin_ends[si]
        positions = self.pos_1LC[:, begin:end]
        return x + (positions + self.pos_start if si == 0 else positions)

    def _draw_values(
        self,
        x: torch.Tensor,
        run: Generation,
        si: int,
        ratio: float,
        steps: GenerationSteps,
        m_maskgit: MaskIndex | None = None,
    ) -> torch.Tensor:
        """Values (B, n, Z) for the tokens (2B, n, C) of a stage or of a chunk of it.

        Args:
            ratio: how far guidance and smoothing have come on their way through the stages.
        """
        t = run.options.cfg * ratio
        hidden = steps.run_blocks(x, run, si, m_maskgit)
        if si == 0:  # of a text, the last position predicts the 1x1 map
            hidden = hidden[:, -(self.patch_nums[0] ** 2) :]
        logits = steps.guided_logits(hidden, run, t)
        ids, values = self._draw_tokens(logits, run, si, ratio)
        if si == self.num_stages_minus_1 and run.options.residual_diffusion:
            run.mark(stage_part(si))
            values = values + steps.residual(hidden, ids, run, t)
            run.mark(RESIDUAL_PART)
        return values

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

    def _add_stage(self, values: torch.Tensor, run: Generation, si: int) -> torch.Tensor:
        """Add stage ``si``'s values (B, n, Z) to the feature map; the map that comes next.

        A last stage in chunks is added as it is, without phi.
        """
        side = self.patch_nums[si]
        maps = values.transpose(1, 2).reshape(run.bsz, self.Cvae, side, side).to(run.f_hat.dtype)
        if si == self.num_stages_minus_1 and run.options.in_chunks:
            run.f_hat += maps
            return run.f_hat
        cache = run.cache
        before = run.f_hat.clone() if cache and cache.wants_changes(si + 1) else None
        run.f_hat, next_map = self.vae_quant_proxy[0].get_next_autoregressive_input(
            si, len(self.patch_nums), run.f_hat, maps, self.patch_nums
        )
        if cache is not None and before is not None:
            cache.note_changes(si + 1, before, run.f_hat)
        return next_map

    def _draw_chunks(
        self, x: torch.Tensor, run: Generation, steps: GenerationSteps
    ) -> torch.Tensor:
        """Values (B, n, Z) of the last stage, predicted in chunks.

        Guidance and smoothing keep the ratio of the stage before: the public sampler does not
        advance it.
        """
        bsz, positions, si = run.bsz, self.last_level_pns, self.num_stages_minus_1
        ratio = (si - 1) / si
        orders = run.random.orders(bsz, positions)  # drawn though one chunk needs none
        if run.options.num_maskgit_iters == 1:
            return self._draw_values(x, run, si, ratio, steps).float()
        values = torch.zeros(bsz, positions, self.Cvae, dtype=torch.float32, device=x.device)
        for chunk in chunks_of(orders.to(x.device), run.options.num_maskgit_iters):
            where = in_every_row(chunk.repeat(run.copies, 1))
            tokens = select_positions(x, where)
            drawn = self._draw_values(tokens, run, si, ratio, steps, where)
            values.scatter_(1, chunk[..., None].expand_as(drawn), drawn.float())
        return values

    # --- the expensive steps ------------------------------------------------------------------

    def begin(self, run: Generation) -> None:
        """See :class:`GenerationSteps`. What only looks on leaves the blocks to themselves."""
        cache = run.cache
        if cache is not None and cache.acts and not cache.recorders and blocks_are_bare(self):
            run.executor = Executor(self, run, TokenWise())

    def run_blocks(
        self, x: torch.Tensor, run: Generation, si: int, m_maskgit: MaskIndex | None = None
    ) -> torch.Tensor:
        """See :class:`GenerationSteps`: by the executor, or block after block is called."""
        if run.executor is not None:
            return run.executor.stage(x, si, m_maskgit)
        cond, cache = self.shared_ada_lin(run.cond), run.cache
        rows, tokens = x.shape[:2]
        if cache is not None:
            cache.begin_stage(si, rows)
        options: dict[str, Any] = {}
        for layer, block in enumerate(self.blocks):
            if cache is not None and cache.acts:
                options["output"] = partial(cache.output, layer)
            x = block(
                x,
                cond,
                attn_bias=None,
                si=si,
                context_position_ids=run.context_position_ids,
                context_mask=run.context_mask,
                m_maskgit=m_maskgit,
                kv_cache=run.kv[layer],
                **options,
            )
        if cache is not None:
            cache.end_stage(si, rows, tokens)
        return x

    def guided_logits(self, hidden: torch.Tensor, run: Generation, t: float) -> torch.Tensor:
        """See :class:`GenerationSteps`."""
        if not run.guided:
            return self.get_logits(hidden, run.cond)
        with_text, without = self.get_logits(hidden, run.cond).chunk(2)
        return (1 + t) * with_text - t * without

    def residual(
        self, hidden: torch.Tensor, ids: torch.Tensor, run: Generation, t: float
    ) -> torch.Tensor:
        """See :class:`GenerationSteps`; of models with a diffusion head."""
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
