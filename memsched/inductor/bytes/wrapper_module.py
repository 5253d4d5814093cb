"""A generated wrapper as a module that runs without a device: what it defines, and what stands for the rest.

The source is executed as it is, but for four kinds of names: kernels (Triton, C++), allocators (`empty_strided_*`),
`reinterpret_tensor`, and what needs a device to run on (guards, streams).  An import that fails gives a stub:

    from torch._C import _cuda_getCurrentRawStream as get_raw_stream       not there without CUDA: a stub
    async_compile = AsyncCompile()                                         left out: ours defines kernels as stubs
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["FILE", "load", "replacements"]

FILE = "<generated wrapper>"
"""The name under which a wrapper is compiled: frames of this file are its lines."""


class _Stub:
    """A kernel, a stream, a module that is not there: every attribute and every call of it is another stub."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> _Stub:
        return self

    def __getattr__(self, name: str) -> _Stub:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __enter__(self) -> _Stub:
        return self

    def __exit__(self, *_: object) -> None: ...


class _TorchWithoutDevice:
    """`torch`, except that entering a device or a stream does nothing, and neither does an event, for which the
    wrapper waits behind a copy to the host."""

    def __init__(self, torch_module: Any) -> None:
        self._torch = torch_module
        self.cuda = self.xpu = self.Event = _Stub()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)


class _ExternKernels:
    """The extern kernels: those that are told where to write allocate nothing, the others run on fake tensors."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        from torch._inductor.select_algorithm import extern_kernels

        def run(*args: Any, **kwargs: Any) -> Any:
            if "out" in kwargs:
                return kwargs["out"]
            return getattr(extern_kernels, name)(*args, **kwargs)

        return run


def load(source: str) -> dict[str, Any]:
    """The namespace of the wrapper's module, with stubs for kernels and for what cannot be imported here."""
    tree = ast.parse(source, FILE)
    tree.body = list(_prepared(tree.body))
    ast.fix_missing_locations(tree)
    # __main__ guards must not run, and kernels are defined through `async_compile`, which the module would create.
    namespace: dict[str, Any] = {"__name__": "memsched_replay", "__file__": FILE, "async_compile": _Stub()}
    namespace["_stub"] = _Stub()
    exec(compile(tree, FILE, "exec"), namespace)
    return namespace


def _prepared(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of the module: imports may fail, and `async_compile` stays ours."""
    for statement in statements:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield _try_import(statement)
        elif isinstance(statement, ast.Delete) and _names(statement.targets) == ["async_compile"]:
            continue
        elif not (isinstance(statement, ast.Assign) and _names(statement.targets) == ["async_compile"]):
            yield statement


def _names(targets: Sequence[ast.expr]) -> list[str]:
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _try_import(statement: ast.Import | ast.ImportFrom) -> ast.stmt:
    """`statement`, with a stub under each of its names where it fails: Triton, raw streams of another device."""
    names = [(alias.asname or alias.name).split(".")[0] for alias in statement.names]
    stubs = ast.parse("".join(f"{name} = _stub\n" for name in names)).body
    failed = ast.Tuple([ast.Name("ImportError", ast.Load()), ast.Name("AttributeError", ast.Load())], ast.Load())
    attempt = ast.Try([statement], [ast.ExceptHandler(failed, None, stubs)], [], [])
    return ast.copy_location(attempt, statement)


def replacements(torch_module: Any) -> dict[str, Any]:
    """The names of the module that may not be what they are in a real run."""

    def allocate(device: str) -> Callable[..., Tensor]:
        return lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype, device=device)

    def reinterpret(tensor: Tensor, size: Any, stride: Any, offset: int = 0) -> Tensor:
        return torch.as_strided(tensor, size, stride, tensor.storage_offset() + offset)

    def nothing(*_: Any, **__: Any) -> int:
        return 0

    def same(tensor: Tensor, *_: Any) -> Tensor:
        return tensor

    return {
        "torch": _TorchWithoutDevice(torch_module),
        "empty_strided_cpu": allocate("cpu"),
        "empty_strided_cpu_pinned": allocate("cpu"),
        "empty_strided_cuda": allocate("cuda"),
        "empty_strided_xpu": allocate("xpu"),
        "reinterpret_tensor": reinterpret,
        "assert_size_stride": nothing,
        "assert_alignment": nothing,
        "get_raw_stream": nothing,
        "copy_if_misaligned": same,
        "extern_kernels": _ExternKernels(),
    }
