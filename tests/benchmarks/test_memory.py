"""Peak memory per path, in processes of their own."""

from __future__ import annotations

import json

import pytest

from benchmarks.memory import main, markdown


@pytest.mark.slow
def test_every_path_is_measured_by_itself(tmp_path, capsys):
    output = tmp_path / "memory.json"
    names = ["as published", "no-cache"]
    assert main(["--shape", "tiny", "--only", *names, "--quiet", "--output", str(output)]) == 0
    paths = json.loads(output.read_text())["paths"]
    assert list(paths) == names
    assert all(2**26 < path["peak_bytes"] < 2**33 for path in paths.values())
    assert "| no-cache |" in capsys.readouterr().out


def test_the_table_compares_with_both_baselines():
    def found(gib: int) -> dict:
        return {"peak_bytes": gib << 30, "seconds": {"total": 10.0 * gib, "transformer": 5.0}}

    every = {"as published": found(4), "no-cache": found(2), "original, ceiling": found(3)}
    assert "| original, ceiling | 3.00 GiB | 1.50 | 0.75 | 30.0 | 5.0 |" in markdown(every)
    alone = markdown({"no-cache": found(1)})
    assert alone.endswith("| no-cache | 1.00 GiB | 1.00 |  | 10.0 | 5.0 |\n")
