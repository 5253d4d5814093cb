"""FLOPs of a wide residual network whose last block is a mixture over patches, in the forms that exist of it.

    stem ── block 160 ── block 320 ──┬── dense    block 640
                                     ├── masked   stride-2 convolution, 8 experts on the whole image, gates multiply it
                                     └── gathered stride-2 convolution, 8 experts on the l of 16 patches that they chose

Masked is the published code of pMoE; gathered is what its FLOPs are counted for.  Shapes only: nothing is computed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.experts.claims import Row

__all__ = ["PatchWideResNet", "flops_of_forms"]

_EXPERTS, _SIDE, _PATCHES = 8, 4, 16


class _Block(nn.Module):
    """Two convolutions of 3x3 and a projection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.relu()).relu()) + self.skip(x)


class PatchWideResNet(nn.Module):
    """WRN-10-`widen` for images of 64x64; form: "dense", "masked" or "gathered"; `chosen`: l."""

    def __init__(self, form: str = "dense", chosen: int = 2, widen: int = 10) -> None:
        super().__init__()
        widths = 16 * widen, 32 * widen, 64 * widen
        self.form, self.chosen = form, chosen
        self.early = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), _Block(16, widths[0], 1), _Block(widths[0], widths[1], 2))
        if form == "dense":
            self.last = _Block(widths[1], widths[2], 2)
        else:
            self.down = nn.Conv2d(widths[1], widths[2], 3, 2, 1)
            self.gate = nn.Conv2d(widths[2], _EXPERTS, _SIDE, _SIDE)
            self.experts = nn.ModuleList(nn.Conv2d(widths[2], widths[2] // _EXPERTS, 3, 1, 1) for _ in range(_EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(x)
        if self.form == "dense":
            return self.last(x)
        x = self.down(x.relu())
        best = self.gate(x).flatten(2).topk(self.chosen, -1)
        weights = best.values.softmax(-1)
        run = self._masked if self.form == "masked" else self._gathered
        return torch.cat([run(x, at, best.indices[:, at], weights[:, at]).flatten(1) for at in range(_EXPERTS)], 1)

    def _masked(self, x: Tensor, expert: int, patches: Tensor, weights: Tensor) -> Tensor:
        gates = torch.zeros(len(x), _PATCHES, device=x.device).scatter(1, patches, weights).view(-1, 1, _SIDE, _SIDE)
        return self.experts[expert](x * F.interpolate(gates, scale_factor=float(_SIDE)))

    def _gathered(self, x: Tensor, expert: int, patches: Tensor, weights: Tensor) -> Tensor:
        columns = F.unfold(x, _SIDE, stride=_SIDE)
        chosen = columns.gather(2, patches[:, None].expand(-1, columns.shape[1], -1)) * weights[:, None]
        return self.experts[expert](chosen.transpose(1, 2).reshape(-1, x.shape[1], _SIDE, _SIDE))


def flops_of_forms() -> list[Row]:
    """FLOPs of one image forward, and of the dense form's."""
    forms = {"dense": ("dense", 2), "masked, l=2": ("masked", 2)}
    forms |= {f"gathered, l={chosen}": ("gathered", chosen) for chosen in (2, 4, 8)}
    found: list[Row] = []
    with torch.device("meta"):
        for name, (form, chosen) in forms.items():
            model = PatchWideResNet(form, chosen)
            with FlopCounterMode(display=False) as counter:
                model(torch.empty(1, 3, 64, 64))
            total = counter.get_total_flops()
            dense = found[0]["flops"] if found else total
            found.append({"what": "flops", "form": name, "flops": total, "of dense": total / dense})
    return found
