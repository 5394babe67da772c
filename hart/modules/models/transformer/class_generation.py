"""VAR's sampling loop: every stage alike, from a class to the feature map of the image.

VAR (Tian et al., arXiv 2404.02905). It differs from HART's in the condition, in the last stage,
which is predicted like the others, and in what the caller decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hart.modules.models.transformer.generation import GenerationMixin
from hart.modules.models.transformer.generation_state import (
    FeatureMapCallback,
    Generation,
    GenerationSteps,
    SamplingOptions,
    StageCallback,
)
from hart.modules.models.transformer.random_source import (
    PerImageRandom,
    UpstreamRandom,
    resolve_random_source,
)
from hart.modules.networks.caching.numbers import integer, plain, plain_list
from hart.modules.networks.kv_cache import KVCache
from hart.utils.timing import Timeline

Labels = torch.Tensor | Sequence[int] | int | None
"""Class indices, one per image; one for all, negative for none; None to draw them."""


class ClassGenerationMixin(GenerationMixin):
    """Sampling for :class:`VARForC2I`."""

    def autoregressive_infer_cfg(
        self,
        B: int,
        label_B: Labels,
        g_seed: int | None = None,
        cfg: float = 1.5,
        top_k: int = 0,
        top_p: float = 0.0,
        more_smooth: bool = False,
        *,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        callback: StageCallback | None = None,
    ) -> torch.Tensor:
        """Draw images of classes.

        With ``g_seed`` all draws come from one generator seeded with it, without it from the
        device's global one, both in the public implementation's order. With ``generator`` every
        draw of an image comes from its own generator.

        Args:
            B: number of images.
            label_B: class indices (B,), where ``num_classes`` itself means no class; an integer
                for all images, negative for no class; None draws them.
            g_seed: seed of all draws.
            cfg: guidance scale, reached in the last stage.
            top_k: candidates kept at every stage, 0 means all.
            top_p: nucleus mass, 0 means off.
            more_smooth: soft mixtures instead of single codebook rows.
            generator: one generator, or one per image.
            callback: called after every stage with its index and the number of stages.

        Returns:
            (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: classes of the wrong number or range, or ``g_seed`` with ``generator``.
            RuntimeError: another thread is generating on this model.
        """
        f_hat = self.generate_feature_map(
            B,
            label_B,
            g_seed,
            cfg,
            top_k=top_k,
            top_p=top_p,
            more_smooth=more_smooth,
            generator=generator,
            callback=callback,
        )
        return self.decode_feature_map(f_hat)

    @torch.no_grad()
    def generate_feature_map(
        self,
        B: int,
        label_B: Labels,
        g_seed: int | None = None,
        cfg: float = 1.5,
        *,
        top_k: int = 0,
        top_p: float = 0.0,
        more_smooth: bool = False,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        callback: StageCallback | None = None,
        timeline: Timeline | None = None,
        steps: GenerationSteps | None = None,
        on_feature_map: FeatureMapCallback | None = None,
        wait: bool = False,
    ) -> torch.Tensor:
        """The part of :meth:`autoregressive_infer_cfg` before decoding: (B, Z, P, P).

        Args:
            timeline, steps, on_feature_map, wait: as in
                :meth:`GenerationMixin.generate_feature_map`.
        """
        B = integer("B", B)
        if B < 1:
            raise ValueError(f"B must be at least 1, got {B}")
        labels = self._checked_labels(B, label_B)
        options = SamplingOptions(cfg, top_p, more_smooth, False, 1, top_k)
        random = resolve_random_source(self.rng, g_seed, generator, B, self.device)
        with self._exclusive(wait), self._generation_scope(B, timeline) as marks:
            if labels is None:
                labels = random.classes(B, self.num_classes, self.device)
            run = self._begin_class_generation(labels, options, random, callback, marks)
            run.on_feature_map = on_feature_map
            return self._run_stages(run, steps or self)

    def _checked_labels(self, B: int, label_B: Labels) -> torch.Tensor | None:
        """(B,) int64 on the model's device; None stays None."""
        if label_B is None:
            return None
        label_B = plain(label_B)
        if isinstance(label_B, int) and not isinstance(label_B, bool):
            label_B = [self.num_classes if label_B < 0 else label_B] * B
        if not isinstance(label_B, torch.Tensor):
            label_B = [integer(f"label_B[{i}]", v) for i, v in enumerate(plain_list(label_B))]
        labels = torch.as_tensor(label_B, device=None if torch.is_tensor(label_B) else "cpu")
        if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != (B,):
            raise ValueError(
                f"label_B must hold {B} integers, got {tuple(labels.shape)} of {labels.dtype}"
            )
        wrong = labels[(labels < 0) | (labels > self.num_classes)]
        if wrong.numel():
            raise ValueError(
                f"label_B must be within 0 .. {self.num_classes} ({self.num_classes}: no class), "
                f"got {int(wrong[0])}"
            )
        return labels.long().to(self.device)

    def _begin_class_generation(
        self,
        labels: torch.Tensor,
        options: SamplingOptions,
        random: UpstreamRandom | PerImageRandom,
        callback: StageCallback | None,
        timeline: Timeline | None,
    ) -> Generation:
        """Double the batch for guidance: the classes, then no class."""
        bsz, side = len(labels), self.patch_nums[-1]
        cond = self.class_emb(torch.cat((labels, torch.full_like(labels, self.num_classes))))
        return Generation(
            options=options,
            bsz=bsz,
            cond=cond,
            context_position_ids=None,
            context_mask=None,
            levels=self.level_embeddings(),
            f_hat=cond.new_zeros(bsz, self.Cvae, side, side),
            kv=KVCache(self.depth),
            random=random,
            callback=callback,
            timeline=timeline,
        )

    def _run_stages(self, run: Generation, steps: GenerationSteps) -> torch.Tensor:
        steps.begin(run)
        x = run.cond[:, None] + run.levels[0] + self._position_embedding(0)
        last, stop = self.num_stages_minus_1, self._guidance_stop()
        for si in range(last + 1):
            if si == stop:
                x = self._stop_guidance(x, run)
            hidden = steps.run_blocks(x, run, si)
            ratio = si / last
            logits = steps.guided_logits(hidden, run, run.options.cfg * ratio)
            _, h = self._draw_tokens(logits, run, si, ratio)
            if si < last:
                x = self._feed_back(h, run, si)
            else:
                self._add_stage(h, run, si)
            run.finish_stage(si)
        return run.f_hat
