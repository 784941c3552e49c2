"""Draw the two pictures of docs/architecture.md as SVG; the rooms come from import-linter's contracts."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
IMAGES = PROJECT / "docs" / "images"
# The data and the room that makes it, in the order of a day.
STAGES = (
    ("exchange or CSV", "tasks/prices"),
    ("candles", "storage/prices"),
    ("PriceHistory", "tasks/core"),
    ("windows", "tasks/features"),
    ("challenger", "tasks/profiles, network"),
    ("champion", "tasks/training"),
    ("Forecast", "tasks/forecast"),
    ("Score", "tasks/evaluation"),
    ("report", "tasks/report"),
)
PACKAGES = {
    "flows": "what happens, in order",
    "tasks": "the steps",
    "storage": "files and connections",
}
BOX_WIDTH, BOX_HEIGHT, GAP, LABELS = 124, 32, 10, 190
STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1d2733 }
.package { font-weight: 600 }
.small { font-size: 12px; fill: #4c5966 }
.room { fill: #eef3f8; stroke: #8ba3bb }
.band { fill: none; stroke: #c3ced9 }
.arrow { fill: none; stroke: #4c5966; stroke-width: 1.5; marker-end: url(#head) }
"""
ARROW_HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="#4c5966"/></marker>'
)


def layers(package: str) -> list[list[str]]:
    """The rooms of a package: each row imports only from the rows after it."""
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contract = next(
        c for c in contracts if c["type"] == "layers" and c.get("containers") == [f"closecast.{package}"]
    )
    return [[room.strip(" ()") for room in layer.split("|")] for layer in contract["layers"]]


def rooms() -> str:
    """A frame for each package, in it a row for each layer."""
    rows_by_package = {package: layers(package) for package in PACKAGES}
    columns = max(len(row) for rows in rows_by_package.values() for row in rows)
    width = LABELS + columns * (BOX_WIDTH + GAP) + 2 * GAP
    parts, top = list[str](), float(GAP)
    for package, rows in rows_by_package.items():
        height = len(rows) * (BOX_HEIGHT + GAP) + GAP
        if top > GAP:
            parts.append(arrow(f"M{LABELS / 2} {top - 30}V{top - 3}"))
        parts.append(
            f'<rect class="band" x="{GAP}" y="{top}" width="{width - 2 * GAP}" height="{height}" rx="8"/>'
        )
        parts.append(f'<text class="package" x="{2 * GAP}" y="{top + 30}">{package}/</text>')
        parts.append(f'<text class="small" x="{2 * GAP}" y="{top + 50}">{PACKAGES[package]}</text>')
        for number, row in enumerate(rows):
            for column, room in enumerate(row):
                parts += box(
                    LABELS + column * (BOX_WIDTH + GAP), top + GAP + number * (BOX_HEIGHT + GAP), room
                )
        top += height + 32
    return svg(width, top - 32 + GAP, "The rooms of closecast: imports run downwards only", parts)


def data_path() -> str:
    """The stages of the data, three in a row, with the room of each."""
    width, height, columns = 190, 52, 3
    step, drop = width + 56, height + 44
    parts = list[str]()
    for number, (title, room) in enumerate(STAGES):
        x, y = GAP + number % columns * step, GAP + number // columns * drop
        parts += box(x, y, title, room, width=width, height=height)
        if number == len(STAGES) - 1:
            break
        middle = y + height / 2
        if number % columns < columns - 1:
            parts.append(arrow(f"M{x + width} {middle}H{x + step - 3}"))
        else:
            first = GAP + width / 2
            parts.append(arrow(f"M{x + width / 2} {y + height}v22H{first}V{y + drop - 3}"))
    rows = -(-len(STAGES) // columns)
    return svg(
        (columns - 1) * step + width + 2 * GAP,
        (rows - 1) * drop + height + 2 * GAP,
        "The path of the data",
        parts,
    )


def box(
    x: float, y: float, title: str, note: str = "", *, width: float = BOX_WIDTH, height: float = BOX_HEIGHT
) -> Iterator[str]:
    """A rounded box with a title and a smaller line below it."""
    yield f'<rect class="room" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
    middle, baseline = x + width / 2, y + height / 2 + (-3 if note else 5)
    yield f'<text x="{middle}" y="{baseline}" text-anchor="middle">{escape(title)}</text>'
    if note:
        below = f'x="{middle}" y="{baseline + 18}" text-anchor="middle"'
        yield f'<text class="small" {below}>{escape(note)}</text>'


def arrow(path: str) -> str:
    """A line that ends in an arrow head."""
    return f'<path class="arrow" d="{path}"/>'


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A whole picture, on white so that it is readable on a dark page."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    )
    style = f"<title>{title}</title><style>{STYLE}</style><defs>{ARROW_HEAD}</defs>"
    return "\n".join(
        [head, style, f'<rect width="{width}" height="{height}" fill="#fff"/>', *parts, "</svg>", ""]
    )


def draw(folder: Path = IMAGES) -> None:
    """Write both pictures."""
    for name, picture in {"rooms.svg": rooms(), "data-way.svg": data_path()}.items():
        (folder / name).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    draw()
