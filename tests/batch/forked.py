"""Scenarios that need processes of their own: some to die, some to work together.

``python -m tests.batch.forked FOLDER`` loads torch and a tiny checkpoint once and forks for every
process, and prints what happened as JSON. One thread only: a pool of threads is lost in a fork.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from pathlib import Path

import torch.distributed
from accelerate import debug_launcher

from hart.cli import loading
from hart.cli.main import main
from hart.pipeline import HARTPipeline
from tests.batch.batches import arguments, outcome, rows, write_prompts
from tests.pipeline.checkpoint_folder import make_checkpoint

REPLACE = os.replace


def in_a_fork(function, *args) -> int:
    """Run in a child; its exit code, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        os._exit(function(*args))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def draw(argv: list[str]) -> int:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    return main(argv)


def killed_at(moment: int, argv: list[str]) -> int:
    """Draw, and die by SIGKILL when a file has been written but not got its name."""
    count = 0

    def replace(*args, **kwargs):
        nonlocal count
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        REPLACE(*args, **kwargs)
        count += 1

    os.replace = replace
    return draw(argv)


def kill_everywhere(folder: Path, prompts: Path) -> list[dict]:
    """Die at every file that gets its name, and resume."""
    found = []
    while True:
        output = folder / f"killed-{len(found)}"
        argv = arguments(prompts, output, "--cache-preset", "original")
        died = in_a_fork(killed_at, len(found), argv)
        if died >= 0:
            return found
        records = (output / "records").glob("*x*.json")
        known = {row["index"] for file in records for row in json.loads(file.read_text())["rows"]}
        if (output / "results.jsonl").exists():
            known |= {row["index"] for row in rows(output)}
        code = in_a_fork(draw, argv)
        report = json.loads((output / "batch_report.json").read_text())
        entry = {"died": died, "recorded": len(known), "drawn_now": report["drawn_now"]}
        found.append({**entry, "code": code, **outcome(output)})


def launched(argv: list[str]) -> None:
    """What every process of several runs; the third line of the prompts is bad."""
    assert draw(argv) == (1 if torch.distributed.get_rank() == 0 else 0)


def lose_one(argv: list[str]) -> None:
    """What two processes run of which the second one dies before its first record."""
    if torch.distributed.get_rank() == 1:

        def replace(source, target):
            if Path(target).parent.name == "records":
                os.kill(os.getpid(), signal.SIGKILL)
            REPLACE(source, target)

        os.replace = replace
    launched(argv)


def together(folder: Path, prompts: Path, name: str, *more: object) -> list[dict]:
    """Draw with one, two and three processes; every time they calibrate anew."""
    found, table = [], folder / "checkpoint" / "llm" / "cache_similarity.json"
    for processes in (1, 2, 3):
        output = folder / f"{name}-{processes}"
        argv = arguments(prompts, output, *more)
        if processes == 1:
            in_a_fork(draw, argv)
        else:
            debug_launcher(launched, (argv,), processes)
        report = json.loads((output / "batch_report.json").read_text())
        entry = {"processes": report["processes"], **outcome(output)}
        found.append({**entry, "table": json.loads(table.read_text())})
        table.unlink()
    return found


def lose_a_process(folder: Path, prompts: Path) -> dict:
    """One of two processes dies and a picture is lost; what is said, and what three then do."""
    output = folder / "lost"
    argv = arguments(prompts, output, "--cache-preset", "original")
    said = ""
    try:
        debug_launcher(lose_one, (argv,), 2)
    except Exception as error:
        said = str(error)
    for file in sorted(output.glob("*.png"))[:1]:
        file.write_bytes(b"")
    debug_launcher(launched, (argv,), 3)
    report = json.loads((output / "batch_report.json").read_text())
    return {"said": said, "drawn_now": report["drawn_now"], **outcome(output)}


def main_scenarios(folder: Path) -> None:
    prompts = write_prompts(folder / "prompts.jsonl")
    pipeline = HARTPipeline.from_pretrained(make_checkpoint(folder / "checkpoint"), device="cpu")
    pipeline.calibrate(["a cat"], quiet=True)
    table = pipeline.model.save_similarity_data(folder / "checkpoint" / "llm" / "sim.json")
    pipeline.load_similarity(table)

    def loaded(args, say):
        pipeline.model.set_cache_config(args.cache_preset or "no-cache")
        pipeline.model.calibration = bool(args.calibration)
        return pipeline

    loading.read_pipeline = functools.wraps(loading.read_pipeline)(loaded)
    few = write_prompts(folder / "few.txt", ("a fox", "a cat", "an owl"))
    found = {
        "killed": kill_everywhere(folder, few),
        "calibrated": together(folder, prompts, "calibrated", "--calibration"),
        "lost": lose_a_process(folder, prompts),
    }
    in_a_fork(draw, arguments(few, folder / "few", "--cache-preset", "original"))
    found["few"] = outcome(folder / "few")
    in_a_fork(draw, arguments(prompts, folder / "whole", "--cache-preset", "original"))
    found["whole"] = outcome(folder / "whole")
    pipeline.similarity_path = None  # every run calibrates first
    found["drawn"] = together(folder, prompts, "drawn", "--cache-preset", "original")
    print(json.dumps(found))


if __name__ == "__main__":
    main_scenarios(Path(sys.argv[1]))
