"""Measured bytes: allocations whose sizes are known."""

from __future__ import annotations

import pytest
import torch

from memsched.inductor.bytes.measure import measure_peak, trace_memory


def test_peak_and_rest_of_a_call_with_known_sizes() -> None:
    """1000 and 3000 bytes live together, the first is freed, 2000 more follow; the caller keeps the 3000."""

    def call() -> torch.Tensor:
        first = torch.empty(1000, dtype=torch.uint8)
        second = torch.empty(3000, dtype=torch.uint8)
        del first
        torch.empty(500, dtype=torch.uint8)
        return second

    trace = trace_memory(call)
    assert trace.peak == 4000
    assert trace.retained == 3000
    assert trace.live_bytes == (1000, 4000, 3000, 3500, 3000)
    assert list(trace.seconds) == sorted(trace.seconds)


def test_a_matrix_product_and_its_gradients() -> None:
    """Backward of (x @ w).sum() with x constant: the product, the scalar, its gradient, and 400 bytes of dw."""
    x, w = torch.ones(10, 10), torch.ones(10, 10, requires_grad=True)

    def step() -> None:
        w.grad = None
        (x @ w).sum().backward()

    step()
    w.grad = None
    trace = trace_memory(step)
    assert trace.retained == 400
    assert trace.peak == measure_peak(lambda: (setattr(w, "grad", None), step())) + trace.retained


@pytest.mark.parametrize(("device", "fault"), [("tpu", "unknown device"), ("cuda", "no GPU")])
def test_devices_that_cannot_be_measured(device: str, fault: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=fault):
        measure_peak(lambda: None, device)
