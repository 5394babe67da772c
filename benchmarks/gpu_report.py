"""The report of :mod:`benchmarks.gpu_session` as a page of Markdown."""

from __future__ import annotations

from typing import Any

from hart.evaluation.comparison_report import table_lines

PARTS = ("text", "transformer", "residual", "decode")


def markdown(report: dict[str, Any]) -> str:
    """What was found, in as few lines as say it; the table of pictures comes last."""
    steps = report["steps"]
    name = steps.get("versions", {}).get("name", report["device"])
    out = [f"{report['shape']}, {report['dtype']}, {name}, {report['date']}", "", *_status(steps)]
    for step, lines in (("ceilings", _ceilings), ("truth", _truth), ("table", _pictures)):
        found = steps.get(step, {})
        if found.get("status") == "ok":
            out += ["", *lines(found)]
    return "\n".join(out) + "\n"


def _status(steps: dict[str, Any]) -> list[str]:
    rows = [
        (name, found["status"], f"{found.get('took_s', 0):.1f}", found.get("why", _gist(found)))
        for name, found in steps.items()
    ]
    return table_lines(("step", "", "seconds", ""), rows)


def _gist(found: dict[str, Any]) -> str:
    """One cell about a step that has no table of its own."""
    if "exit_code" in found:
        return found["last_lines"][-1] if found["last_lines"] else "no output"
    if "engine" in found:
        return f"{found['engine']['count']} waits with an engine, {found['plain']['count']} without"
    if "largest_difference" in found:
        eager, other = (v["best_ms"] for v in found.values() if isinstance(v, dict))
        return f"{eager:.1f} to {other:.1f} ms, off by {found['largest_difference']:.2g}"
    if "launches" in found:
        return f"{found['launches']} launches"
    if "ms" in found:
        best = min(found["ms"], key=found["ms"].__getitem__)
        return f"quickest is {best}, {found['ms'][best]:.1f} ms; chosen {found['chosen']}"
    return ""


def _ceilings(found: dict[str, Any]) -> list[str]:
    rows = [
        ("copy", f"{found['copy_bytes_per_s'] / 1e12:.2f} TB/s"),
        ("product", f"{found['product_flops'] / 1e12:.1f} TFLOP/s"),
    ]
    for length, kernels in found["attention"].items():
        for name, rate in kernels.items():
            text = rate[:60] if isinstance(rate, str) else f"{rate['flops'] / 1e12:.1f} TFLOP/s"
            rows.append((f"attention at {length}, {name}", text))
    for layout, rate in found["convolution"].items():
        rows.append((f"convolution, {layout}", f"{rate['flops'] / 1e12:.1f} TFLOP/s"))
    return table_lines(("ceiling", "rate"), rows)


def _truth(found: dict[str, Any]) -> list[str]:
    rows = [
        (str(s["tokens"]), f"{s['relative_error']:.2g}", f"{s['largest']:.3g}", str(s["finite"]))
        for s in found["stages"]
    ]
    off = ", ".join(
        f"{most['most']:.2g} in a batch of {n}" for n, most in found["first_of_batch"].items()
    )
    said = (
        f"The same call twice: equal {found['same_call_twice_equal']}; a picture is off by {off}."
    )
    return [*table_lines(("tokens", "error", "largest", "finite"), rows), "", said]


def _pictures(found: dict[str, Any]) -> list[str]:
    out = []
    for batch_size, batch in found["batches"].items():
        paths, rows = batch["paths"], []
        for name, path in paths.items():
            seconds = path["median_s"]
            over = [
                f"{paths[base]['median_s']['total'] / seconds['total']:.2f}"
                if base in paths
                else ""
                for base in (found["reference"], found["published"])
            ]
            times = [f"{1000 * seconds[part]:.1f}" for part in ("total", *PARTS)]
            peak = f"{path['peak_bytes'] / 2**30:.2f}"
            rows.append((name, *times, f"{1000 * path['limit_s']:.1f}", *over, peak))
        rows += [(name, why, *[""] * 8) for name, why in batch["failed"].items()]
        titles = ("path", "ms", *PARTS, "limit", "over no-cache", "over published", "peak GiB")
        out += [f"Batch {batch_size}, per image, median of {batch['rounds']}", ""]
        out += [*table_lines(titles, rows), ""]
    return out
