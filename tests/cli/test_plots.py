"""``hart plot-similarity`` and ``hart plot-statistics``: from a file to a picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hart.modules.networks.caching.similarity_io import save_similarity
from hart.modules.networks.caching.stages import StageSchedule
from hart.pipeline import HARTPipeline
from tests.caching.similarity_files import DEPTH, HART_1024, filled

pytest.importorskip("matplotlib")

COUNTS = {"computed": 1, "reused": 1, "not_eligible": 0}
SITES = dict.fromkeys(("attn", "mlp"), COUNTS)


def table(name: str = "table.json", schedule: StageSchedule = HART_1024) -> str:
    save_similarity(name, filled(schedule), schedule)
    return name


def assert_picture(file: str) -> None:
    path = Path(file)
    if path.suffix == ".svg":
        assert path.read_text().startswith("<?xml")
        assert "</svg>" in path.read_text()[-10:]
    else:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300


@pytest.mark.parametrize("output", ["new/plot.png", "plot.svg"])
def test_similarity_as_png_and_svg(hart, output):
    code, said = hart("plot-similarity", table(), "--cache-preset", "original", "--output", output)
    assert (code, said) == (0, f"{output}\n")
    assert_picture(output)


def test_the_picture_lies_beside_the_file_unless_said_otherwise(hart):
    assert hart("plot-similarity", table()) == (0, "table.png\n")
    assert_picture("table.png")
    Path("run.json").write_text(json.dumps({"stages": {"1": SITES}}))
    assert hart("plot-statistics", "run.json") == (0, "run.png\n")
    assert_picture("run.png")


def test_flags_choose_what_is_marked(hart, monkeypatch):
    plans = []

    def note(stored, name, plan, plan_name):
        plans.append((plan, plan_name))
        raise ValueError("seen")

    monkeypatch.setattr("hart.cli.plots.plot_similarity", note)
    for flags in (
        [],
        ["--cache-preset", "aggressive"],
        ["--cache-preset", "original", "--cache-threshold", "0.05"],
        ["--cache-skip-stages", "4096", "--cache-cache-stages", "2304", "--cache-threshold", "0"],
    ):
        hart("plot-similarity", table(), *flags)
    none, preset, lower, own = (plan for plan, _ in plans)
    assert none is None
    assert preset.config.threshold == 0.6
    assert not preset.reuses_anything
    assert lower.reused("attn") == 2 * DEPTH  # similarities of 0.13 and 0.14
    assert own.reused("attn") == DEPTH
    assert [name for _, name in plans][1] == "preset aggressive"


def test_formats_without_stages_take_a_schedule(hart):
    table("short.pt", StageSchedule((1, 2, 3)))
    code, said = hart("plot-similarity", "short.pt")
    assert code == 2
    assert "found 2: name the stages" in said
    assert hart("plot-similarity", "short.pt", "--schedule", "1,2,3") == (0, "short.png\n")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["plot-similarity", "missing.json"], "missing.json"),
        (["plot-similarity", "bad.json"], "bad.json is not a usable .json similarity file"),
        (["plot-similarity", "table.json", "--output", "plot.pdf"], "found '.pdf'"),
        (["plot-similarity", "table.json", "--cache-threshold", "2"], "within [0, 1]"),
        (["plot-similarity", "table.json", "--schedule", "var-256"], "--schedule means"),
        (["plot-statistics", "missing.json"], "missing.json"),
        (["plot-statistics", "bad.json"], "bad.json: Expecting"),
        (["plot-statistics", "deep.json"], "deep.json: "),
        (["plot-statistics", "table.json"], "table.json: expected generation_results.json"),
        (["plot-statistics", "table.json", "--output", "plot"], "found 'no suffix'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(hart, argv, said):
    table()
    Path("bad.json").write_text("{")
    Path("deep.json").write_text("[" * 200_000)
    before = sorted(Path().iterdir())
    code, output = hart(*argv)
    assert code == 2
    assert said in output
    assert len(output.splitlines()) == 1
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("command", ["plot-similarity", "plot-statistics"])
def test_a_missing_matplotlib_is_one_line_that_names_the_extra(hart, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    table()
    Path("run.json").write_text(json.dumps({"stages": {"1": SITES}}))
    code, said = hart(command, "table.json" if command == "plot-similarity" else "run.json")
    assert code == 2
    assert 'pip install "hart[plots]"' in said
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_the_report_and_the_statistics_of_a_real_run_can_be_drawn(cli, hart):
    assert cli("--cache-preset", "original") == 0
    report = cli.output / "generation_results.json"
    assert hart("plot-statistics", report)[0] == 0
    assert_picture(report.with_suffix(".png"))
    pipeline = HARTPipeline.from_pretrained(
        cli.checkpoint, device="cpu", cache="original", system_prompt=""
    )
    statistics = pipeline("a red fox", quiet=True).statistics
    Path("statistics.json").write_text(json.dumps(statistics))
    assert hart("plot-statistics", "statistics.json")[0] == 0
    assert_picture("statistics.png")


@pytest.mark.slow
def test_drawing_needs_no_display_and_no_global_figures(tmp_path):
    table(tmp_path / "table.json")
    code = (
        "import sys; from hart.cli.main import main; "
        f"assert main(['plot-similarity', {str(tmp_path / 'table.json')!r}]) == 0; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {"PATH": "/usr/bin:/bin", "MPLBACKEND": "tkagg", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
