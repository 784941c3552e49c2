"""Training beside its peers: every one in a process of its own, on one core, in turns.

    python benchmarks/training.py [--rounds 3] [--core N] [--torch PYTHON] [--out docs/performance.md]

Writes the part of docs/performance.md between its markers: medians with their spread, ratios within a round,
and what the peers' losses say about doing the same arithmetic. Takes a minute, and two more a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from page import BARS, bar, processor, put, spread

HERE = Path(__file__).parent
DROPOUT = 0.1
EPOCHS = {"article": 50, "calibrated": 20}
FEW = 6  # epochs of the slow peers, which are scaled
FLAGS = ("-O3", "-march=native", "-fno-math-errno")
Run = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A row: its words, its network, the command that times it, and why it is missing where it is."""

    name: str
    network: str
    command: tuple[str, ...]
    missing: str = ""

    def seconds(self, run: Run) -> float:
        """Of all the epochs; those that were not run count as a later one each."""
        return float(run["total"] + (EPOCHS[self.network] - run["epochs"]) * run["epoch"])


def main() -> None:
    """Prepare, check, time, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--torch", type=Path, default=HERE.parent / ".venv-bench" / "bin" / "python")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "performance.md")
    given = parser.parse_args()
    os.sched_setaffinity(0, {given.core})  # those that are started have it from here
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="closecast-bench-") as name:
        folder = Path(name)
        sizes = told(ours(folder, "prepare"))
        peers = peers_of(folder, sizes, given.torch)
        checks = checked(folder, peers)
        runs = timed(peers, given.rounds)
    text = report(peers, runs, sizes, checks, f"{load:.1f} before, {os.getloadavg()[0]:.1f} after")
    put(given.out, "training", text)
    print(text)


def told(command: tuple[str, ...]) -> Run:
    """What a process says of itself: its lines of JSON, those of an epoch each put together."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if "total" in lines[0] or len(lines) == 1:
        return dict(lines[0])
    total = sum(line["seconds"] for line in lines)
    return {
        "total": total,
        "epoch": statistics.median(line["seconds"] for line in lines[1:]),
        "core": sum(line["core"] for line in lines) / total,
        "epochs": len(lines),
        "losses": [line["loss"] for line in lines],
    }


def ours(folder: Path, job: str, *more: str) -> tuple[str, ...]:
    """The command of a job of benchmarks/training_peers.py."""
    return (sys.executable, str(HERE / "training_peers.py"), str(folder), job, *more)


def peers_of(folder: Path, sizes: Run, torch: Path) -> dict[str, Peer]:
    """The rows, in their order."""
    full, short = ("--epochs", str(EPOCHS["article"])), ("--epochs", str(FEW))
    twenty = ("--epochs", str(EPOCHS["calibrated"]))
    file = (str(folder / "article.bin"), *map(str, sizes["article"]))
    eager = (str(torch), str(HERE / "training_torch.py"), *file, str(FEW), str(DROPOUT))
    no_torch = "" if torch.exists() else "not installed here"
    c_end = (*file, str(EPOCHS["article"]), str(DROPOUT), str(folder / "weights.bin"))
    plain, fast = built(folder, "limit", *FLAGS), built(folder, "fast", *FLAGS, "-ffast-math")
    no_c = "" if plain else "no C compiler here"
    return {
        "ours": Peer("closecast", "article", ours(folder, "article-closecast", *full)),
        "ours-other": Peer(
            "closecast, XLA off, LSTM unrolled",
            "article",
            ours(folder, "article-closecast", *full, "--other"),
        ),
        "fit": Peer("`fit`, the same network, the article's", "article", ours(folder, "article-fit", *short)),
        "fit-unrolled": Peer(
            "`fit`, LSTM unrolled", "article", ours(folder, "article-fit", *short, "--other")
        ),
        "cell": Peer("PyTorch eager, the same cell written out", "article", (*eager, "cell"), no_torch),
        "lstm": Peer("PyTorch eager, `nn.LSTM` (tanh, not sigmoid)", "article", (*eager, "lstm"), no_torch),
        "c": Peer("C, the limit", "article", (plain, *c_end), no_c),
        "c-fast": Peer("C with `-ffast-math` (sums reordered)", "article", (fast, *c_end), no_c),
        "calibrated": Peer("closecast", "calibrated", ours(folder, "calibrated-closecast", *twenty)),
        "calibrated-other": Peer(
            "closecast, XLA on", "calibrated", ours(folder, "calibrated-closecast", *twenty, "--other")
        ),
        "calibrated-fit": Peer("`fit`", "calibrated", ours(folder, "calibrated-fit", *twenty)),
        "calibrated-fit-other": Peer(
            "`fit`, XLA on", "calibrated", ours(folder, "calibrated-fit", *twenty, "--other")
        ),
    }


def built(folder: Path, name: str, *flags: str) -> str:
    """The C program, made by the system's compiler; empty without one."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler:
        return ""
    target = str(folder / name)
    subprocess.run([compiler, *flags, "-o", target, str(HERE / "limit.c"), "-lm"], check=True)  # noqa: S603
    return target


def timed(peers: dict[str, Peer], rounds: int) -> dict[str, list[Run]]:
    """One run a round for each that is here, every other round the other way about."""
    here = [key for key, peer in peers.items() if not peer.missing]
    runs: dict[str, list[Run]] = {key: [] for key in here}
    for number in range(rounds):
        for key in here if number % 2 == 0 else reversed(here):
            run = told(peers[key].command)
            runs[key].append(run)
            said = f"round {number + 1}, {peers[key].network}, {peers[key].name}"
            print(f"{said}: {peers[key].seconds(run):.2f} s, {run['epoch']:.4f} s an epoch", flush=True)
    return runs


def checked(folder: Path, peers: dict[str, Peer]) -> list[str]:
    """Train without dropout from the same weights: how far the peers' losses are from closecast's.

    Raises:
        SystemExit: further than the same arithmetic can be.
    """
    epochs = EPOCHS["article"]
    proof = told(ours(folder, "proof", "--epochs", str(epochs)))
    lines = [
        f"`fit`, {epochs} epochs: losses within {proof['loss_difference']:.1e} (relative; bar 1e-4), final"
        f" weights within {proof['weight_difference']:.1e} (bar 1e-3)."
    ]
    right = proof["loss_difference"] <= 1e-4 and proof["weight_difference"] <= 1e-3
    for key, words in (("c", "The C program"), ("cell", "PyTorch's written-out cell")):
        peer = peers[key]
        if peer.missing:
            continue
        place = peer.command.index(str(DROPOUT))
        losses = told((*peer.command[:place], "0", *peer.command[place + 1 :]))["losses"]
        pairs = zip(losses, proof["losses"], strict=False)
        far = max(abs(theirs / mine - 1) for theirs, mine in pairs)
        right &= far <= 1e-3
        lines.append(f"{words}, {len(losses)} epochs: losses within {far:.1e} (relative; bar 1e-3).")
    if not right:
        raise SystemExit("not the same arithmetic: " + " ".join(lines))
    return lines


def report(
    peers: dict[str, Peer], runs: dict[str, list[Run]], sizes: Run, checks: list[str], load: str
) -> str:
    """The part of the page, as Markdown."""
    core = [run["core"] for some in runs.values() for run in some]
    imports = [run["import"] for key in ("ours", "calibrated") for run in runs[key]]
    torch = runs.get("lstm", [{}])[0].get("version", "not installed")
    names = ", ".join(f"{name} {version(name)}" for name in ("tensorflow", "keras", "numpy"))
    windows, held = sizes["article"]
    few, many, features = sizes["calibrated"][0], sizes["calibrated"][1], sizes["calibrated"][2]
    parts = [
        f"Measured on {datetime.now(UTC):%Y-%m-%d} by `python benchmarks/training.py --rounds"
        f" {len(runs['ours'])}`: {processor()}, one core for each process;"
        f" Python {platform.python_version()}, {names}, PyTorch {torch}, C by `cc {' '.join(FLAGS)}`.",
        f"{len(runs['ours'])} rounds, each peer once a round, every other round in the other order. Medians,"
        " with minimum and maximum in brackets; ratios are within a round. The processes had"
        f" {min(core):.0%} to {max(core):.0%} of the core they ran on (median {statistics.median(core):.0%});"
        f" load average of the machine's {os.cpu_count()} cores: {load}.",
        "Seconds run from the first layer made to the weights at hand, tracing and compilation included. The"
        f" import of TensorFlow and Keras ({spread(imports, 's')}) and of PyTorch is not in them.",
        "### The article's network, 50 epochs",
        f"{windows} windows in batches of 5, {held} to validate after each epoch, in one batch;"
        f" dropout {DROPOUT}. `fit` and PyTorch run {FEW} epochs; the others count at the pace of the last"
        f" {FEW - 1}.",
        table("article", peers, runs, "ours"),
        f"### The calibrated network, one member, {EPOCHS['calibrated']} epochs",
        f"{few} windows of 20 days and {features} inputs in batches of 128, {many} to validate; no early"
        " stopping, so that all do the same work. `fit` runs without XLA on a CPU unless it is told to.",
        table("calibrated", peers, runs, "calibrated"),
        "### Against the bars",
        bars(peers, runs),
        "### The same arithmetic",
        "The article's training without dropout, from the same first weights, against closecast's losses:",
        "\n".join(f"- {line}" for line in checks),
    ]
    return "\n\n".join(parts)


def table(network: str, peers: dict[str, Peer], runs: dict[str, list[Run]], base: str) -> str:
    """A row a peer: seconds of it all, of an epoch, and both over closecast's."""
    lines = ["| | all, s | over closecast | a later epoch, ms | over closecast |", "|---|---|---|---|---|"]
    for key, peer in peers.items():
        if peer.network != network:
            continue
        if peer.missing:
            lines.append(f"| {peer.name} | {peer.missing} | | | |")
            continue
        all_of_it = spread([peer.seconds(run) for run in runs[key]])
        epoch = spread([1000 * run["epoch"] for run in runs[key]])
        over = [spread(ratios(peers, runs, key, base, part)) for part in (True, False)]
        lines.append(f"| {peer.name} | {all_of_it} | {over[0]} | {epoch} | {over[1]} |")
    return "\n".join(lines)


def bars(peers: dict[str, Peer], runs: dict[str, list[Run]]) -> str:
    """What was asked for, and what came."""
    rows = [
        ("article, all included, `fit` over closecast", "fit", "ours", True, -12),
        ("article, all included, `fit` unrolled over closecast", "fit-unrolled", "ours", True, -12),
        ("article, a later epoch, `fit` over closecast", "fit", "ours", False, -25),
        ("article, a later epoch, `fit` unrolled over closecast", "fit-unrolled", "ours", False, -25),
        ("article, a later epoch, closecast over C", "ours", "c", False, 2.5),
        ("article, all included, PyTorch (same cell) over closecast", "cell", "ours", True, -4),
        ("article, all included, PyTorch (`nn.LSTM`) over closecast", "lstm", "ours", True, -4),
        ("calibrated, all included, `fit` over closecast", "calibrated-fit", "calibrated", True, -2.5),
    ]
    lines = [
        bar(words, ratios(peers, runs, key, base, whole) if key in runs and base in runs else [], asked)
        for words, key, base, whole, asked in rows
    ]
    return "\n".join([BARS, *lines])


def ratios(
    peers: dict[str, Peer], runs: dict[str, list[Run]], key: str, base: str, whole: bool
) -> list[float]:
    """One over the other, round by round."""

    def seconds(which: str, run: Run) -> float:
        return peers[which].seconds(run) if whole else float(run["epoch"])

    return [seconds(key, run) / seconds(base, one) for run, one in zip(runs[key], runs[base], strict=True)]


if __name__ == "__main__":
    main()
