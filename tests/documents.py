"""Read the blocks of README.md and docs/, which `tests/test_docs.py` runs.

A block of a page has one of these languages, and no other:

- `console`: commands after `$ `, or `# ` where root types them; `> ` continues a line. bash runs them in
  order; each must print the lines shown below it, apart from figures, days and digests.
- `pycon`: a pasted Python session, run and compared in the same way. The blocks of a page share one session.
- `python`: a script.
- `sql`: one query for `closecast sql`.
- `toml`, `yaml`, `json`, `bash`: parsed only. `text`: shown only.

A comment before a block changes what happens to it:

- `<!-- file: NAME -->` writes the block to that file of the test's folder, where later blocks use it.
- `<!-- not run: REASON -->` leaves it out; before a page's first heading, the whole page. A test counts them.
"""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

PROJECT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"<!-- (not run|file): (.+?) -->", re.DOTALL)
LANGUAGES = {"console", "pycon", "python", "sql", "toml", "yaml", "json", "bash", "text"}


@dataclass(frozen=True)
class Block:
    """A fenced block with its page and line, the file it is written to, or the reason why it is not run."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None = None
    file: str | None = None

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass
class Command:
    """A typed command and the lines that the page shows below it."""

    text: str
    shown: list[str] = field(default_factory=list)


def pages() -> list[Path]:
    """All pages in reading order: a later page may use files and forecasts of an earlier one."""
    first = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "docs/index.md", "docs/tutorial.md")]
    generated = (PROJECT / "docs" / "reference" / "_generated", PROJECT / "docs" / "_build")
    rest = sorted(path for path in (PROJECT / "docs").rglob("*.md") if path not in first)
    return [*first, *(path for path in rest if not any(path.is_relative_to(folder) for folder in generated))]


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, each with the comment directly before it."""
    name = str(page.relative_to(PROJECT))
    page_reason: str | None = None
    marks: dict[str, str] = {}
    begun = False
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            marks |= {kind: " ".join(text.split()) for kind, text in MARK.findall(token.content)}
            page_reason = page_reason or (marks.get("not run") if not begun else None)
        elif token.type == "fence":
            assert token.map
            reason = page_reason or marks.get("not run")
            yield Block(name, token.map[0] + 1, token.info.strip(), token.content, reason, marks.get("file"))
            marks = {}
        elif token.nesting != -1:
            begun, marks = True, {}


def commands_of(block: Block) -> list[Command]:
    """The commands of a `console` block."""
    commands: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith(("$ ", "# ")):
            commands.append(Command(line[2:]))
        elif line.startswith("> ") and commands and not commands[-1].shown:
            commands[-1].text += f"\n{line[2:]}"
        elif commands:
            commands[-1].shown.append(line)
        else:
            raise AssertionError(f"{block.name} begins with output that belongs to no command: {line}")
    return commands


def session_of(block: Block) -> list[Command]:
    """The examples of a `pycon` block."""
    examples = doctest.DocTestParser().get_examples(block.text, block.name)
    return [Command(example.source, example.want.splitlines()) for example in examples]


FIGURE = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?(?!\w)|(?<=[ :])–(?= |$)")
# Digests of code and settings.
HEX = re.compile(r"\b[0-9a-f]{12,64}\b")


def shape(line: str) -> str:
    """A printed line without what differs from run to run: figures, digests, column widths."""
    line = HEX.sub("#", re.sub(r"[─━┌┐└┘│├┤┬┴┼═╞╡╪┆…]+", " ", line))
    line = FIGURE.sub("#", re.sub(r"\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d", "#", line))
    return " ".join(line.split())


def missing(shown: list[str], printed: str) -> list[str]:
    """The shown lines that were not printed; a line with only `…` stands for any output."""
    shapes = {shape(line) for line in printed.splitlines()}
    return [line for line in shown if shape(line) not in shapes | {""}]
