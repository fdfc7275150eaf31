"""
A small network learns two spirals apart, and one call of every kind tells how.

All 22 `add_` methods of PyTorch's SummaryWriter are here, each with something worth looking at.
What each becomes in MLflow is shown in docs/looking-at-runs.md. Run it in any folder:
`python every_kind.py`. It takes matplotlib for the figure, Pillow for pictures, moviepy and
tensorboardX for the film; `pip install onnx` adds the last method.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

import tracelet

EPOCHS, HIDDEN, LEARNING_RATE, SIDE = 60, 64, 0.004, 128
CLASSES = ("inner", "outer")
EDGE = 1.2  # the part of the plane that is drawn, from the middle to each side


def spirals(points: int) -> tuple[Tensor, Tensor]:
    """Return points in the plane, and to which of two spirals each belongs."""
    labels = torch.arange(points) % 2
    way = torch.rand(points).sqrt()
    angle = way * 2.1 * math.pi + labels * math.pi
    places = torch.stack([way * angle.cos(), way * angle.sin()], 1)
    return places + 0.05 * torch.randn(points, 2), labels


def plane(side: int) -> Tensor:
    """Return the places of a square picture's pixels, its first row at the top."""
    line = torch.linspace(-EDGE, EDGE, side)
    y, x = torch.meshgrid(-line, line, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def network() -> nn.Sequential:
    layers = OrderedDict(
        first=nn.Linear(2, HIDDEN),
        first_squash=nn.Tanh(),
        second=nn.Linear(HIDDEN, HIDDEN),
        second_squash=nn.Tanh(),
        last=nn.Linear(HIDDEN, len(CLASSES)),
    )
    return nn.Sequential(layers)


class Course:
    """The training: a network, its data, and where it stands."""

    def __init__(self) -> None:
        self.network = network()
        self.inside = self.network[:-1]  # up to what the second layer says
        self.places, self.labels = spirals(600)
        self.seen, self.truth = spirals(200)  # what it is judged by
        self.optimizer = torch.optim.Adam(self.network.parameters(), LEARNING_RATE)
        self.judge = nn.CrossEntropyLoss()

    def learn(self) -> tuple[float, float]:
        """Go through the data once; return the loss and how many it gets right, of one."""
        losses = []
        order = torch.randperm(len(self.places))
        for part in order.split(50):
            loss = self.judge(self.network(self.places[part]), self.labels[part])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return sum(losses) / len(losses), self._right(self.places, self.labels)

    def check(self) -> tuple[float, float]:
        with torch.no_grad():
            loss = self.judge(self.network(self.seen), self.truth).item()
        return loss, self._right(self.seen, self.truth)

    def outer(self, places: Tensor) -> Tensor:
        """Return how sure it is that a place belongs to the outer spiral."""
        with torch.no_grad():
            return self.network(places).softmax(1)[:, 1]

    def _right(self, places: Tensor, labels: Tensor) -> float:
        with torch.no_grad():
            return int((self.network(places).argmax(1) == labels).sum()) / len(labels)


def picture(course: Course, side: int = SIDE) -> Tensor:
    """Return the plane, from blue to orange by what the network thinks of each place."""
    sure = course.outer(plane(side)).reshape(side, side)
    blue, orange = torch.tensor([0.13, 0.40, 0.67]), torch.tensor([0.90, 0.42, 0.10])
    colours = torch.lerp(blue[:, None, None], orange[:, None, None], sure)
    unsure = 1 - (2 * sure - 1).abs()
    return torch.lerp(colours, torch.ones(3, side, side), unsure.square())


def every_epoch(writer: SummaryWriter, course: Course, epoch: int) -> tuple[float, float]:
    loss, right = course.learn()
    val_loss, val_right = course.check()
    writer.add_scalar("train/loss", loss, epoch)
    writer.add_scalar("val/loss", val_loss, epoch)
    writer.add_scalars("accuracy", {"train": right, "val": val_right}, epoch)
    for name, weights in course.network.named_parameters():
        if name.endswith("weight"):
            writer.add_histogram(f"weights/{name}", weights, epoch)
            writer.add_histogram(f"gradients/{name}", weights.grad, epoch)
    return val_loss, val_right


def now_and_then(writer: SummaryWriter, course: Course, epoch: int) -> None:
    sure = course.outer(course.seen)
    writer.add_image("decision/plane", picture(course), epoch)
    writer.add_images("units/all", units(course), epoch)
    writer.add_figure("decision/points", figure(course, epoch), epoch)
    writer.add_image_with_boxes(*scene(epoch), epoch, labels=["square", "disc"])
    writer.add_pr_curve("val/outer", course.truth, sure, epoch)
    surface(writer, course, epoch)
    histogram_of_our_own(writer, sure, epoch)
    curve_of_our_own(writer, course, sure, epoch)
    wrong = int(((sure > 0.5).long() != course.truth).sum())
    writer.add_text(
        "notes",
        f"**{wrong} of {len(sure)}** points are on the wrong side.\n\n"
        "| spiral | points | found |\n|---|---:|---:|\n"
        + "\n".join(
            f"| {name} | {int((course.truth == n).sum())} "
            f"| {int(((sure > 0.5).long() == course.truth)[course.truth == n].sum())} |"
            for n, name in enumerate(CLASSES)
        )
        + "\n\n- [x] learning\n- [ ] done\n\n```python\nsure = course.outer(course.seen)\n```",
        epoch,
    )


def units(course: Course) -> Tensor:
    """Return for each unit of the second layer where in the plane it answers."""
    side = 32
    with torch.no_grad():
        answers = course.inside(plane(side))
    return (answers.T.reshape(HIDDEN, 1, side, side) + 1) / 2


def figure(course: Course, epoch: int) -> Figure:
    drawn = Figure((5, 4), dpi=90, layout="constrained")
    axes = drawn.subplots()
    sure = course.outer(plane(60)).reshape(60, 60)
    shades = axes.imshow(sure, extent=(-EDGE, EDGE, -EDGE, EDGE), cmap="PuOr_r", vmin=0, vmax=1)
    for number, name in enumerate(CLASSES):
        chosen = course.seen[course.truth == number]
        axes.scatter(
            chosen[:, 0], chosen[:, 1], s=12, label=name, edgecolors="white", linewidths=0.4
        )
    axes.legend(loc="upper left")
    axes.set_title(f"Validation points after epoch {epoch}")
    drawn.colorbar(shades, label="sure of outer")
    return drawn


def histogram_of_our_own(writer: SummaryWriter, sure: Tensor, epoch: int) -> None:
    """Buckets that the program has counted itself."""
    edges = torch.linspace(0, 1, 21)
    counts = torch.histogram(sure, edges).hist
    writer.add_histogram_raw(
        "sure_of_outer",
        min=sure.min().item(),
        max=sure.max().item(),
        num=len(sure),
        sum=sure.sum().item(),
        sum_squares=sure.square().sum().item(),
        bucket_limits=edges[1:].tolist(),
        bucket_counts=counts.tolist(),
        global_step=epoch,
    )


def curve_of_our_own(writer: SummaryWriter, course: Course, sure: Tensor, epoch: int) -> None:
    """Precision and recall of the other class, from counts at thresholds of one's own."""
    limits = torch.linspace(0, 1, 21)
    said = (1 - sure)[None] >= limits[:, None]
    true = (course.truth == 0)[None]
    hits, alarms = (said & true).sum(1), (said & ~true).sum(1)
    misses, silence = (~said & true).sum(1), (~said & ~true).sum(1)
    writer.add_pr_curve_raw(
        "val/inner",
        hits,
        alarms,
        silence,
        misses,
        hits / (hits + alarms).clamp(min=1),
        hits / (hits + misses).clamp(min=1),
        epoch,
        num_thresholds=len(limits),
    )


def surface(writer: SummaryWriter, course: Course, epoch: int) -> None:
    """The answer as a landscape: as high as the network is sure of `outer`."""
    side = 24
    places = plane(side)
    height = course.outer(places)
    # Up is the second axis, as in TensorBoard.
    vertices = torch.stack([places[:, 0], height, -places[:, 1]], 1)
    corner = torch.arange(side * side).reshape(side, side)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]
    faces = torch.cat([torch.stack(part, -1).reshape(-1, 3) for part in ((a, c, b), (b, c, d))])
    colours = (picture(course, side).reshape(3, -1).T * 255).to(torch.uint8)
    writer.add_mesh("landscape", vertices[None], colours[None], faces[None], global_step=epoch)


def at_the_end(writer: SummaryWriter, course: Course, frames: list[Tensor]) -> None:
    half = len(frames) // 2
    film(writer, torch.stack(frames[:half])[None], 0)
    film(writer, torch.stack(frames[half:])[None], EPOCHS // 2)
    writer.add_graph(course.network, course.seen)
    with torch.no_grad():
        inner = course.inside(course.seen)
    writer.add_embedding(
        inner,
        metadata=[
            [CLASSES[n], f"{x:.2f}", f"{y:.2f}"] for n, (x, y) in zip(course.truth, course.seen)
        ],
        metadata_header=["spiral", "x", "y"],
        label_img=thumbnails(course),
        global_step=EPOCHS,
        tag="hidden_units",
    )
    sure = course.outer(course.seen) > 0.5
    confusion = torch.zeros(2, 2)
    for truth, said in zip(course.truth, sure.long()):
        confusion[truth, said] += 1
    writer.add_tensor("confusion", confusion, EPOCHS)


def film(writer: SummaryWriter, frames: Tensor, step: int) -> None:
    """
    The step is the epoch in which the film begins.

    PyTorch's `add_video` needs moviepy 1; with moviepy 2 its sister's does the same.
    """
    if find_spec("moviepy.editor"):
        writer.add_video("decision/film", frames, step, fps=12)
    else:
        from tensorboardX import SummaryWriter as Sister

        with Sister(writer.log_dir) as sister:
            sister.add_video("decision/film", frames.numpy(), step, fps=12)


def sound(writer: SummaryWriter, losses: list[float]) -> None:
    """The loss to listen to: the pitch falls as it falls."""
    rate, seconds = 8000, 3
    curve = torch.tensor(losses)[None, None]
    smooth = nn.functional.interpolate(curve, rate * seconds, mode="linear")[0, 0]
    phase = torch.cumsum(2 * math.pi * (110 + 700 * smooth) / rate, 0)
    fade = torch.linspace(0, math.pi, rate * seconds).sin() * (0.4 + 0.6 * smooth / smooth.max())
    writer.add_audio("loss_to_listen_to", (phase.sin() * fade)[None], EPOCHS, rate)


def scene(epoch: int) -> tuple[str, Tensor, Tensor]:
    """Return a tag, a picture with a square and a disc, and boxes that close in on them."""
    drawn = torch.full((3, 120, 160), 0.93)
    drawn[:, 30:80, 20:70] = torch.tensor([0.13, 0.40, 0.67])[:, None, None]
    y, x = torch.meshgrid(torch.arange(120), torch.arange(160), indexing="ij")
    drawn[:, (y - 70) ** 2 + (x - 115) ** 2 < 28**2] = torch.tensor([0.90, 0.42, 0.10])[:, None]
    around = torch.tensor([[16.0, 26, 74, 84], [84, 39, 146, 101]])
    loose = torch.tensor([[-12.0, -18, 20, 28], [-24, -26, 10, 14]]) * (1 - epoch / EPOCHS)
    return "found_objects", drawn, around + loose


def thumbnails(course: Course) -> Tensor:
    """Return for each point a small picture in the colour of its spiral."""
    colours = torch.tensor([[0.13, 0.40, 0.67], [0.90, 0.42, 0.10]])[course.truth]
    return colours[:, :, None, None].expand(-1, 3, 8, 8)


def hyperparameters(writer: SummaryWriter, right: float) -> None:
    writer.add_hparams(
        {"hidden": HIDDEN, "learning_rate": LEARNING_RATE, "optimizer": "adam", "shuffle": True},
        {"final/accuracy": right},
    )


def layouts(writer: SummaryWriter) -> None:
    """Which curves belong together, in TensorBoard's words."""
    writer.add_custom_scalars_multilinechart(["train/loss", "val/loss"], "losses", "both")
    writer.add_custom_scalars_marginchart(
        ["val/loss", "train/loss", "val/loss"], "losses", "margin"
    )
    writer.add_custom_scalars(
        {
            "Learning": {
                "Loss": ["Multiline", ["train/loss", "val/loss"]],
                "Accuracy": ["Multiline", ["accuracy/train", "accuracy/val"]],
            }
        }
    )


def onnx_graph(writer: SummaryWriter) -> None:
    """The same network as a file of another format."""
    import onnx
    from onnx import TensorProto, helper

    sizes = (("x", 2), ("hidden", HIDDEN), ("y", len(CLASSES)))
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, size]) for n, size in sizes]
    nodes = [
        helper.make_node("Gemm", ["x", "first"], ["hidden"], "first_layer"),
        helper.make_node("Gemm", ["hidden", "last"], ["y"], "last_layer"),
    ]
    graph = helper.make_graph(nodes, "network", [values[0]], [values[2]])
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "network.onnx")
        onnx.save(helper.make_model(graph), path)
        writer.add_onnx_graph(path)


def main() -> None:
    torch.manual_seed(3)
    torch.set_num_threads(1)  # everything here is too small to share
    tracelet.start_logging("every kind", project="tracelet_every_kind", backend="mlflow")
    writer, course = SummaryWriter(), Course()

    losses, frames, right = [], [], 0.0
    for epoch in range(EPOCHS):
        loss, right = every_epoch(writer, course, epoch)
        losses.append(loss)
        if epoch % 2 == 0:
            frames.append((picture(course, 120) * 255).to(torch.uint8))
        if epoch % 10 == 0 or epoch == EPOCHS - 1:
            now_and_then(writer, course, epoch)
    at_the_end(writer, course, frames)
    sound(writer, losses)
    layouts(writer)
    hyperparameters(writer, right)
    if find_spec("onnx"):
        onnx_graph(writer)
    else:
        print("onnx is not installed: add_onnx_graph is left out")
    writer.close()

    tracelet.stop_logging()


if __name__ == "__main__":
    main()
