"""A failure is told in one line, whatever the error's message looks like; telling it must never fail itself."""

from __future__ import annotations

import logging

import pytest
import torch
from torch._inductor.utils import fresh_cache

from memsched.inductor.failures import reason_of


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("buf3"), "KeyError: 'buf3'"),
        (ValueError("wrong\n  while tracing"), "ValueError: wrong"),
        (ValueError("\n\nwrong"), "ValueError: wrong"),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError("x" * 5000), "RuntimeError: " + "x" * 286),
    ],
)
def test_an_error_in_one_line(error: Exception, line: str) -> None:
    assert reason_of(error) == line


def test_a_graph_on_several_streams_is_left_to_stock_by_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What runs beside each other has no order whose peak could be planned.  A cache brings the words along."""
    monkeypatch.setattr("memsched.inductor.session.num_streams", lambda: 2)
    x = torch.randn(8, 8)
    with fresh_cache(), caplog.at_level(logging.WARNING, logger="memsched"):
        for where in ("left to stock Inductor (", "comes from a cache, left to stock Inductor ("):
            caplog.clear()
            torch._dynamo.reset()
            result = torch.compile(lambda x: (x @ x).sin() @ x, backend="memsched")(x)
            torch.testing.assert_close(result, (x @ x).sin() @ x)
            assert len(caplog.records) == 1
            assert where in caplog.text
            assert "2 streams" in caplog.text
    torch._dynamo.reset()
