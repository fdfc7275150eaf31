"""
A small network learns to tell ten clouds of points apart; MLflow gets to see everything.

The training below is written for TensorBoard alone. What brings it into MLflow are the two lines
that name `tracelet`, and the handle they give for what TensorBoard has no word for: parameters and
files. Run it in any folder: `python mlp.py`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

import tracelet

EPOCHS = 10
BATCH_SIZE = 32
LEARNING_RATE = 0.001
PIXELS, HIDDEN, CLASSES = 784, 128, 10


def clouds(points: int) -> TensorDataset:
    """Each class is a point in the space of all pictures, each picture lies somewhere near one."""
    centers = torch.rand(CLASSES, PIXELS)
    labels = torch.randint(CLASSES, (points,))
    return TensorDataset(centers[labels] + 1.5 * torch.randn(points, PIXELS), labels)


def main() -> None:
    torch.manual_seed(7)
    tracelet.start_logging("mlp", project="tracelet_demo", backend="mlflow")

    model = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    cross_entropy = nn.CrossEntropyLoss()
    batches = DataLoader(clouds(1000), batch_size=BATCH_SIZE, shuffle=True)

    writer = SummaryWriter()
    for epoch in range(EPOCHS):
        losses = []
        for index, (pictures, labels) in enumerate(batches):
            loss = cross_entropy(model(pictures), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            writer.add_scalar("batch/loss", losses[-1], epoch * len(batches) + index)
        writer.add_scalar("epoch/loss", sum(losses) / len(losses), epoch)
        for name, weights in model.named_parameters():
            writer.add_histogram(f"weights/{name}", weights, epoch)
    writer.close()

    run = tracelet.get_active_experiment()
    assert run is not None
    run.log_params(
        {
            "model": {"type": "mlp", "input": PIXELS, "hidden": HIDDEN, "output": CLASSES},
            "optimizer": {"type": "adam", "learning_rate": LEARNING_RATE},
            "training": {"batch_size": BATCH_SIZE, "epochs": EPOCHS},
        }
    )
    torch.save(model.state_dict(), "model.pth")
    run.log_artifact("model.pth", "models")

    tracelet.stop_logging()


if __name__ == "__main__":
    main()
