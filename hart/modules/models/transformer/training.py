"""The teacher-forced training pass, equal to the public implementation's."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import torch

from hart.modules.models.transformer.random_source import numpy_orders
from hart.modules.models.transformer.sampling import SamplingTransformer
from hart.modules.models.transformer.stage_transformer import positions_in
from hart.modules.networks.utils import sample_with_top_k_top_p_

MIN_KEPT_TOKENS = 32
MASK_RATIO_MEAN, MASK_RATIO_STD, MASK_RATIO_MIN = 1.0, 0.25, 0.5


class MaskRatioGenerator:
    """Share of the last stage that is masked: a normal(1, 0.25) truncated to [0.5, 1]."""

    def rvs(self, size: int = 1) -> np.ndarray:
        """(size,) draws by inversion, one uniform variate of numpy's global generator each."""
        normal = NormalDist(MASK_RATIO_MEAN, MASK_RATIO_STD)
        low, high = normal.cdf(MASK_RATIO_MIN), normal.cdf(1.0)
        uniform = np.random.uniform(size=size)
        return np.array([normal.inv_cdf(low + u * (high - low)) for u in uniform])


class TrainingTransformer(SamplingTransformer):
    """Training for :class:`HARTForT2I`: cross-entropy is left to the caller."""

    diffusion_batch_mul: int

    mask_ratio_generator = MaskRatioGenerator()

    def sample_orders(self, bsz: int) -> torch.Tensor:
        """(bsz, P * P) int64: a shuffle of the last stage's positions per sample."""
        return numpy_orders(bsz, self.last_level_pns).to(self.device)

    def random_masking(
        self, x: torch.Tensor, orders: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw how much of the last stage is masked.

        Args:
            x: (B, N, ...) full sequence; gives batch size, length and device.
            orders: (B, P * P); the first entries of each row are masked.

        Returns:
            float masks, 1 = masked: (B, N) of the whole sequence and (B, P * P) of the last map.
            At least 32 tokens stay visible.
        """
        bsz, length = x.shape[:2]
        positions = self.last_level_pns
        if positions <= MIN_KEPT_TOKENS:
            raise ValueError(
                f"training needs more than {MIN_KEPT_TOKENS} tokens in the last stage, "
                f"got {positions}"
            )
        rate = self.mask_ratio_generator.rvs(1)[0]
        masked = min(math.ceil(positions * rate), positions - MIN_KEPT_TOKENS)
        last = torch.zeros(bsz, positions, dtype=torch.float32, device=x.device)
        last.scatter_(1, orders[:, :masked].to(x.device), 1.0)
        return torch.cat((last.new_zeros(bsz, length - positions), last), dim=1), last

    def forward(
        self,
        context: torch.Tensor,
        x_BLCv_wo_first_l: torch.Tensor,
        context_position_ids: torch.Tensor,
        context_mask: torch.Tensor,
        last_layer_gt: torch.Tensor,
        last_layer_gt_discrete: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """One teacher-forced pass over all stages at once.

        A sample's text is dropped when a standard normal variate is below ``cond_drop_rate``, as
        in the public code; the probability of dropping is therefore the normal distribution
        function of that field (0.54 for 0.1, 0.1 for -1.2816).

        Args:
            context: text features (B, T, E); not modified.
            x_BLCv_wo_first_l: inputs of stages 1 .. S-1 (B, L - 1, Z), see ``idxBl_to_var_input``.
            context_position_ids, context_mask: (B, T).
            last_layer_gt: what the last map must express (B, P * P, Z).
            last_layer_gt_discrete: ids of the last stage (B, P * P).

        Returns:
            logits (B, 1 + number of visible image positions, V), the scalar diffusion loss, and
            (sample, position) indices of the visible last-stage tokens.
        """
        bsz = x_BLCv_wo_first_l.shape[0]
        full = context.new_empty(bsz, self.sequence_length)
        mask, last_mask = self.random_masking(full, self.sample_orders(bsz))
        keep, last_keep = mask == 0, last_mask == 0
        x, cond = self._teacher_forced(
            context, x_BLCv_wo_first_l, keep, context_position_ids, context_mask
        )
        logits = self.get_logits(x, cond)
        kept = positions_in(last_keep)
        num_kept = kept[0].numel() // bsz
        diff_loss = self._residual_loss(
            x[:, -num_kept:],
            logits[:, -num_kept:],
            last_layer_gt[kept].view(bsz, num_kept, -1),
            last_layer_gt_discrete[kept].view(bsz, num_kept),
        )
        return logits[:, self.first_l - 1 :], diff_loss, kept

    def early_logits(
        self,
        context: torch.Tensor,
        x_BLCv_wo_first_l: torch.Tensor,
        context_position_ids: torch.Tensor,
        context_mask: torch.Tensor,
        num_stages: int,
    ) -> torch.Tensor:
        """Teacher-forced logits of the first stages, without the cost of the others.

        No stage sees a later one, so these are the logits that :meth:`forward` has there.

        Args:
            num_stages: stages to predict, 1 .. S - 1; otherwise as for :meth:`forward`.

        Returns:
            (B, n, V) with n the number of tokens of these stages.

        Raises:
            ValueError: ``num_stages`` is outside that range.
        """
        if not 1 <= num_stages < len(self.patch_nums):
            raise ValueError(
                f"num_stages must be from 1 to {len(self.patch_nums) - 1}, got {num_stages}"
            )
        bsz, end = x_BLCv_wo_first_l.shape[0], self.begin_ends[num_stages - 1][1]
        keep = torch.arange(self.sequence_length, device=context.device) < end
        keep = keep.expand(bsz, -1)
        x, cond = self._teacher_forced(
            context, x_BLCv_wo_first_l, keep, context_position_ids, context_mask
        )
        return self.get_logits(x[:, self.first_l - 1 :], cond)

    def _teacher_forced(
        self,
        context: torch.Tensor,
        maps: torch.Tensor,
        keep: torch.Tensor,
        position_ids: torch.Tensor,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (B, N', C) of the positions that ``keep`` (B, N) has, and the text."""
        bsz, device_type = context.shape[0], context.device.type
        variates = torch.randn(bsz, dtype=torch.float32, device=context.device)
        drop = variates < self.cond_drop_rate
        with torch.autocast(device_type, enabled=False):
            context = context.float().masked_fill(drop[:, None, None], 0)
            cond = self.embed_context(context)
            text = cond + self.pos_start if self.attn_type == "gpt2" else cond
            x = torch.cat((text, self.embed_tokens(maps.float())), dim=1)
            x = x[keep].view(bsz, -1, self.C)
            x = x + self.level_embeddings()[self.lvl_1L[0, : x.shape[1]]]
            if self.attn_type == "gpt2":
                x = x + self.pos_1LC[:, : x.shape[1]]
        if torch.is_autocast_enabled(device_type):  # the dtype of a matmul
            dtype = torch.get_autocast_dtype(device_type)
            x, cond = x.to(dtype), cond.to(dtype)
        visible = positions_in(keep[:, self.first_l :])
        return self._run_training_blocks(x, cond, visible, position_ids, mask), cond

    def _residual_loss(self, hidden, logits, target, target_ids) -> torch.Tensor:
        """Diffusion loss on the residual left by ids that are drawn from the model itself."""
        with torch.no_grad():
            codebook = self.vae_quant_proxy[0].embedding
            ids = sample_with_top_k_top_p_(
                logits.detach().clone(), top_k=600, top_p=0.96, rng=self.rng
            )[..., 0]
            drawn = codebook(ids)
        z = self.decoder_norm(hidden + self.embed_tokens(drawn))
        return self.forward_diff_loss(z, target - drawn)

    def forward_diff_loss(
        self, z: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scalar loss of the diffusion head for conditions (B, n, C) and residuals (B, n, Z)."""
        repeats = self.diffusion_batch_mul
        z = z.reshape(-1, z.shape[-1]).repeat(repeats, 1)
        target = target.reshape(-1, target.shape[-1]).repeat(repeats, 1)
        if mask is not None:
            mask = mask.reshape(-1).repeat(repeats)
        return self.diffloss(z=z, target=target, mask=mask)
