"""The updates of torch's optimizers, written out (`rule.Rule`), and which optimizer has which."""

from __future__ import annotations

from torch.optim import SGD, Adafactor, Adagrad, Adam, AdamW, Muon, NAdam, Optimizer, RAdam, RMSprop

from memsched.inductor.train_step.rules.adaptive import AdagradRule, AdamRule, NAdamRule, RAdamRule, RMSpropRule
from memsched.inductor.train_step.rules.factored import AdafactorRule
from memsched.inductor.train_step.rules.momentum import MuonRule, SGDRule
from memsched.inductor.train_step.rules.rule import Rule

__all__ = ["RULES", "rule_of"]

RULES: dict[type[Optimizer], Rule] = {
    SGD: SGDRule(),
    Muon: MuonRule(),
    Adam: AdamRule(),
    AdamW: AdamRule(),
    NAdam: NAdamRule(),
    RAdam: RAdamRule(),
    RMSprop: RMSpropRule(),
    Adagrad: AdagradRule(),
    Adafactor: AdafactorRule(),
}
"""By the exact type: a subclass may update in a way of its own."""


def rule_of(optimizer: Optimizer) -> Rule | None:
    """The rule of `optimizer`, if there is one."""
    return RULES.get(type(optimizer))
