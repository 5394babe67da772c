"""All blocks of one generation, with everything that does not depend on the tokens done once.

Equal to the model's own blocks up to rounding. The differences:

- keys and values go into buffers of known size, rotary tables and modulation are made once;
- runs of reused modules are one interpolation and one addition, see ``merged_runs``;
- HART's text-free half of the batch sees a text of equal features at equal positions, so that in
  llama blocks one of its tokens, of one image, stands for all of them;
- on a CPU, whatever works token by token runs in pieces, which bounds the memory it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from hart.engine.attention import attend
from hart.engine.key_value_buffers import KeyValueBuffers, keys_per_layer
from hart.engine.merged_runs import Run, StageProgram
from hart.engine.token_wise import TokenWise
from hart.modules.models.transformer.generation_state import Generation
from hart.modules.models.transformer.stage_transformer import StageTransformer
from hart.modules.networks.caching.config import SITES
from hart.modules.networks.caching.interpolate import interpolate_features, select_positions
from hart.modules.networks.caching.site_cache import SiteCache
from hart.modules.networks.rope import MaskIndex

TOKENS_AT_ONCE = 1024
"""Rows times tokens of a piece on a CPU; bounds the memory of the MLP's wide layer."""

Modulation = tuple[torch.Tensor | None, ...]
Observer = Callable[[str, int, int, MaskIndex | None], SiteCache]
"""(site, layer, stage index, positions) to the cache of one module's call."""


@dataclass
class Stream:
    """The residual stream of some rows of the batch during one stage.

    Attributes:
        x: (r, n, C), changed in place.
        rows: which rows of the batch the r rows stand for.
        modulation: per layer gamma1, gamma2, scale1, scale2, shift1, shift2, (r, 1, C) each or
            None.
        tables: rotary cosines and sines (r, n, d), None without.
        tokens: length of the stage; more than n where one token stands for all.
        halves_equal: both halves of the batch hold the same tokens, still.
    """

    x: torch.Tensor
    rows: slice
    modulation: list[Modulation]
    tables: tuple[torch.Tensor, torch.Tensor] | None
    tokens: int
    halves_equal: bool = False

    def pieces(self) -> Iterator[slice]:
        """Slices of the token axis that cover it."""
        n = self.x.shape[1]
        size = n
        if self.x.device.type == "cpu":
            size = max(1, TOKENS_AT_ONCE // self.x.shape[0])
        for start in range(0, n, size):
            yield slice(start, min(n, start + size))


class BlockRunner:
    """Runs the blocks of one generation.

    Args:
        model: whose blocks are run.
        run: the generation.
        programs: what every stage does.
        interpolation_mode: of reused outputs.
        token_wise: what the blocks do token by token.
        observer: makes the cache that looks at a module's output, before gamma; None for none.
    """

    def __init__(
        self,
        model: StageTransformer,
        run: Generation,
        programs: tuple[StageProgram, ...],
        interpolation_mode: str,
        token_wise: TokenWise,
        observer: Observer | None = None,
    ) -> None:
        self.model, self.run, self.programs = model, run, programs
        self.mode, self.token_wise, self.observer = interpolation_mode, token_wise, observer
        self._text_outputs: dict[int, list[torch.Tensor]] = {}
        self.last = model.num_stages_minus_1
        self.has_text = model.context_token > 0
        self.cond = model.shared_ada_lin(run.cond)
        self.modulation = [
            block.modulation(self.cond, run.context_mask) or (None,) * 6 for block in model.blocks
        ]
        tokens = [end - begin for begin, end in model.begin_ends]
        self.buffers = KeyValueBuffers(
            self._keys(tokens),
            (len(run.cond), model.num_heads, model.C // model.num_heads),
            run.options.num_maskgit_iters == 1,
            run.cond.dtype,
            run.cond.device,
        )
        self.sums: dict[Run, torch.Tensor] = {}

    def _keys(self, tokens: list[int]) -> list[list[int]]:
        """Per stage and layer, how many keys are added; ``tokens`` of each stage."""
        return keys_per_layer(self.programs, tokens, self.model.depth)

    @property
    def kept_bytes(self) -> int:
        """Memory of the sums kept for the next stage."""
        return sum(kept.nbytes for kept in self.sums.values())

    def stage(self, x: torch.Tensor, si: int, m_maskgit: MaskIndex | None) -> torch.Tensor:
        """As ``GenerationSteps.run_blocks``; ``x`` is changed. Of the text, the last position."""
        if len(x) < len(self.cond):
            self._keep_rows(len(x))
        if si == 0 and self.has_text:
            return self._text(x)
        stream = Stream(x, slice(None), self.modulation, self._tables(x, si, m_maskgit), x.shape[1])
        stream.halves_equal = si > 0 and self.run.guided
        self._finish(si, [self._run(stream, si, m_maskgit)])
        return stream.x

    def _keep_rows(self, rows: int) -> None:
        """Guidance has ended: drop what belongs to the rows without text."""
        self.cond = self.cond[:rows]
        self.modulation = [_of_rows(layer, slice(rows)) for layer in self.modulation]
        self.buffers.keep_rows(rows)
        self.sums = {run: change[:rows].clone() for run, change in self.sums.items()}

    def _text(self, x: torch.Tensor) -> torch.Tensor:
        """The text stage: its last position (2B, 1, C)."""
        bsz = self.run.bsz
        tables = self._tables(x, 0, None)
        with_text, without = slice(0, bsz), slice(bsz, bsz + 1)
        streams = [self._part(x, with_text, tables)]
        if self.run.guided:
            streams.append(self._part(x, without, tables))
            streams[1].rows = slice(bsz, 2 * bsz)
            if tables is not None:  # without learned positions its tokens are all the same
                streams[1].x = streams[1].x[:, -1:].clone()
                streams[1].tables = tuple(table[:, -1:] for table in streams[1].tables)
        self._finish(0, [self._run(stream, 0, None) for stream in streams])
        return _whole_batch([stream.x[:, -1:] for stream in streams], bsz)

    def _part(self, x: torch.Tensor, rows: slice, tables) -> Stream:
        modulation = [_of_rows(layer, rows) for layer in self.modulation]
        tables = tables and _of_rows(tables, rows)
        return Stream(x[rows].clone(), rows, modulation, tables, x.shape[1])

    def _tables(self, x: torch.Tensor, si: int, m_maskgit: MaskIndex | None):
        attention = self.model.blocks[0].attn
        if not hasattr(attention, "rotary_tables"):
            return None
        return attention.rotary_tables(x, si, self.run.context_position_ids, m_maskgit)

    # --- one stage ----------------------------------------------------------------------------

    def _run(self, stream: Stream, si: int, m_maskgit: MaskIndex | None) -> dict:
        """Run a stage's program; returns the sums to be kept, (r, n, C) by run."""
        program = self.programs[si]
        kept: dict[Run, torch.Tensor] = {}
        for step in program.steps:
            if isinstance(step, Run):
                after = step.stop
                self._reuse(stream, si, step, m_maskgit, program.kept_run(step.start), kept)
            else:
                after = step + 1
                self._compute(stream, si, step, m_maskgit, program.kept_run(step), kept)
            stream.halves_equal = False
            if after % 2:
                self._cross_attend(stream, after // 2, si)
        return kept

    def _reuse(self, stream, si, run: Run, m_maskgit, kept_run, kept) -> None:
        sides = self.model.patch_nums
        change = interpolate_features(self.sums[run], sides[si - 1], sides[si], self.mode)
        change = of_this_call(change, stream, m_maskgit)
        stream.x += change
        if kept_run is not None:
            _accumulate(kept, kept_run, change, slice(None), stream.x.shape)

    def _compute(self, stream: Stream, si: int, module: int, m_maskgit, kept_run, kept) -> None:
        layer, is_mlp = divmod(module, 2)
        block = self.model.blocks[layer]
        gamma1, gamma2, _, scale2, _, shift2 = stream.modulation[layer]
        gamma = gamma2 if is_mlp else gamma1
        observed = None
        if self._observes(layer):
            observed, gamma1, gamma2 = torch.empty_like(stream.x), None, None
        attended = None if is_mlp else self._attend(stream, layer, si)
        for piece in stream.pieces():
            x = stream.x[:, piece]
            if is_mlp:
                out = self.token_wise.mlp_output(block, x, scale2, shift2, gamma2)
            else:
                out = self.token_wise.attention_output(block, attended[:, piece], gamma1)
            if observed is not None:
                observed[:, piece] = out
                out = out if gamma is None else out * gamma
            x += out
            if kept_run is not None:
                _accumulate(kept, kept_run, out, piece, stream.x.shape)

        if observed is not None:
            self._observe(si, module, observed, m_maskgit)

    def _observes(self, layer: int) -> bool:
        """Whether the observer looks at the outputs of a layer's modules."""
        return self.observer is not None

    def _observe(self, si: int, module: int, out: torch.Tensor, m_maskgit) -> None:
        """Show a module's output to the observer; of the text once both streams have been run."""
        if si == 0 and self.has_text:
            parts = self._text_outputs.setdefault(module, [])
            parts.append(out)
            if len(parts) < self.run.copies:
                return
            with_text, *without = self._text_outputs.pop(module)
            without = [part.expand(-1, with_text.shape[1], -1) for part in without]
            out = _whole_batch([with_text, *without], self.run.bsz)
        self.observer(SITES[module % 2], module // 2, si, m_maskgit)(lambda: out)

    def _attend(self, stream: Stream, layer: int, si: int) -> torch.Tensor:
        """Attention before its projection, (r, n, C)."""
        attention = self.model.blocks[layer].attn
        if si == 0 and self.has_text:
            return self._attend_to_text(stream, layer)
        k, v, start = self.buffers.extend(layer, stream.tokens)
        rows, n, width = stream.x.shape
        q = k.new_empty(rows, attention.num_heads, n, attention.head_dim)
        for piece in stream.pieces():
            new = slice(start + piece.start, start + piece.stop)
            q[:, :, piece], k[:, :, new], v[:, :, new] = self._project(stream, layer, piece)
        out = attend(q, k, v, attention.scale, attention.flash_if_available)
        return out.transpose(1, 2).reshape(rows, n, width)

    def _attend_to_text(self, stream: Stream, layer: int) -> torch.Tensor:
        """The text attends to itself; its keys are the first in the buffers."""
        attention = self.model.blocks[layer].attn
        q, k, v = self._project(stream, layer, slice(None))
        self.buffers.write_text(layer, stream.rows, k, v, stream.tokens)
        if stream.tokens > stream.x.shape[1]:
            out = v  # equal keys have equal weights, and the mean of equal values is one of them
        else:
            out = attend(q, k, v, attention.scale, attention.flash_if_available)
        return out.transpose(1, 2).flatten(2)

    def _project(self, stream: Stream, layer: int, piece: slice) -> tuple[torch.Tensor, ...]:
        """Queries, keys (both after rotary) and values of a piece, (r, H, n', d)."""
        _, _, scale1, _, shift1, _ = stream.modulation[layer]
        x, tables = stream.x[:, piece], stream.tables
        if tables is not None:
            tables = tuple(table[:, piece] for table in tables)
            if stream.halves_equal and scale1 is None:
                x = x[: len(x) // 2]  # the tables make two halves of it again
        block = self.model.blocks[layer]
        return self.token_wise.queries_keys_values(block, x, scale1, shift1, tables)

    def _cross_attend(self, stream: Stream, layer: int, si: int) -> None:
        block = self.model.blocks[layer]
        if block.cross_attn is not None and si > 0:
            stream.x += block.cross_attn(stream.x, self.cond, self.run.context_mask)

    def _finish(self, si: int, kept: list[dict[Run, torch.Tensor]]) -> None:
        """Keep the stage's sums for the next one; the last stage's chunks share theirs."""
        if si == self.last:
            return
        if si == 0 and self.has_text:
            kept = [{run: change[:, -1:].clone() for run, change in part.items()} for part in kept]
            self.sums = {run: _whole_batch([p[run] for p in kept], self.run.bsz) for run in kept[0]}
        else:
            self.sums = kept[0]


def of_this_call(full: torch.Tensor, stream: Stream, m_maskgit: MaskIndex | None) -> torch.Tensor:
    """Of a whole map (r, tokens, C), the positions that the stream holds."""
    if m_maskgit is None or stream.tokens == full.shape[1]:
        return full
    return select_positions(full, m_maskgit)


def _accumulate(kept: dict, run: Run, change: torch.Tensor, piece: slice, shape) -> None:
    """Add ``change`` to the piece of the run's sum; the first change of a piece starts it."""
    if run not in kept:
        kept[run] = change.new_zeros(shape)
    kept[run][:, piece] += change


def _whole_batch(parts: list[torch.Tensor], bsz: int) -> torch.Tensor:
    """Rows with text (B, n, C) and, if any, one row without (1, n, C) to (B or 2B, n, C)."""
    return torch.cat([parts[0], *(part.expand(bsz, -1, -1) for part in parts[1:])])


def _of_rows(tensors: Modulation, rows: slice) -> Modulation:
    """Some rows of every tensor; one row stands for the whole batch and stays."""
    return tuple(t if t is None or len(t) == 1 else t[rows] for t in tensors)
