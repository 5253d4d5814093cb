"""Set-ups without a backward: decoding, prefill, images, frozen weights, exported programs."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from bench.settings.setting import Compile, Net, Setting, Step, inference, tokens

__all__ = ["SETTINGS"]


class _Decoder(nn.Module):
    """One token at a time, with a static cache of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.register_buffer("keys", torch.zeros(4, 4, 128, 16))
        self.register_buffer("values", torch.zeros(4, 4, 128, 16))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        query, key, value = self.qkv(x).view(4, 1, 3, 4, 16).permute(2, 0, 3, 1, 4)
        self.keys.index_copy_(2, position, key)
        self.values.index_copy_(2, position, value)
        mask = (torch.arange(128) <= position).expand(1, 128)
        mixed = functional.scaled_dot_product_attention(query, self.keys, self.values, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(4, 1, 64))


def _decode(compile: Compile) -> Step:
    return inference(compile(_Decoder()), (torch.randn(4, 1, 64), torch.tensor([5])))


def _prefill(compile: Compile) -> Step:
    return inference(compile(Net().eval()), tokens(2, 256))


def _inference_mode(compile: Compile) -> Step:
    return inference(compile(Net().eval()), tokens(), torch.inference_mode)


def _decoder_of_images(compile: Compile) -> Step:
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.SiLU()]
    model = nn.Sequential(*layers)
    return inference(compile(model), (torch.randn(2, 8, 16, 16),))


def _frozen(compile: Compile) -> Step:
    model = Net().eval()
    with torch._inductor.config.patch(freezing=True):
        compiled = compile(model)
        step = inference(compiled, tokens())
        step.run()
    return step


def _flex_attention(compile: Compile) -> Step:
    from torch.nn.attention.flex_attention import flex_attention

    def attend(query: Tensor) -> Tensor:
        def relative(score: Tensor, _batch: Tensor, _head: Tensor, row: Tensor, column: Tensor) -> Tensor:
            return score + (row - column)

        return flex_attention(query, query, query, score_mod=relative)

    return inference(compile(attend), (torch.randn(2, 4, 128, 16),))


def _exported(compile: Compile) -> Step:
    """A program that was exported first."""
    model = Net().eval()
    program = torch.export.export(model, tokens())
    return inference(compile(program.module()), tokens())


def _ahead_of_time(compile: Compile) -> Step:
    """Compiled for given inputs, written to a file, and loaded from there."""
    model = Net().eval()
    with torch._dynamo.config.patch(enable_aot_compile=True), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        compiled = compile(model, fullgraph=True).forward.aot_compile((tokens(), {}))
        file = Path(folder) / "compiled"
        compiled.save_compiled_function(str(file))
        with file.open("rb") as stream:
            loaded = torch.compiler.load_compiled_function(stream)
    return inference(functools.partial(loaded, model), tokens())


def _package(compile: Compile) -> Step:
    """AOTInductor: an exported program as a library with its weights."""
    model = Net().eval()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        program = torch.export.export(model, tokens())
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=f"{folder}/model.pt2", inductor_configs=_options_of(compile)
        )
        return inference(torch._inductor.aoti_load_package(package), tokens())


def _standalone(compile: Compile) -> Step:
    """A traced graph as an artifact."""
    model = Net().eval()
    names, values = zip(*model.state_dict().items(), strict=True)

    def forward(*given: Tensor) -> Tensor:
        state = dict(zip(names, given, strict=False))
        result: Tensor = torch.func.functional_call(model, state, given[len(names) :])
        return result

    given = [*values, *tokens()]
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        traced = make_fx(forward)(*given)
        artifact = torch._inductor.standalone_compile(traced, given, options={"config_patches": _options_of(compile)})
        assert artifact is not None
        artifact.save(path=f"{folder}/artifact")
        loaded = torch._inductor.CompiledArtifact.load(path=f"{folder}/artifact")
    return inference(lambda *batch: loaded(*values, *batch)[0], tokens())


def _options_of(compile: Compile) -> dict[str, Any]:
    """The options that a way of compiling gives to Inductor."""
    return dict(getattr(compile, "keywords", {}).get("options", {}))


_INFERENCE = "inference"

SETTINGS = (
    Setting("a token at a time, static cache", _INFERENCE, _decode),
    Setting("prefill, no_grad", _INFERENCE, _prefill),
    Setting("inference_mode", _INFERENCE, _inference_mode),
    Setting("an image decoder", _INFERENCE, _decoder_of_images),
    Setting("frozen weights", _INFERENCE, _frozen),
    Setting("flex attention", _INFERENCE, _flex_attention),
    Setting("an exported program", _INFERENCE, _exported),
    Setting("ahead of time, aot_compile", _INFERENCE, _ahead_of_time, plain=True),
    Setting("ahead of time, AOTInductor", _INFERENCE, _package, plain=True),
    Setting("ahead of time, standalone_compile", _INFERENCE, _standalone, plain=True),
)
