"""Experts that take a data-dependent number of tokens (nonzero, one graph): sizes that are known only as a range."""

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn

torch._dynamo.config.capture_dynamic_output_shape_ops = True


class Expert(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(*s, bias=False) for s in ((width, hidden), (width, hidden), (hidden, width))
        )

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class DynamicMixture(nn.Module):
    """Each token goes to the fewest experts whose gate weights add up to `tau`."""

    def __init__(self, width=128, hidden=256, experts=4, tau=0.6):
        super().__init__()
        self.gate, self.tau = nn.Linear(width, experts, bias=False), tau
        self.experts = nn.ModuleList(Expert(width, hidden) for _ in range(experts))

    def forward(self, x):
        x = x.flatten(0, 1)
        weights = self.gate(x).softmax(-1)
        ordered, which = weights.sort(-1, descending=True)
        chosen = (ordered.cumsum(-1) - ordered < self.tau).to(x.dtype)
        weights = weights * torch.zeros_like(weights).scatter(-1, which, chosen)
        out = torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            tokens = weights[:, at].nonzero().squeeze(1)
            out = out.index_add(0, tokens, expert(x[tokens]) * weights[tokens, at, None])
        return out.square().mean()


def step():
    torch.manual_seed(0)
    return DynamicMixture(), (torch.randn(8, 128, 128),)
