"""The pictures of docs/architecture.md, drawn as SVG from the layers that import-linter holds."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
IMAGES = PROJECT / "docs" / "images"
WAY = (
    ("exchange or CSV", "tasks/prices"),
    ("candles", "storage/prices"),
    ("PriceHistory", "tasks/core"),
    ("windows", "tasks/features"),
    ("challenger", "tasks/profiles, network"),
    ("champion", "tasks/training"),
    ("Forecast", "tasks/forecast"),
    ("score", "tasks/evaluation"),
    ("report", "tasks/report"),
)
BOX_WIDTH, BOX_HEIGHT, GAP = 138, 44, 14
STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1d2733 }
.small { font-size: 11px; fill: #5b6773 }
.room { fill: #eef3f8; stroke: #8ba3bb }
.band { fill: none; stroke: #c3ced9 }
line { stroke: #5b6773; stroke-width: 1.5; marker-end: url(#arrow) }
"""
ARROW = (
    '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="#5b6773"/></marker>'
)


def layers(package: str) -> list[list[str]]:
    """The rooms of a package, from the one that imports the others down to the one that all import."""
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    mine = next(one for one in contracts if one["type"] == "layers" and one.get("containers") == [package])
    return [[room.strip(" ()") for room in layer.split("|")] for layer in mine["layers"]]


def box(x: float, y: float, title: str, note: str = "") -> Iterator[str]:
    """A rounded box with a title, and a smaller line below it."""
    yield f'<rect class="room" x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
    middle = x + BOX_WIDTH / 2
    yield f'<text x="{middle}" y="{y + (20 if note else 27)}" text-anchor="middle">{escape(title)}</text>'
    if note:
        yield f'<text class="small" x="{middle}" y="{y + 36}" text-anchor="middle">{escape(note)}</text>'


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A whole picture, on white so that it can be read on a dark page."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    paper = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join(
        [
            head,
            f"<title>{title}</title><style>{STYLE}</style><defs>{ARROW}</defs>{paper}",
            *parts,
            "</svg>",
            "",
        ]
    )


def rooms() -> str:
    """A band for each package, a row for each layer: a room imports from rows below its own."""
    parts, y, width = list[str](), 20.0, 4 * (BOX_WIDTH + GAP) + 150
    for package in ("flows", "tasks", "storage"):
        rows = [["cli"], ["daily", "backtest", "maintain"]] if package == "flows" else layers(package)
        height = len(rows) * (BOX_HEIGHT + GAP) + GAP
        parts.append(f'<rect class="band" x="16" y="{y}" width="{width - 32}" height="{height}" rx="8"/>')
        parts.append(f'<text x="32" y="{y + 28}">{package}/</text>')
        for number, row in enumerate(rows):
            for place, room in enumerate(row):
                x = 130 + place * (BOX_WIDTH + GAP)
                parts += box(x, y + GAP + number * (BOX_HEIGHT + GAP), room)
        y += height + 24
        if package != "storage":
            parts.append(f'<line x1="{width / 2}" y1="{y - 24}" x2="{width / 2}" y2="{y - 2}"/>')
    return svg(width, y, "The rooms of closecast, and which way imports run", parts)


def way() -> str:
    """What prices become on their way through the rooms."""
    parts, columns, step = list[str](), 3, BOX_WIDTH + 60
    for number, (title, room) in enumerate(WAY):
        x, y = 20 + number % columns * step, 20 + number // columns * (BOX_HEIGHT + 50)
        parts += box(x, y, title, room)
        if number == len(WAY) - 1:
            break
        if number % columns < columns - 1:
            parts.append(f'<line x1="{x + BOX_WIDTH}" y1="{y + 22}" x2="{x + step - 3}" y2="{y + 22}"/>')
        else:
            turn, down = y + BOX_HEIGHT + 25, y + BOX_HEIGHT + 47
            end = 20 + BOX_WIDTH / 2
            parts.append(f'<path d="M{x + 69} {y + BOX_HEIGHT}V{turn}H{end}" fill="none" stroke="#5b6773"/>')
            parts.append(f'<line x1="{end}" y1="{turn}" x2="{end}" y2="{down}"/>')
    return svg(3 * step - 20, 3 * (BOX_HEIGHT + 50), "The way of the data through the rooms", parts)


def draw() -> None:
    """Write both pictures beside the others of the documents."""
    for name, picture in {"rooms.svg": rooms(), "data-way.svg": way()}.items():
        (IMAGES / name).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    draw()
