"""The private names of PyTorch that memsched relies on, each with the parameters or fields that it uses.

    Needs("torch/_inductor/compile_fx.py", "_CompileFxKwargs", fields=("is_backward", ...), feature="train_step")

A name is listed where it is defined.  `memsched.contract.check` reads it out of sources, without importing anything,
so the same table holds for the installed torch (a test) and for every release (`make contract`).  Where releases
differ, `memsched.inductor.compat` asks for the feature, and the entry has the alternatives.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONTRACT", "Needs"]


@dataclass(frozen=True, slots=True)
class Needs:
    """One name.

    path: of the file in torch's wheel; name: a function, class or variable at its top level, or `Class.method`.
    parameters: of a function that memsched passes by name or position, in any order.
    fields: attributes that the class has: annotated, assigned, set on `self`, or methods.
    feature: what does not work without it.
    alternatives: other names of the same file that would do.
    """

    path: str
    name: str
    parameters: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    feature: str = "planning"
    alternatives: tuple[str, ...] = ()


_INDUCTOR = "torch/_inductor"
_FX = f"{_INDUCTOR}/compile_fx.py"
_SCHEDULER = f"{_INDUCTOR}/scheduler.py"
_MEMORY = f"{_INDUCTOR}/memory.py"
_IR = f"{_INDUCTOR}/ir.py"
_WRAPPER = f"{_INDUCTOR}/codegen/wrapper.py"
_CPP = f"{_INDUCTOR}/codegen/cpp.py"
_CONFIG = f"{_INDUCTOR}/config.py"

CONTRACT: tuple[Needs, ...] = (
    # what waits on the host
    Needs(
        "torch/_functorch/_activation_offloading/activation_offloading.py",
        "enable_activation_offloading",
        ("fwd_module", "bwd_module", "num_fwd_outputs", "static_lifetime_input_nodes"),
        feature="offload",
    ),
    Needs("torch/_functorch/config.py", "activation_offload_separate_stream", feature="offload"),
    # how a graph is compiled
    Needs(_FX, "compile_fx", ("model_", "example_inputs_", "inner_compile", "config_patches")),
    Needs(_FX, "compile_fx_inner", ("gm", "example_inputs")),
    Needs(
        _FX,
        "_CompileFxKwargs",
        fields=("cudagraphs", "static_input_idxs", "is_backward", "graph_id", "is_inference"),
        feature="train_step",
    ),
    Needs(_FX, "_CompileFxKwargs", fields=("boxed_forward_device_index",), feature="train_step"),
    Needs(_FX, "_graph_counter", feature="train_step"),
    Needs(f"{_INDUCTOR}/utils.py", "BoxedBool", feature="train_step"),
    Needs(f"{_INDUCTOR}/cudagraph_utils.py", "BoxedDeviceIndex", feature="train_step"),
    Needs("torch/_guards.py", "TracingContext", fields=("output_strides", "try_get")),
    Needs("torch/_guards.py", "tracing", feature="train_step"),
    Needs("torch/_dynamo/exc.py", "RestartAnalysis"),
    Needs("torch/_guards.py", "CompileContext", fields=("current_compile_id",), feature="chunks of several sizes"),
    Needs("torch/_guards.py", "CompileId", fields=("frame_compile_id",), feature="chunks of several sizes"),
    Needs(
        "torch/_dynamo/config.py",
        "ignore_logging_functions",
        feature="train_step",
        alternatives=("ignore_logger_methods",),
    ),
    Needs("torch/_dynamo/config.py", "assume_static_by_default", feature="chunks of several sizes"),
    Needs(
        "torch/fx/experimental/symbolic_shapes.py",
        "ShapeEnv",
        fields=("tracked_fakes",),
        feature="chunks of several sizes",
    ),
    Needs(
        "torch/fx/experimental/symbolic_shapes.py",
        "Constraint",
        fields=("warn_only",),
        feature="chunks of several sizes",
    ),
    Needs("torch/_dynamo/eval_frame.py", "remove_from_cache", ("f",), feature="questions"),
    Needs("torch/_dynamo/compiled_autograd.py", "_disable", feature="train_step"),
    Needs(_CPP, "CppScheduling", fields=("can_fuse_vertical_outer_loop", "_get_outer_loop_fusion_depth")),
    Needs(_CPP, "TilingSelect.select_tiling", parameters=("fn_list", "var_sizes_list")),
    Needs(f"{_INDUCTOR}/codegen/common.py", "DataTypePropagation.propagate_loopbody", parameters=("body",)),
    Needs(f"{_INDUCTOR}/cpu_vec_isa.py", "pick_vec_isa"),
    # the hooks
    Needs(_CONFIG, "_pre_fusion_custom_pass"),
    Needs(_CONFIG, "_post_fusion_custom_pass"),
    Needs(_CONFIG, "inductor_choices_class"),
    Needs(_CONFIG, "reorder_for_peak_memory"),
    Needs(_CONFIG, "allow_buffer_reuse"),
    Needs(_CONFIG, "inplace_buffers"),
    Needs(_CONFIG, "post_grad_custom_post_pass", feature="rewrites"),
    Needs(_CONFIG, "pre_grad_custom_pass", feature="rewrites"),
    Needs(_CONFIG, "custom_partitioner_fn", feature="rewrites"),
    Needs(_CONFIG, "joint_custom_pre_pass", feature="fit"),
    Needs(f"{_INDUCTOR}/custom_graph_pass.py", "CustomPartitionerFn", fields=("uuid",), feature="rewrites"),
    Needs(f"{_INDUCTOR}/custom_graph_pass.py", "CustomGraphPass", fields=("uuid",)),
    Needs(
        f"{_INDUCTOR}/choices.py",
        "InductorChoices",
        fields=("can_fuse", "can_fuse_vertical", "can_fuse_horizontal"),
        feature="fusion",
    ),
    Needs(
        f"{_INDUCTOR}/choices.py",
        "InductorChoices.can_fuse",
        ("scheduler", "node1", "node2", "shared_data_score"),
        feature="fusion",
    ),
    Needs(
        f"{_INDUCTOR}/choices.py",
        "InductorChoices.can_fuse_vertical",
        ("scheduler", "node1", "node2", "shared_data_score"),
        feature="fusion",
    ),
    # the scheduler's nodes and buffers
    Needs(
        _SCHEDULER,
        "Scheduler",
        fields=(
            *("name_to_buf", "name_to_fused_node", "name_to_donated_buffer", "get_fused_node", "get_backend"),
            *("can_buffer_be_removed_through_fusion", "current_node", "nodes"),
        ),
    ),
    Needs(
        _SCHEDULER,
        "BaseSchedulerNode",
        fields=(
            *("get_name", "get_first_name", "get_nodes", "get_outputs", "get_buffer_names", "get_operation_names"),
            *("get_device", "unmet_dependencies", "ancestors", "min_order", "read_writes", "is_extern", "is_template"),
            *("used_or_aliased_buffer_names", "is_gpu"),
        ),
    ),
    Needs(_SCHEDULER, "SchedulerBuffer", fields=("node", "users", "defining_op", "get_name", "get_aliases")),
    Needs(_SCHEDULER, "NodeUser", fields=("node", "can_inplace", "is_weak")),
    Needs(_SCHEDULER, "NopKernelSchedulerNode"),
    Needs(_SCHEDULER, "fusion_log", feature="fusion"),
    Needs(_SCHEDULER, "Scheduler.can_fuse", ("node1", "node2"), feature="fusion"),
    Needs(
        _SCHEDULER,
        "Scheduler",
        fields=("score_fusion_memory", "can_fusion_increase_peak_memory", "get_possible_fusions"),
        feature="fusion",
    ),
    Needs(_SCHEDULER, "BaseScheduling", fields=("get_fusion_pair_priority",), feature="fusion"),
    Needs(_SCHEDULER, "FusedSchedulerNode"),
    Needs(_SCHEDULER, "ForeachKernelSchedulerNode"),
    Needs(_SCHEDULER, "BaseSchedulerNode.decide_inplace_update"),
    Needs(f"{_INDUCTOR}/dependencies.py", "WeakDep", fields=("name", "mutating_buf", "is_fake")),
    Needs(f"{_INDUCTOR}/dependencies.py", "MemoryDep", fields=("normalize",)),
    # the peak-memory estimate that planning is checked against, and stock's reorder
    Needs(
        _MEMORY,
        "prepare_planning_info",
        ("nodes", "name_to_buf", "name_to_fused_node", "graph_inputs", "graph_outputs"),
    ),
    Needs(
        _MEMORY,
        "reorder_for_peak_memory",
        ("nodes", "name_to_buf", "name_to_fused_node", "graph_inputs", "graph_outputs"),
    ),
    Needs(
        _MEMORY,
        "MemoryPlanningInfoForBuffer",
        fields=("size_alloc", "size_free", "succ_nodes", "succ_nodes_for_ordering"),
    ),
    # the memory model
    Needs(_IR, "NonOwningLayout", fields=("view",), feature="memory model"),
    Needs(_IR, "MultiOutputLayout", feature="memory model"),
    Needs(_IR, "MutationLayoutSHOULDREMOVE", feature="memory model"),
    Needs(_IR, "CommBufferLayout", feature="memory model"),
    Needs(_IR, "DonatedBuffer", feature="memory model"),
    Needs(_IR, "FallbackKernel", fields=("has_side_effects", "outputs"), feature="memory model"),
    Needs(_IR, "MultiOutput", feature="memory model"),
    Needs("torch/_higher_order_ops/auto_functionalize.py", "auto_functionalized_v2", feature="chunks"),
    Needs("torch/_C/_autograd.pyi", "_enable_profiler_legacy", ("config",), feature="measured workspaces"),
    Needs("torch/_C/_autograd.pyi", "_disable_profiler_legacy", feature="measured workspaces"),
    Needs("torch/_C/_profiler.pyi", "_ExperimentalConfig", feature="measured workspaces"),
    Needs(_IR, "FallbackKernel", fields=("unflatten_args",), feature="measured workspaces"),
    Needs(f"{_INDUCTOR}/inductor_prims.py", "force_stride_order", feature="rewrites"),
    Needs(f"{_INDUCTOR}/graph.py", "GraphLowering.decide_layout_opt", ("gm", "is_inference"), feature="rewrites"),
    # collectives
    Needs(_IR, "_WaitKernel"),
    Needs(f"{_INDUCTOR}/utils.py", "contains_collective", ("snode",)),
    Needs(_MEMORY, "assign_memory_planning_info_for_scheduler_buffers", ("nodes", "name_to_buf")),
    Needs(f"{_INDUCTOR}/comms.py", "reorder_compute_and_comm_for_overlap", ("snodes",)),
    Needs(f"{_INDUCTOR}/comms.py", "align_runtime_estimations_across_all_distributed_ranks", ("snodes",)),
    Needs(f"{_INDUCTOR}/config_comms.py", "runtime_estimations_align_across_all_distributed_ranks"),
    Needs(_CONFIG, "deterministic"),
    Needs(_CONFIG, "reorder_for_compute_comm_overlap"),
    Needs(_CONFIG, "reorder_for_compute_comm_overlap_passes"),
    Needs(
        f"{_INDUCTOR}/graph.py",
        "GraphLowering",
        fields=(
            *("graph_inputs", "graph_outputs", "example_inputs", "is_backward", "is_inference", "bw_donated_idxs"),
            *("never_reuse_buffers", "get_allocation_storage_size", "sizevars", "constants", "wrapper_code"),
            *("get_output_names", "graph_id", "has_feature"),
        ),
        feature="memory model",
    ),
    Needs(f"{_INDUCTOR}/sizevars.py", "SizeVarAllocator", fields=("optimization_hint",), feature="memory model"),
    Needs("torch/amp/grad_scaler.py", "GradScaler", fields=("_per_optimizer_states",), feature="train_step"),
    Needs("torch/utils/__init__.py", "swap_tensors", feature="fake tensors"),
    Needs(_WRAPPER, "can_match_buffer_size", feature="memory model"),
    Needs(_WRAPPER, "PythonWrapperCodegen", fields=("header",), feature="reports of cached graphs"),
    Needs(
        _CPP,
        "OuterLoopFusedSchedulerNode",
        fields=("outer_loop_fusion_depth", "get_outer_nodes"),
        feature="memory model",
    ),
    Needs(_CPP, "CppScheduling", fields=("ready_to_flush",), feature="groups of C++ kernels"),
    Needs(f"{_INDUCTOR}/graph.py", "GraphLowering._compile_to_module_lines", feature="wrappers without a compiler"),
    Needs("torch/_logging/_internal.py", "trace_structured", feature="artifacts for tlparse"),
)
