"""Scratch memory of a library operator on CPU, measured: the operator is called once, on zeros, before it is planned.

oneDNN chooses an implementation by shape, type and processor, and each takes scratch memory by rules of its own, which
no table follows: a product of 512 x 512 in bfloat16 takes 529,408 bytes, one of 1,024 x 1,024 1,053,696, and the same
with its second factor transposed 698,112 and 1,484,672.

    shapes, strides, types, constants ──> call on zeros, in a thread of its own ──> peak, less results: the workspace

The thread has none of the compile's modes (fake tensors, autocast, gradients, a profiler of the user's), and PyTorch's
profiler of one thread counts its allocations in a millisecond.  Each call is measured once in a process.  It is made
only where it costs next to nothing: `_MOST_MULTIPLICATIONS` and `_MOST_BYTES`; for larger ones the table of
`memsched.inductor.storages.workspaces` has to do.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._inductor import ir
from torch.utils._pytree import tree_leaves, tree_map_only

from memsched.inductor.compat import MemoryOfThread

__all__ = ["LibraryCall", "Operand", "library_call", "measured_workspace"]

_log = logging.getLogger("memsched")

_MOST_MULTIPLICATIONS = 2**31
"""Multiplications of a call that is made: a tenth of a second on two cores."""
_MOST_BYTES = 2**28
"""Bytes of its operands; the graph holds as many when it gets there."""

_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
_CONVOLUTIONS = {"convolution", "convolution_backward"}
_ATTENTION = {
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
}


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that an operator reads: sizes and strides in elements."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def elements(self) -> int:
        return math.prod(self.size)

    @property
    def bytes(self) -> int:
        """What it takes when dense."""
        return self.elements * int(self.dtype.itemsize)

    @property
    def channels_last(self) -> bool:
        """Whether its channels, dimension 1, lie next to each other."""
        return self.stride[1] == 1

    def zeros(self) -> torch.Tensor:
        """A tensor that lies like this one."""
        last = sum((size - 1) * stride for size, stride in zip(self.size, self.stride, strict=True))
        return torch.zeros(last + 1, dtype=self.dtype).as_strided(self.size, self.stride)


@dataclass(frozen=True, slots=True)
class LibraryCall:
    """One call of an operator: arguments by position, then by name in the order of its schema; operands are tensors."""

    operator: torch._ops.OpOverload
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """That of the operator, whatever its overload: "convolution_backward"."""
        return str(self.operator.overloadpacket.__name__)

    @property
    def operands(self) -> list[Operand]:
        """The tensors that it reads, in the order of the arguments."""
        return [leaf for leaf in self._leaves() if isinstance(leaf, Operand)]

    @property
    def constants(self) -> list[Any]:
        """What else it is given, flat."""
        return [leaf for leaf in self._leaves() if not isinstance(leaf, Operand)]

    def _leaves(self) -> list[Any]:
        return list(tree_leaves((self.arguments, [value for _, value in self.keywords])))


def library_call(kernel: ir.ExternKernel) -> LibraryCall | None:
    """The call that `kernel` stands for; None for one of an unknown shape or of arguments of another kind.

    An operator that writes its result into a tensor that it is given is called without: what it allocates is the same.
    """
    overload = kernel.op_overload
    if not isinstance(overload, torch._ops.OpOverload):
        return None
    operator = overload.overloadpacket.default if overload._overloadname == "out" else overload
    if isinstance(kernel, ir.FallbackKernel):
        arguments, keywords = kernel.unflatten_args(kernel.inputs, kernel.constant_args)
    else:
        arguments, keywords = (*kernel.inputs, *kernel.constant_args), kernel.kwargs
    try:
        frozen = tuple(map(_frozen, arguments))
        names = [argument.name for argument in operator._schema.arguments if argument.name in keywords]
        if len(names) < len(keywords):
            return None
        named = tuple((name, _frozen(keywords[name])) for name in names)
    except _Unknown:
        return None
    return LibraryCall(operator, frozen, named)


class _Unknown(Exception):
    """An argument that no call can be made of."""


def _frozen(argument: Any) -> Any:
    """`argument` as a value that can be compared; raises _Unknown."""
    if isinstance(argument, list | tuple):
        return tuple(map(_frozen, argument))
    if argument is None or isinstance(argument, bool | int | float | str | torch.dtype):
        return argument
    if isinstance(argument, ir.IRNode):
        layout = argument.maybe_get_layout()
        if isinstance(layout, ir.Layout):
            return Operand(_numbers(layout.size), _numbers(layout.stride), layout.dtype)
    if getattr(argument, "is_number", False):
        return int(argument) if argument.is_integer else float(argument)
    raise _Unknown


def _numbers(sizes: Sequence[Any]) -> tuple[int, ...]:
    if not all(getattr(size, "is_number", isinstance(size, int)) for size in sizes):
        raise _Unknown
    return tuple(int(size) for size in sizes)


def measured_workspace(call: LibraryCall) -> int | None:
    """Bytes that `call` allocates above its results, at its worst moment; None if it was not made, or failed."""
    if not MemoryOfThread.EXISTS or not _is_cheap(call):
        return None
    return _measured(call, torch.get_num_threads(), torch.get_float32_matmul_precision())


def _is_cheap(call: LibraryCall) -> bool:
    operands = call.operands
    if not operands or sum(operand.bytes for operand in operands) > _MOST_BYTES:
        return False
    return _multiplications(call.name, operands) <= _MOST_MULTIPLICATIONS


def _multiplications(name: str, operands: Sequence[Operand]) -> float:
    """Multiplications of a call, or a little more; infinite for an operator that is not called."""
    if name in _PRODUCTS:
        left, right = operands[-2:]
        return left.elements * right.size[-1]
    if name in _CONVOLUTIONS:
        images, weights = operands[-2:] if name == "convolution_backward" else operands[:2]
        return images.elements // images.size[1] * weights.elements * (2 if name == "convolution_backward" else 1)
    if name in _ATTENTION:
        backward = name.endswith("backward")
        query, key = operands[1:3] if backward else operands[:2]
        return query.elements * key.size[-2] * (5 if backward else 2)
    return math.inf


@functools.cache
def _measured(call: LibraryCall, threads: int, precision: str) -> int | None:
    """threads, precision: what the implementation is chosen by, besides the call."""
    found: list[int] = []

    def measure() -> None:
        try:
            with torch.no_grad():
                found.append(_bytes_beyond_results(call))
        except Exception as error:
            _log.debug("the workspace of %s was not measured: %s", call.name, error)

    thread = threading.Thread(target=measure, name="memsched workspace")
    thread.start()
    thread.join()
    return found[0] if found else None


def _bytes_beyond_results(call: LibraryCall) -> int:
    arguments: Sequence[Any] = tree_map_only(Operand, Operand.zeros, call.arguments)
    keywords: Mapping[str, Any] = tree_map_only(Operand, Operand.zeros, dict(call.keywords))
    with MemoryOfThread() as memory:
        results = call.operator(*arguments, **keywords)
    kept = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tree_leaves(results)
        if isinstance(tensor, torch.Tensor)
    }
    return max(0, memory.peak - sum(map(int, kept.values())))
