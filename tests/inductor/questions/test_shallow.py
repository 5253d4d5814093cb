"""How often a model repeats its blocks, and the same model with fewer of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from memsched.inductor.calls import batch_of
from memsched.inductor.capture.fakes import fake_mode
from memsched.inductor.held import held_bytes
from memsched.inductor.questions.fake_step import FakeStep
from memsched.inductor.questions.shallow import depth_of, shallow_step
from tests.inductor.fit.language import Language


class Layer(nn.Module):
    def __init__(self, kind: str = "full", number: int = 0, window: int = 8) -> None:
        super().__init__()
        self.kind, self.number, self.window, self.linear = kind, number, window, nn.Linear(4, 4)


def layers(*kinds: str) -> nn.ModuleList:
    """Numbered, as those of transformers are."""
    return nn.ModuleList(Layer(kind, number) for number, kind in enumerate(kinds))


def experts() -> nn.Module:
    layer = Layer()
    layer.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(16))
    return layer


shared = Layer()


@pytest.mark.parametrize(
    ("model", "depth"),
    [
        (layers(*["full"] * 12), 12),
        (nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(8))), 8),
        (nn.ModuleDict({str(at): Layer() for at in range(7)}), 7),
        (layers(*["wide", "wide", "full"] * 6), 6),
        (nn.ModuleList([shared] * 9), 9),
        (nn.ModuleList([nn.Sequential(*layers(*["a"] * 8)), nn.Sequential(*layers("b", "c"))]), 8),
        (nn.ModuleDict({"encoder": layers(*["full"] * 12), "decoder": layers(*["wide"] * 12)}), 12),
        (nn.ModuleList([layers(*["full"] * 12), layers(*["full"] * 8)]), 0),
        (layers(*["full"] * 3), 0),
        (layers(*["full"] * 11, "wide"), 0),
        (nn.ModuleList(Layer(number=at, window=8 if at % 2 else 4) for at in range(16)), 8),
        (nn.Sequential(*(nn.Conv2d(4, 4, 3, stride=2 if at == 7 else 1) for at in range(8))), 0),
        (nn.ModuleList(experts() for _ in range(4)), 0),
        (nn.ModuleList(experts() for _ in range(10)), 10),
        (nn.Linear(4, 4), 0),
        (SimpleNamespace(), 0),
    ],
    ids=[
        *("list", "sequence", "by name", "three make a period", "shared", "stages", "encoder and decoder"),
        *(
            "unequal depths",
            "few",
            "the last differs",
            "windows",
            "strides",
            "experts of few layers",
            "experts",
            "no list",
            "no module",
        ),
    ],
)
def test_how_often_blocks_repeat(model: object, depth: int) -> None:
    assert depth_of(model) == depth


def test_a_shallow_step_has_the_first_periods_and_optimizers_of_what_is_left() -> None:
    model = Language(layers=12)
    inside, outside = list(model.blocks.parameters()), [model.embedding.weight, model.head.weight]
    last = torch.optim.SGD(model.blocks[11].parameters(), 0.1)
    optimizers = (torch.optim.AdamW([{"params": inside}, {"params": outside, "lr": 0.5}]), last)
    step = FakeStep(fake_mode(), model, batch_of(model, ()), held_bytes(model, batch_of(model, ()), ()), optimizers)
    first = list(model.blocks[:4].parameters())
    shallow = shallow_step(step, 4)
    assert shallow.model is model and len(model.blocks) == 4 and depth_of(model) == 0
    (optimizer,) = shallow.optimizers
    assert [group["params"] for group in optimizer.param_groups] == [first, outside]
    assert optimizer.param_groups[1]["lr"] == 0.5
    assert len(optimizers[0].param_groups[0]["params"]) == len(inside), "the caller's optimizer is as it was"
    assert shallow.held == step.held
