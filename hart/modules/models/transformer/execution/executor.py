"""A cached step, executed: all blocks of one generation, with everything done once that can be.

Equal to the model's own blocks up to rounding. The differences:

- keys and values go into buffers of known size, rotary tables and modulation are made once;
- modules that are reused in a row can be one interpolation and one addition, see :meth:`merge`;
- HART's text-free half of the batch sees a text of equal features at equal positions, so that in
  llama blocks one of its tokens, of one image, stands for all of them;
- on a CPU, whatever works token by token runs in pieces, which bounds the memory it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from hart.modules.models.transformer.execution.attention import attend
from hart.modules.models.transformer.execution.key_value_buffers import (
    KeyValueBuffers,
    keys_per_layer,
)
from hart.modules.models.transformer.execution.streams import Modulation, Stream, Tables, keep_rows
from hart.modules.models.transformer.execution.token_wise import Projection, TokenWise, folded
from hart.modules.models.transformer.generation_state import Generation
from hart.modules.models.transformer.stage_transformer import StageTransformer
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.generation_cache import GenerationCache
from hart.modules.networks.caching.plan import Action, compute_everything, kept_tokens
from hart.modules.networks.caching.pruning import restore_tokens
from hart.modules.networks.caching.stages import StageSchedule
from hart.modules.networks.caching.store import FeatureStore
from hart.modules.networks.rope import MaskIndex


class Executor:
    """Runs the blocks of one generation.

    Args:
        model: whose blocks are run.
        run: the generation; without a cache every module computes.
        token_wise: what the blocks do token by token.
    """

    def __init__(self, model: StageTransformer, run: Generation, token_wise: TokenWise) -> None:
        self.model, self.run, self.token_wise = model, run, token_wise
        self.cache = run.cache or GenerationCache(
            compute_everything(CacheConfig(), StageSchedule(model.patch_nums), model.depth)
        )
        self.last = model.num_stages_minus_1
        self.has_text = model.context_token > 0
        self.cond = model.shared_ada_lin(run.cond)
        modulation = (block.modulation(self.cond, run.context_mask) for block in model.blocks)
        self.modulation = list(map(_with_factors, modulation))
        self.projections = list(map(Projection.of, model.blocks))
        tokens = [end - begin for begin, end in model.begin_ends]
        in_one_piece = run.options.num_maskgit_iters == 1
        self.buffers = KeyValueBuffers(
            keys_per_layer(self.cache, tokens, in_one_piece),
            (len(run.cond), model.num_heads, model.C // model.num_heads),
            in_one_piece,
            run.cond.dtype,
            run.cond.device,
        )
        self._text_outputs: dict[int, list[torch.Tensor]] = {}

    def merge(self) -> None:
        """Keep one sum for modules that are reused in a row; no sum spans a cross-attention."""
        cross = self.model.config.use_cross_attn
        self.cache.merge(range(1, 2 * self.model.depth, 2) if cross else ())

    def stage(self, x: torch.Tensor, si: int, m_maskgit: MaskIndex | None) -> torch.Tensor:
        """As ``GenerationSteps.run_blocks``; ``x`` is changed. Of the text, the last position."""
        rows, tokens = x.shape[:2]
        if rows < len(self.cond):  # guidance has ended
            self.cond, self.modulation = self.cond[:rows], keep_rows(self.modulation, rows)
            self.buffers.keep_rows(rows)
        actions = self.cache.begin_stage(si, rows)
        tables = self._tables(x, si, m_maskgit)
        stream = Stream(x, slice(None), self.modulation, tables, tokens, si, m_maskgit)
        stream.is_text = si == 0 and self.has_text
        streams = self._text_streams(stream) if stream.is_text else [stream]
        for each in streams:
            self._run(each, actions)
        self.cache.end_stage(si, rows, tokens)
        if not stream.is_text:
            return x
        return _whole_batch([each.x[:, -1:] for each in streams], self.run.bsz)

    def _tables(self, x: torch.Tensor, si: int, m_maskgit: MaskIndex | None) -> Tables | None:
        attention = self.model.blocks[0].attn
        if not hasattr(attention, "rotary_tables"):
            return None
        positions = self.run.context_position_ids
        return folded(attention.rotary_tables(x, si, positions, m_maskgit))

    def _text_streams(self, whole: Stream) -> list[Stream]:
        """The rows with text, and one row without that stands for all of them."""
        bsz = self.run.bsz
        streams = [whole.of_rows(slice(0, bsz), bsz)]
        if self.run.guided:
            without = whole.of_rows(slice(bsz, bsz + 1), bsz)
            # Without learned positions its tokens are all the same.
            streams.append(without if without.tables is None else without.last_token())
        return streams

    # --- one stage ----------------------------------------------------------------------------

    def _run(self, stream: Stream, actions: tuple[Action, ...]) -> None:
        """All modules in their order."""
        for module, action in enumerate(actions):
            if action.reuse:
                self._reuse(stream, module, action)
            else:
                self._flush(stream)
                self._compute(stream, module, action)
            self.cache.note(module, action)
            self._cross_attend(stream, module)
        self._flush(stream)

    def _reuse(self, stream: Stream, module: int, action: Action) -> None:
        """Have the kept output added, at once if it is wanted by itself."""
        if action.store_source:
            self._flush(stream)
            self.store.defer(module)
            self._flush(stream, module)
        else:
            self.store.defer(module)

    @property
    def store(self) -> FeatureStore:
        return self.cache.store

    def _flush(self, stream: Stream, source_of: int | None = None) -> None:
        """Add what was deferred to the residual stream, before somebody looks at it.

        Args:
            source_of: the module whose output that is, if left-out tokens want it.
        """
        change = self.store.flush(stream.si, stream.m_maskgit)
        if change is not None:
            stream.x += change
            if source_of is not None:
                self.store.keep_source(source_of, stream.si, change)

    def _cross_attend(self, stream: Stream, module: int) -> None:
        """Between a layer's attention and its MLP, where the model has such; not of the text."""
        layer, is_mlp = divmod(module, 2)
        cross_attn = self.model.blocks[layer].cross_attn
        if cross_attn is not None and not is_mlp and stream.si > 0:
            self._flush(stream)
            stream.x += cross_attn(stream.x, self.cond, self.run.context_mask)

    def _compute(self, stream: Stream, module: int, action: Action) -> None:
        """Compute a module, leave out the tokens that it leaves out, keep what is to be kept."""
        si, n = stream.si, stream.x.shape[1]
        keep = kept_tokens(n, action.ratio)
        gamma = stream.gamma(module)
        if keep == n:
            outputs: Iterable[tuple[slice, torch.Tensor]] = self._before_gamma(stream, module)
        else:
            index = self.cache.choose(stream.x, keep, stream.m_maskgit)
            kept = [out for _, out in self._outputs(stream.select(index), module)]
            source = self.store.source(module, si, stream.m_maskgit)
            outputs = [(slice(0, n), restore_tokens(torch.cat(kept, dim=1), index, source))]
            gamma = None
        for piece, out in outputs:
            if gamma is None:
                stream.x[:, piece].add_(out)
            else:
                stream.x[:, piece].addcmul_(out, gamma)
            if action.store or action.store_source:
                self._keep(stream, module, action, piece, out if gamma is None else out * gamma)

    def _keep(
        self, stream: Stream, module: int, action: Action, piece: slice, out: torch.Tensor
    ) -> None:
        """Keep a piece of what a module adds."""
        if stream.is_text:  # its last position is the 1x1 map
            if piece.stop < stream.x.shape[1]:
                return
            piece, out = slice(0, 1), out[:, -1:]
        if action.store_source:
            self.store.keep_source(module, stream.si, out, stream.rows, piece)
        if action.store:
            self.store.keep(module, stream.si, out, stream.rows, piece)

    def _hidden(self, stream: Stream, layer: int, piece: slice) -> torch.Tensor:
        """What the last product of an MLP takes, (r, n', C')."""
        _, _, _, factor, _, shift = stream.modulation[layer]
        x = stream.x[:, piece]
        return self.token_wise.mlp_hidden(self.model.blocks[layer], x, factor, shift)

    def _outputs(self, stream: Stream, module: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """What a module adds to the residual stream, piece by piece of the token axis."""
        gamma = stream.gamma(module)
        for piece, out in self._before_gamma(stream, module):
            yield piece, out if gamma is None else out * gamma

    def _before_gamma(self, stream: Stream, module: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """What a module puts out, piece by piece of the token axis."""
        layer, is_mlp = divmod(module, 2)
        block = self.model.blocks[layer]
        observes = self.cache.observes(module, stream.si)
        observed = torch.empty_like(stream.x) if observes else None
        attended = None if is_mlp else self._attend(stream, layer)
        for piece in stream.pieces():
            if attended is None:
                out = block.ffn.last(self._hidden(stream, layer, piece))
            else:
                out = block.attn.proj(attended[:, piece])
            if observed is not None:
                observed[:, piece] = out
            yield piece, out
        if observed is not None:
            self._observe(stream, module, observed)

    def _observe(self, stream: Stream, module: int, out: torch.Tensor) -> None:
        """Show a module's output to the cache; of the text once both streams have been run."""
        if stream.is_text:
            parts = self._text_outputs.setdefault(module, [])
            parts.append(out[:, -1:])
            if len(parts) < self.run.copies:
                return
            out = _whole_batch(self._text_outputs.pop(module), self.run.bsz)
        self.cache.observe(module, stream.si, out, stream.m_maskgit)

    # --- attention ----------------------------------------------------------------------------

    def _attend(self, stream: Stream, layer: int) -> torch.Tensor:
        """Attention before its projection, (r, n, C)."""
        attention = self.model.blocks[layer].attn
        if stream.is_text:
            return self._attend_to_text(stream, layer)
        both, start = self.buffers.extend(layer, stream.tokens)
        rows, n, width = stream.x.shape
        queries = []
        for piece in stream.pieces():
            projected = self._project(stream, layer, piece)
            both[:, :, :, start + piece.start : start + piece.stop] = projected[1:]
            queries.append(projected[0])
        q = queries[0] if len(queries) == 1 else torch.cat(queries, dim=2)
        out = attend(
            q.to(both.dtype), both[0], both[1], attention.scale, attention.flash_if_available
        )
        return out.transpose(1, 2).reshape(rows, n, width)

    def _attend_to_text(self, stream: Stream, layer: int) -> torch.Tensor:
        """The text attends to itself; its keys are the first in the buffers."""
        attention = self.model.blocks[layer].attn
        projected = self._project(stream, layer, slice(None))
        q, k, v = projected
        self.buffers.write_text(layer, stream.rows, projected[1:], stream.tokens)
        if stream.tokens > stream.x.shape[1]:
            out = v  # equal keys have equal weights, and the mean of equal values is one
        else:
            out = attend(q, k, v, attention.scale, attention.flash_if_available)
        return out.transpose(1, 2).flatten(2)

    def _project(self, stream: Stream, layer: int, piece: slice) -> torch.Tensor:
        """Queries, keys (both after rotary) and values of a piece, (3, r, H, n', d)."""
        _, _, factor, _, shift, _ = stream.modulation[layer]
        x, tables = stream.x[:, piece], stream.tables
        if tables is not None:
            tables = tables[0][:, piece], tables[1][:, piece]
        return self.token_wise.queries_keys_values(
            self.model.blocks[layer], x, self.projections[layer], factor, shift, tables
        )


def _whole_batch(parts: list[torch.Tensor], bsz: int) -> torch.Tensor:
    """Rows with text (B, n, C) and, if any, one row without (1, n, C) to (B or 2B, n, C)."""
    return torch.cat([parts[0], *(part.expand(bsz, -1, -1) for part in parts[1:])])


def _with_factors(modulation: tuple[torch.Tensor, ...] | None) -> Modulation:
    """A block's modulation, ``1 + scale`` in the place of ``scale``."""
    if modulation is None:
        return (None,) * 6
    gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation
    return gamma1, gamma2, 1 + scale1, 1 + scale2, shift1, shift2
