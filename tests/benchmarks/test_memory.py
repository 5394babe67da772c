"""Peak memory per path, in processes of their own."""

from __future__ import annotations

import json

from benchmarks.memory import main, markdown


def test_every_path_is_measured_by_itself(tmp_path, capsys):
    output = tmp_path / "memory.json"
    names = ["as published", "no-cache"]
    assert main(["--shape", "tiny", "--only", *names, "--quiet", "--output", str(output)]) == 0
    peaks = json.loads(output.read_text())["peak_bytes"]
    assert list(peaks) == names
    assert all(2**26 < peak < 2**33 for peak in peaks.values())
    assert "| no-cache |" in capsys.readouterr().out


def test_the_table_compares_with_both_baselines():
    table = markdown({"as published": 4 << 30, "no-cache": 2 << 30, "original, ceiling": 3 << 30})
    assert "| original, ceiling | 3.00 GiB | 1.50 | 0.75 |" in table
    assert markdown({"no-cache": 1 << 30}).endswith("| no-cache | 1.00 GiB | 1.00 |  |\n")
