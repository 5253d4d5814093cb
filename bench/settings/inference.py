"""Set-ups without a backward: decoding, prefill, images, frozen weights, exported programs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
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


_INFERENCE = "inference"

SETTINGS = (
    Setting("a token at a time, static cache", _INFERENCE, _decode),
    Setting("prefill, no_grad", _INFERENCE, _prefill),
    Setting("inference_mode", _INFERENCE, _inference_mode),
    Setting("an image decoder", _INFERENCE, _decoder_of_images),
    Setting("frozen weights", _INFERENCE, _frozen),
    Setting("flex attention", _INFERENCE, _flex_attention),
    Setting("an exported program", _INFERENCE, _exported),
)
