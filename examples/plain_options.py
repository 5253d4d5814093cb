"""memsched where the backend must be called "inductor" (accelerate, Trainer).   python examples/plain_options.py"""

from __future__ import annotations

import torch
from torch import nn

import memsched


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.Linear(64, 1))
    compiled = torch.compile(model, options=memsched.options(time_limit_s=1))
    compiled(torch.randn(16, 32)).sum().backward()
    assert len(memsched.reports()) == 2
    memsched.install()  # for code that one cannot reach: every compile from here on
    torch.compile(nn.Linear(8, 8))(torch.randn(2, 8)).sum().backward()
    memsched.uninstall()
    for report in memsched.reports():
        print(report)


if __name__ == "__main__":
    main()
