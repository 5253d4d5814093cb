"""Inductor's CUDA plan of a model, made on a machine that has no GPU, with the CPU build of PyTorch.

A training step for a GPU cannot be tried on a laptop, but everything that decides its memory happens before the GPU is
touched: tracing, the partition into forward and backward, lowering, fusion, order, and the wrapper that allocates and
frees.  Here that pipeline runs with fake tensors on "cuda", which have sizes and no storage, and stops where the
generated kernels would be compiled:

    parent process                                   worker process
    plan_cuda("train:step") ──── request ──────────> shim.cpp is loaded, then torch is imported   (environment, worker)
                                                     the model is built under fake tensors        (questions.fake_step)
                                                     "there is a GPU" where Inductor asks         (pretend)
                                                     compile_fx; each graph's plan, wrapper kept  (capture)
    StepPlan <────────────────── pickle ──────────── the wrapper executed with stub kernels: exact bytes (replay)

`plan_cuda` is a plan of one step in terms of `memsched.core`; `CudaWorker.call` runs any function in such a process.
What is needed beside torch 2.13 (CPU build): a C++ compiler, and triton's Python package, which `set_up` puts into a
folder of memsched's own (environment.py says why).  What is missing is told in one line; nothing is ever guessed.

The path leans on private names of PyTorch, so it refuses every version on which it was not verified, and nothing else
in memsched imports it.  Not seen: what only a device decides (autotuning, workspaces of cuDNN and cuBLAS, the
allocator's fragmentation).
"""

from __future__ import annotations

from memsched.inductor.cuda_without_gpu.client import CudaWorker, WorkerError, plan_cuda
from memsched.inductor.cuda_without_gpu.environment import CudaUnavailable, missing, set_up
from memsched.inductor.cuda_without_gpu.plans import PlannedGraph, StepPlan

__all__ = [
    "CudaUnavailable",
    "CudaWorker",
    "PlannedGraph",
    "StepPlan",
    "WorkerError",
    "missing",
    "plan_cuda",
    "set_up",
]
