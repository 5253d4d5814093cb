"""A failure is told in one line, whatever the error's message looks like; telling it must never fail itself."""

from __future__ import annotations

import logging

import pytest
import torch

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
    """What runs beside each other has no order whose peak could be planned."""
    monkeypatch.setattr("memsched.inductor.session.num_streams", lambda: 2)
    x = torch.randn(8, 8)
    with caplog.at_level(logging.WARNING, logger="memsched"):
        result = torch.compile(lambda x: (x @ x).sin() @ x, backend="memsched")(x)
    torch.testing.assert_close(result, (x @ x).sin() @ x)
    assert "2 streams" in caplog.text
    torch._dynamo.reset()
