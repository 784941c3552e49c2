"""Training beside its peers: every one in a process of its own, on one core, in turns.

    python benchmarks/training.py [--rounds 2] [--core N] [--torch PYTHON] [--out PAGE]

Writes medians with their spread, ratios within a round, and whether the peers' losses agree. Takes a minute,
and one more a round.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import page

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
    parser = page.options(__doc__, page.TRAINING, rounds=2, core=page.last_core())
    parser.add_argument("--torch", type=Path, default=HERE.parent / ".venv-bench" / "bin" / "python")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})  # those that are started have it from here
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="closecast-bench-") as name:
        folder = Path(name)
        sizes = page.output(*ours(folder, "prepare"))
        peers = peers_of(folder, sizes, arguments.torch)
        checks = checked(folder, peers)
        runs = timed(peers, arguments.rounds)
    page.put(arguments.out, "training", report(peers, runs, sizes, checks, load), bars(peers, runs))


def ours(folder: Path, job: str, *more: str) -> tuple[str, ...]:
    """The command of a job of benchmarks/training_peers.py."""
    return (sys.executable, str(HERE / "training_peers.py"), str(folder), job, *more)


def peers_of(folder: Path, sizes: Run, torch: Path) -> dict[str, Peer]:
    """The rows, in their order."""

    def keras(name: str, job: str, epochs: int) -> Peer:
        command = ours(folder, job, "--epochs", str(epochs))
        return Peer(name, job.partition("-")[0], command)

    many, twenty = EPOCHS["article"], EPOCHS["calibrated"]
    file = (str(folder / "article.bin"), *map(str, sizes["article"]))
    eager = (str(torch), str(HERE / "training_torch.py"), *file, str(FEW), str(DROPOUT))
    no_torch = "" if torch.exists() else "not installed here"
    c_end = (*file, str(many), str(DROPOUT), str(folder / "weights.bin"))
    plain = built(folder)
    no_c = "" if plain else "no C compiler here"
    return {
        "ours": keras("closecast", "article-closecast", many),
        "fit": keras("`fit`, the same network, the article's", "article-fit", FEW),
        "fit-unrolled": keras("`fit`, LSTM unrolled", "article-unrolled", FEW),
        "cell": Peer("PyTorch eager, the same cell written out", "article", (*eager, "cell"), no_torch),
        "lstm": Peer("PyTorch eager, `nn.LSTM` (tanh, not sigmoid)", "article", (*eager, "lstm"), no_torch),
        "c": Peer("C, the limit", "article", (plain, *c_end), no_c),
        "calibrated": keras("closecast", "calibrated-closecast", twenty),
        "calibrated-fit": keras("`fit`", "calibrated-fit", twenty),
    }


def built(folder: Path) -> str:
    """The C program, made by the system's compiler; empty without one."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler:
        return ""
    target = str(folder / "limit")
    subprocess.run([compiler, *FLAGS, "-o", target, str(HERE / "limit.c"), "-lm"], check=True)  # noqa: S603
    return target


def timed(peers: dict[str, Peer], rounds: int) -> dict[str, list[Run]]:
    """One run a round for each that is here, every other round the other way about."""
    here = [key for key, peer in peers.items() if not peer.missing]
    runs: dict[str, list[Run]] = {key: [] for key in here}
    for number in range(rounds):
        for key in here if number % 2 == 0 else reversed(here):
            run = page.output(*peers[key].command)
            runs[key].append(run)
            print(f"round {number + 1}, {key}: {peers[key].seconds(run):.2f} s", flush=True)
    return runs


def checked(folder: Path, peers: dict[str, Peer]) -> list[str]:
    """Train without dropout from the same weights: how far the peers' losses are from closecast's.

    Raises:
        SystemExit: further than the same arithmetic can be.
    """
    epochs = EPOCHS["article"]
    proof = page.output(*ours(folder, "proof", "--epochs", str(epochs)))
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
        losses = page.output(*peer.command[:place], "0", *peer.command[place + 1 :])["losses"]
        pairs = zip(losses, proof["losses"], strict=False)
        far = max(abs(theirs / mine - 1) for theirs, mine in pairs)
        right &= far <= 1e-3
        lines.append(f"{words}, {len(losses)} epochs: losses within {far:.1e} (relative; bar 1e-3).")
    if not right:
        raise SystemExit("not the same arithmetic: " + " ".join(lines))
    return lines


def report(
    peers: dict[str, Peer], runs: dict[str, list[Run]], sizes: Run, checks: list[str], load: float
) -> str:
    """The part of the page, as Markdown."""
    core = [run["core"] for some in runs.values() for run in some]
    imports = [run["import"] for key in ("ours", "calibrated") for run in runs[key]]
    torch = runs.get("lstm", [{}])[0].get("version", "not installed")
    windows, held = sizes["article"]
    few, many, features = sizes["calibrated"]
    parts = [
        page.measured_by(
            f"training.py --rounds {len(runs['ours'])}",
            page.ONE_CORE,
            f"PyTorch {torch}, C by `cc {' '.join(FLAGS)}`",
            load=load,
            packages=("tensorflow", "keras", "numpy"),
        ),
        f"{len(runs['ours'])} rounds, each peer once a round, every other round in the other order. Medians,"
        " with minimum and maximum in brackets; ratios are within a round. The processes had"
        f" {min(core):.0%} to {max(core):.0%} of their core (median {statistics.median(core):.0%}).",
        "The time runs from the first layer to the final weights, with tracing and compilation, but without"
        f" the import of TensorFlow and Keras ({page.spread(imports, 's')}) and of PyTorch.",
        "## The article's network, 50 epochs",
        f"{windows} windows in batches of 5, {held} to validate after each epoch, in one batch;"
        f" dropout {DROPOUT}. `fit` and PyTorch run {FEW} epochs; the others count at the pace of the last"
        f" {FEW - 1}.",
        table("article", peers, runs, "ours"),
        f"## The calibrated network, one member, {EPOCHS['calibrated']} epochs",
        f"{few} windows of 20 days and {features} inputs in batches of 128, {many} to validate; no early"
        " stopping, so all do the same work. `fit` runs without XLA on a CPU by default.",
        table("calibrated", peers, runs, "calibrated"),
        "## The same arithmetic",
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
        all_of_it = page.spread([peer.seconds(run) for run in runs[key]])
        epoch = page.spread([1000 * run["epoch"] for run in runs[key]])
        ratio = [page.spread(over(peers, runs, key, base, part)) for part in (True, False)]
        lines.append(f"| {peer.name} | {all_of_it} | {ratio[0]} | {epoch} | {ratio[1]} |")
    return "\n".join(lines)


def bars(peers: dict[str, Peer], runs: dict[str, list[Run]]) -> list[str]:
    """A row a bar: what was measured and what was wanted."""
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
    return [
        page.bar(words, over(peers, runs, key, base, whole) if key in runs and base in runs else [], asked)
        for words, key, base, whole, asked in rows
    ]


def over(peers: dict[str, Peer], runs: dict[str, list[Run]], key: str, base: str, whole: bool) -> list[float]:
    """One peer's seconds over another's, round by round; of all the epochs, or of a later one."""

    def seconds(which: str) -> list[float]:
        return [peers[which].seconds(run) if whole else float(run["epoch"]) for run in runs[which]]

    return page.ratios(seconds(key), seconds(base), float)


if __name__ == "__main__":
    main()
