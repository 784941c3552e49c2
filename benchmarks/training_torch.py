"""The article's training in PyTorch, eager, on one thread, as its users write it.

    python benchmarks/training_torch.py FILE WINDOWS VALIDATION EPOCHS DROPOUT cell|lstm

Needs nothing but PyTorch. FILE is what benchmarks/limit.c reads. `cell` is the article's LSTM, whose cell
activation is a sigmoid, written out step by step; `lstm` is `torch.nn.LSTM`, whose cell knows tanh only.
Prints one line of JSON, with the clock as in benchmarks/training_peers.py.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

start = time.perf_counter()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that there is no NumPy beside it
    import torch  # type: ignore[import-not-found]
    from torch import nn

loaded = time.perf_counter() - start
LOOKBACK, UNITS, BATCH = 5, 64, 5


class Article(nn.Module):
    """The network, (batch, 5, 1) to (batch, 1), with Keras's first weights in the written-out cell."""

    def __init__(self, weights: list[torch.Tensor], dropout: float, written_out: bool) -> None:
        super().__init__()
        self.written_out, self.dropout = written_out, dropout
        self.kernel, self.recurrent, self.bias, dense, dense_bias = map(nn.Parameter, weights)
        if not written_out:
            self.lstm = nn.LSTM(1, UNITS, batch_first=True)
            self.kernel = self.recurrent = self.bias = None
        self.dense, self.dense_bias = dense, dense_bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scaled closes to the next one."""
        h = self._states(x) if self.written_out else self.lstm(x)[0][:, -1]
        h = nn.functional.leaky_relu(h, 0.5)
        return nn.functional.dropout(h, self.dropout, self.training) @ self.dense + self.dense_bias

    def _states(self, x: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros(len(x), UNITS)
        for t in range(LOOKBACK):
            z = (x[:, t] @ self.kernel + h @ self.recurrent + self.bias).sigmoid()
            i, f, g, o = z.chunk(4, dim=1)
            c = f * c + i * g
            h = o * c.sigmoid()
        return h


def read(path: Path, windows: int, held: int) -> list[torch.Tensor]:
    """Inputs, targets, validation inputs and targets, and the weights as Keras lists them."""
    numbers = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.float32)
    shapes: list[tuple[int, ...]] = [(windows, LOOKBACK, 1), (windows, 1), (held, LOOKBACK, 1), (held, 1)]
    shapes += [(1, 4 * UNITS), (UNITS, 4 * UNITS), (4 * UNITS,), (UNITS, 1), (1,)]
    sizes = [torch.Size(shape).numel() for shape in shapes]
    return [part.reshape(shape).clone() for part, shape in zip(numbers.split(sizes), shapes, strict=True)]


def main() -> None:
    """Train, and print how long it takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    for name in ("windows", "validation", "epochs"):
        parser.add_argument(name, type=int)
    parser.add_argument("dropout", type=float)
    parser.add_argument("kind", choices=["cell", "lstm"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, y, held_x, held_y, *weights = read(given.file, given.windows, given.validation)
    begun, core, marks, losses = time.perf_counter(), time.process_time(), [], []
    network = Article(weights, given.dropout, given.kind == "cell")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, eps=1e-7)
    for _ in range(given.epochs):
        total = torch.zeros(())
        network.train()
        for inputs, wanted in zip(x.split(BATCH), y.split(BATCH), strict=True):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(network(inputs), wanted)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(inputs)
        network.eval()
        with torch.no_grad():
            nn.functional.mse_loss(network(held_x), held_y).item()
        losses.append(total.item() / len(x))
        marks.append(time.perf_counter())
    figures = {
        "total": marks[-1] - begun,
        "epoch": (marks[-1] - marks[0]) / (given.epochs - 1),
        "core": (time.process_time() - core) / (time.perf_counter() - begun),
        "epochs": given.epochs,
        "losses": losses,
        "import": loaded,
        "version": torch.__version__,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
