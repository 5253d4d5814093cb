"""memsched under Lightning.   python examples/lightning_loop.py

Lightning compiles what it is told to: a module inside of yours, or the training step whole, as here.  `log_peaks` puts
the planned peaks into its loggers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import lightning.pytorch as lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import memsched


class Classifier(lightning.LightningModule):
    """Two layers and their loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.layers(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


def main() -> None:
    lightning.seed_everything(0)
    data = DataLoader(TensorDataset(torch.randn(64, 64), torch.randint(10, (64,))), batch_size=16)
    with tempfile.TemporaryDirectory() as folder:
        logger = CSVLogger(folder)
        trainer = lightning.Trainer(
            max_steps=3,
            accelerator="cpu",
            logger=logger,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        memsched.log_peaks(trainer)
        trainer.fit(torch.compile(Classifier(), backend="memsched"), data)
        logged = (Path(logger.log_dir) / "metrics.csv").read_text()
    assert "memsched/backward 0/peak_MiB" in logged
    print(logged)


if __name__ == "__main__":
    main()
