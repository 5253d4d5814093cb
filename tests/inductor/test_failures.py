"""A failure is told in one line, whatever the error's message looks like; telling it must never fail itself."""

from __future__ import annotations

import pytest

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
