"""Exact bytes of a compiled graph without compiling it: Inductor's generated wrapper, run with fake tensors.

Inductor ends in a Python module whose `call(args)` allocates buffers, launches kernels and deletes names.  What that
module allocates and frees is what the allocator will see, so it is the oracle for every model of memory:

    buf0 = empty_strided_cpu((64, 64), (64, 1), torch.float32)      + 16,384 bytes
    cpp_fused_add_0(arg0_1, buf0)                                     a stub: does nothing
    del arg0_1                                                        - its bytes, unless the caller holds it too
    buf1 = buf0; del buf0  # reuse                                    the same storage
    buf2 = torch.ops.aten.sort.default(buf1)                          fake tensors: + the bytes of the results
    return (buf1, buf2[0])

The module is executed as it is; kernels, allocators and what needs a device are replaced (`wrapper_module`).  A storage
is live for as long as anything in the wrapper, or whoever handed it in, refers to it: a weak reference to each tells.
So reuse, aliases, donated inputs and deletion are Python's own, not modelled.  What is not seen: scratch memory inside
of a kernel or of an operator, and fragmentation.

Sizes are bytes, rounded up per storage to `alignment` (CPU: 1, the CUDA caching allocator: 512).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memsched.inductor.bytes.wrapper_module import FILE, load, replacements

__all__ = ["Replay", "WrapperInput", "replay_wrapper"]


@dataclass(frozen=True, slots=True)
class WrapperInput:
    """A tensor that is handed to `call`; strides and offset in elements.

    held: the caller keeps it alive over the call: parameters, batches, tangents; not saved activations.
    storage: inputs with the same number are views of one storage; None: a storage of its own.
    storage_bytes: the size of that storage; at least what the view reaches.
    """

    name: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: str
    held: bool = True
    storage: int | None = None
    storage_bytes: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Replay:
    """Live bytes of one call, above those that are live when it begins (its inputs).

    peak: the most that is live at once, 0 or more; bytes.
    retained: what is live after the call: its results, less the inputs that it freed; bytes, may be negative.
    entry: bytes of the inputs.
    freed: bytes of the inputs that are freed when the peak is reached; results: bytes of those results that are live
        then.  The rest of the peak, `peak + freed - results`, is of tensors that come and go.
    curve: the live bytes after each allocation and each run of frees; bytes above entry.
    lines: the line of the wrapper that each entry of `curve` belongs to.
    """

    peak: int
    retained: int
    entry: int
    curve: tuple[int, ...]
    lines: tuple[int, ...]
    freed: int = 0
    results: int = 0


def replay_wrapper(
    source: str,
    inputs: Sequence[WrapperInput | int | float],
    constants: Mapping[str, Any] | None = None,
    alignment: int = 1,
    fake_mode: FakeTensorMode | None = None,
) -> Replay:
    """Run the wrapper `source` on fake tensors and count.

    inputs: one per argument of `call`, in order; sizes that the wrapper takes as arguments are numbers.
    constants: attributes that Inductor would set on the module (`GraphLowering.constants`).
    alignment: each storage takes a multiple of this many bytes; above 1 it is a GPU's allocator, and what lies in the
        memory of the host, such as a state of its random generator, does not count.
    fake_mode: the mode to run under, if symbolic sizes or a pretended device need one of their own.

    Raises:
        ValueError: the source has no `call`.
        Exception: whatever the wrapper raises, when an operator in it has no fake implementation.
    """
    live = _LiveStorages(alignment)
    namespace = load(source)
    if "call" not in namespace:
        raise ValueError("the wrapper defines no call(args)")
    namespace.update(replacements(namespace.get("torch", torch)))
    namespace.update(constants or {})
    with fake_mode or FakeTensorMode(allow_non_fake_inputs=True):
        arguments, held = _make_inputs(inputs)
        entry = live.begin(arguments)
        with _Counting(live):
            results = namespace["call"](arguments)  # boxed: it empties the list
            live.sweep(_wrapper_line())
        del results, held
    curve = tuple(point - entry for point in live.curve)
    peak = max([0, *curve])
    freed, results = live.parts_at(curve.index(peak) if peak else -1)
    return Replay(peak, live.bytes - entry, entry, curve, tuple(live.lines), freed, results)


class _LiveStorages:
    """The storages that somebody refers to, with the bytes of all of them over time."""

    def __init__(self, alignment: int) -> None:
        self.alignment = alignment
        self.bytes = 0
        self.curve: list[int] = []
        self.lines: list[int] = []
        self._known: dict[int, tuple[StorageWeakRef, int, int]] = {}
        self._dead: list[tuple[int, int, int]] = []

    def add(self, tensor: Any, line: int) -> None:
        """Count the storage of `tensor`, if it is one and its storage is new."""
        if not isinstance(tensor, Tensor) or tensor.device.type == "meta":
            return
        if tensor.device.type == "cpu" and self.alignment > 1:
            return
        self.sweep(line)
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        size = -(-storage.nbytes() // self.alignment) * self.alignment
        self._known[storage._cdata] = StorageWeakRef(storage), size, len(self.curve)
        self._step(size, line)

    def begin(self, inputs: Sequence[Any]) -> int:
        """Count the inputs, begin the curve after them, and return their bytes."""
        for one in inputs:
            self.add(one, 0)
        self.curve.clear()
        self.lines.clear()
        self._known = {key: (reference, size, -1) for key, (reference, size, _) in self._known.items()}
        return self.bytes

    def sweep(self, line: int) -> None:
        """Forget the storages that nobody refers to any more."""
        gone = [key for key, (reference, _, _) in self._known.items() if reference.expired()]
        dead = [(size, born, len(self.curve)) for _, size, born in map(self._known.pop, gone)]
        self._dead += dead
        if any(size for size, _, _ in dead):
            self._step(-sum(size for size, _, _ in dead), line)

    def parts_at(self, step: int) -> tuple[int, int]:
        """After entry `step` of the curve: the inputs that are freed, and what is live and stays so; bytes."""
        freed = sum(size for size, born, died in self._dead if born < 0 and died <= step)
        results = sum(size for _, size, born in self._known.values() if 0 <= born <= step)
        return freed, results

    def _step(self, change: int, line: int) -> None:
        self.bytes += change
        self.curve.append(self.bytes)
        self.lines.append(line)


class _Counting(TorchDispatchMode):  # type: ignore[misc]
    """Counts the storage of whatever an operator of the wrapper returns; what it uses inside is not seen."""

    supports_higher_order_operators = True

    def __init__(self, live: _LiveStorages) -> None:
        super().__init__()
        self.live = live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            self.live.add(result, _wrapper_line())
        return results


def _make_inputs(inputs: Sequence[WrapperInput | int | float]) -> tuple[list[Any], list[Tensor]]:
    """The arguments of `call`, and those of them that the caller holds."""
    storages: dict[int, Tensor] = {}
    arguments: list[Any] = []
    held: list[Tensor] = []
    for one in inputs:
        if not isinstance(one, WrapperInput):
            arguments.append(one)
            continue
        argument = _make_input(one, storages)
        arguments.append(argument)
        if one.held:
            held.append(argument)
    return arguments, held


def _make_input(one: WrapperInput, storages: dict[int, Tensor]) -> Tensor:
    if one.storage is None:
        return torch.empty_strided(one.size, one.stride, dtype=one.dtype, device=one.device)
    base = storages.get(one.storage)
    if base is None:
        base = torch.empty(one.storage_bytes, dtype=torch.uint8, device=one.device)
        storages[one.storage] = base
    count = one.storage_bytes // one.dtype.itemsize
    flat = base[: count * one.dtype.itemsize].view(one.dtype)
    return torch.as_strided(flat, one.size, one.stride, one.offset)


def _wrapper_line() -> int:
    """The line of the wrapper that is running; 0 outside of it."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == FILE:
            return frame.f_lineno
        frame = frame.f_back
    return 0
