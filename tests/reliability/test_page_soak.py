"""The soak of the page, here with few requests: nothing piles up, and it would see it."""

from __future__ import annotations

import pytest

from benchmarks import page_soak
from benchmarks.page_soak import PERIOD, PageError, Visitor, drawing, growth, run, tiny_page


@pytest.mark.slow
def test_many_visitors_leave_nothing_behind(tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    pytest.importorskip("skimage")
    monkeypatch.setattr(page_soak, "KEPT", 2)
    with tiny_page(tmp_path) as (address, _):
        memory = run(address, 3, quiet=True)
        assert len(memory) == 3
        assert len(list(tmp_path.iterdir())) == 2
        with pytest.raises(PageError, match="422"):
            Visitor(address).call(Visitor(address).function("draw-button"), [])
        with monkeypatch.context() as broken:
            broken.setattr(page_soak, "drawing", lambda number: ["", *drawing(number)[1:]])
            with pytest.raises(PageError, match="request 0"):
                run(address, 1, quiet=True)


def test_growth_is_that_after_the_first_requests():
    memory = [1000] * PERIOD + [1100] * PERIOD + [1122] * PERIOD
    assert growth(memory, 2 * PERIOD)["growth"] == pytest.approx(0.02)
    assert growth(memory, PERIOD)["growth"] == pytest.approx(0.122)
