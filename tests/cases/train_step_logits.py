"""A head and its loss, nothing else, with SGD: train_step keeps the logits twice, split graphs once."""

import torch
import torch.nn.functional as F
from torch import nn


class Head(nn.Module):
    def __init__(self, vocabulary=4096, width=32):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(vocabulary, width), nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens, targets):
        return F.cross_entropy(self.head(self.norm(self.embedding(tokens))).flatten(0, 1), targets.flatten())


def step():
    torch.manual_seed(0)
    model = Head()
    tokens = torch.randint(4096, (4, 64))
    return model, (tokens, tokens.roll(1)), torch.optim.SGD(model.parameters(), lr=0.1)
