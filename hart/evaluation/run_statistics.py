"""What a run reused and how long its stages took, read from the files that runs leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hart.modules.networks.caching.config import SITES

KNOWN_DOCUMENTS = (
    "generation_results.json, benchmark_results.json or the output of get_cache_statistics()"
)

RESIDUAL = "residual"
"""Name of the residual diffusion head among the parts that are timed."""

MAX_NUMBER = 10**15
"""Largest count or duration that is believed."""


@dataclass(frozen=True)
class StageCalls:
    """Module calls of one site at one stage.

    Attributes:
        reused: calls that took the interpolated output of the stage before.
        computed: the other calls.
        not_eligible: those of the computed calls that could not reuse whatever the similarity;
            None if the file does not say.
    """

    reused: float
    computed: float
    not_eligible: float | None

    @property
    def total(self) -> float:
        return self.reused + self.computed

    def plus(self, other: StageCalls | None) -> StageCalls:
        if other is None:
            return self
        known = self.not_eligible is not None and other.not_eligible is not None
        return StageCalls(
            self.reused + other.reused,
            self.computed + other.computed,
            self.not_eligible + other.not_eligible if known else None,
        )

    def scaled(self, factor: float) -> StageCalls:
        not_eligible = None if self.not_eligible is None else self.not_eligible * factor
        return StageCalls(self.reused * factor, self.computed * factor, not_eligible)


CallsPerStage = dict[str, dict[str, StageCalls]]
"""Token count of the stage -> site -> calls."""


@dataclass(frozen=True)
class RunStatistics:
    """A run's reuse and time per stage.

    Attributes:
        stages: token counts, ascending.
        calls: site -> one entry per stage, the module calls of one image.
        seconds: name of the part -> seconds: the stages, and ``residual`` if it was timed. Empty
            if the file has no times.
        seconds_are: what ``seconds`` are, for an axis.
        images: number of images, None if the file does not say.
    """

    stages: tuple[int, ...]
    calls: dict[str, tuple[StageCalls, ...]]
    seconds: dict[str, float]
    seconds_are: str
    images: int | None

    @property
    def has_calls(self) -> bool:
        return any(stage.total for stages in self.calls.values() for stage in stages)


def read_run_statistics(document: object) -> RunStatistics:
    """Understand one of the documents that tell about a run.

    Args:
        document: parsed JSON of ``hart generate`` (with or without ``--benchmark``), or what
            ``get_cache_statistics()`` returns, in this or an earlier version of the library.

    Raises:
        ValueError: it is none of them, or a value in it is not what it should be.
    """
    if isinstance(document, Mapping):
        if isinstance(document.get("stages"), Mapping):
            return _from_statistics(document)
        if isinstance(document.get("cache_statistics"), Mapping):
            return _from_benchmark(document)
        if isinstance(document.get("images"), list):
            return _from_images(document["images"])
    raise ValueError(f"expected {KNOWN_DOCUMENTS}")


def _from_statistics(document: Mapping[str, Any]) -> RunStatistics:
    images = _number(document.get("images", 0), "images")
    seconds = _mapping(document.get("seconds", {}), "seconds")
    return _run(
        _calls(document["stages"]),
        _scaled(_seconds(seconds, "seconds"), 1 / (images or 1)),
        "mean",
        int(images) or None,
    )


def _from_benchmark(document: Mapping[str, Any]) -> RunStatistics:
    statistics = _mapping(document["cache_statistics"], "cache_statistics")
    spreads = _mapping(document.get("seconds_per_image") or {}, "seconds_per_image")
    stages = _mapping(spreads.get("stages", {}), "seconds_per_image: stages")
    medians = {"stages": {stage: _median(spread, stage) for stage, spread in stages.items()}}
    if spreads.get("residual") is not None:
        medians["residual"] = _median(spreads["residual"], "residual")
    images = _number(statistics.get("images", 0), "images")
    return _run(
        _calls(statistics.get("stages", {})),
        _seconds(medians, "seconds_per_image"),
        "median of the runs",
        int(images) or None,
    )


def _from_images(entries: Sequence[Any]) -> RunStatistics:
    if not entries:
        raise ValueError("images is empty: the run finished none")
    calls: CallsPerStage = {}
    seconds: dict[str, float] = {}
    for index, entry in enumerate(entries):
        where = f"images[{index}]"
        entry = _mapping(entry, where)
        for stage, sites in _calls(entry.get("modules", {}), f"{where}: modules").items():
            before = calls.get(stage, {})
            calls[stage] = {site: sites[site].plus(before.get(site)) for site in SITES}
        parts = _seconds(_mapping(entry.get("seconds", {}), f"{where}: seconds"), where)
        for name, part_s in parts.items():
            seconds[name] = seconds.get(name, 0.0) + part_s
    images = len(entries)
    means = {
        stage: {site: counts.scaled(1 / images) for site, counts in sites.items()}
        for stage, sites in calls.items()
    }
    return _run(means, _scaled(seconds, 1 / images), "mean", images)


def _run(
    calls: CallsPerStage, seconds: dict[str, float], average: str, images: int | None
) -> RunStatistics:
    stages = sorted({int(stage) for stage in (*calls, *seconds) if stage != RESIDUAL})
    if not stages:
        raise ValueError("there is no stage in this document")
    none = {site: StageCalls(0, 0, None) for site in SITES}
    return RunStatistics(
        stages=tuple(stages),
        calls={
            site: tuple(calls.get(str(stage), none)[site] for stage in stages) for site in SITES
        },
        seconds=seconds if any(seconds.values()) else {},
        seconds_are=f"seconds per image ({average})",
        images=images,
    )


def _calls(stages: object, where: str = "stages") -> CallsPerStage:
    calls = {}
    for stage, sites in _mapping(stages, where).items():
        sites = _mapping(sites, f"{where}: {_stage(stage, where)}")
        calls[stage] = {
            site: _stage_calls(sites.get(site), f"{where}: {stage}: {site}") for site in SITES
        }
    return calls


def _stage_calls(counts: object, where: str) -> StageCalls:
    counts = _mapping(counts, where)
    numbers = {}
    for key in ("reused", "computed", "not_eligible"):
        if key in counts or key != "not_eligible":  # earlier versions did not count it
            numbers[key] = _number(counts.get(key), f"{where}: {key}")
    calls = StageCalls(numbers["reused"], numbers["computed"], numbers.get("not_eligible"))
    if (calls.not_eligible or 0) > calls.computed:
        raise ValueError(
            f"{where}: not_eligible must be at most computed, found {calls.not_eligible:g} "
            f"and {calls.computed:g}"
        )
    return calls


def _seconds(parts: Mapping[str, Any], where: str) -> dict[str, float]:
    """Seconds of the stages, and of the residual diffusion head if it was timed."""
    stages = _mapping(parts.get("stages", {}), f"{where}: stages")
    seconds = {_stage(stage, where): _number(s, f"{where}: {stage}") for stage, s in stages.items()}
    if parts.get(RESIDUAL) is not None:
        seconds[RESIDUAL] = _number(parts[RESIDUAL], f"{where}: {RESIDUAL}")
    return seconds


def _median(spread: object, name: str) -> Any:
    return _mapping(spread, f"seconds_per_image: {name}").get("median")


def _scaled(seconds: Mapping[str, float], factor: float) -> dict[str, float]:
    return {name: part_s * factor for name, part_s in seconds.items()}


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected an object, found a {type(value).__name__}")
    return value


def _stage(name: object, where: str) -> str:
    if not (isinstance(name, str) and name.isascii() and name.isdigit() and len(name) <= 9):
        raise ValueError(f"{where}: expected a stage's token count, found {name!r:.40}")
    return name


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: expected a number, found a {type(value).__name__}")
    if not 0 <= value <= MAX_NUMBER:  # false for NaN
        raise ValueError(f"{where}: expected a number from 0, found {value!r:.40}")
    return value
