"""Whether a compiled model has eager's gradients, where single precision alone cannot tell.

A difference from eager's gradients, relative to their largest entry, of

- at most 1e-3 is rounding;
- at most a tenth is rounding if they are at most three times as far from gradients in double precision as eager's are,
  or if the same model, compiled in double precision, agrees with eager's there: a ReLU whose input is so near to zero
  that rounding decides its side, of which a large convolutional net has some;
- more is wrong.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

from torch import Tensor, nn

from bench.models import Workload
from bench.run.step import clear_gradients, compare_gradients

__all__ = ["check_gradients"]

_ROUNDING = 1e-3
_ROUNDING_IN_DOUBLE = 1e-9
_MOST = 0.1
_TIMES_EAGER = 3

Compile = Callable[[nn.Module], Callable[..., Tensor]]


def check_gradients(model: nn.Module, reference: nn.Module, workload: Workload, compile_model: Compile) -> float:
    """The largest difference of a gradient from eager's (`reference`), relative as in `compare_gradients`.

    compile_model: compiles another copy as `model` was compiled; called where only double precision can tell.

    Raises:
        AssertionError: it is more than rounding.
    """
    difference = compare_gradients(model, reference, math.inf)
    if difference <= _ROUNDING:
        return difference
    exact = copy.deepcopy(workload.model).double()
    again = copy.deepcopy(exact)
    batch = [x.double() if x.is_floating_point() else x for x in workload.batch]
    clear_gradients(exact)
    exact(*batch).backward()
    own, eager = (compare_gradients(each, exact, math.inf) for each in (model, reference))
    if not own <= _MOST:
        raise AssertionError(f"gradients are {own:.1e} from those in double precision, eager's {eager:.1e}")
    if own > _TIMES_EAGER * eager:
        compile_model(again)(*batch).backward()  # type: ignore[no-untyped-call]
        compare_gradients(again, exact, _ROUNDING_IN_DOUBLE)
    return difference
