"""What stands in README.md and in docs/: blocks that can be run, in a place where running them is cheap.

A block in a page is one of these, and nothing else is let through:

- `console`: commands behind `$ `, or `# ` where root types them (and `> ` where one goes on), run in order by
  bash; what is printed below a command must be what it prints, figures and names of moments aside.
- `pycon`: a session of Python, pasted; run and compared in the same way. A page has one session, which its
  blocks go on with. `python`: a script.
- `sql`: one query for `closecast sql`.
- `toml`, `yaml`, `json`, `bash`: read by a parser. `text`: shown only.

`<!-- not run: REASON -->` before a block, or before a page's first heading for all of it, leaves it out; the
test counts those.
"""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

PROJECT = Path(__file__).resolve().parents[1]
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)
LANGUAGES = {"console", "pycon", "python", "sql", "toml", "yaml", "json", "bash", "text"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its line there, and why it is not run, if so."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None = None

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass
class Command:
    """What is typed behind `$ `, and the lines that are shown below it."""

    text: str
    shown: list[str] = field(default_factory=list)


def pages() -> list[Path]:
    """The pages in the order in which a newcomer reads them: a later one may use what an earlier one made."""
    first = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "docs/index.md", "docs/tutorial.md")]
    made = (PROJECT / "docs" / "reference" / "_generated", PROJECT / "docs" / "_build")
    rest = sorted(path for path in (PROJECT / "docs").rglob("*.md") if path not in first)
    return [*first, *(path for path in rest if not any(path.is_relative_to(folder) for folder in made))]


def blocks_of(page: Path) -> Iterator[Block]:
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    name, whole, mark = str(page.relative_to(PROJECT)), None, None
    begun = False
    for token in tokens:
        if token.type == "html_block":
            found = NOT_RUN.search(token.content)
            mark = " ".join(found[1].split()) if found else mark
            whole = whole or (mark if not begun else None)
        elif token.type == "fence":
            assert token.map
            yield Block(name, token.map[0] + 1, token.info.strip(), token.content, whole or mark)
            mark = None
        elif token.nesting != -1:
            begun, mark = True, None


def commands_of(block: Block) -> list[Command]:
    commands: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith(("$ ", "# ")):
            commands.append(Command(line[2:]))
        elif line.startswith("> ") and commands and not commands[-1].shown:
            commands[-1].text += f"\n{line[2:]}"
        elif commands:
            commands[-1].shown.append(line)
        else:
            raise AssertionError(f"{block.name} begins with what no command has printed: {line}")
    return commands


def session_of(block: Block) -> list[Command]:
    examples = doctest.DocTestParser().get_examples(block.text, block.name)
    return [Command(one.source, one.want.splitlines()) for one in examples]


FIGURE = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?(?!\w)|(?<=[ :])–(?= |$)")
# Digests, of code and of settings too.
HEX = re.compile(r"\b[0-9a-f]{12,64}\b")


def shape(line: str) -> str:
    """A printed line without what differs from one run to the next: figures, digests, widths of columns."""
    line = HEX.sub("#", re.sub(r"[─━┌┐└┘│├┤┬┴┼═╞╡╪┆…]+", " ", line))
    line = FIGURE.sub("#", re.sub(r"\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d", "#", line))
    return " ".join(line.split())


def missing(shown: list[str], printed: str) -> list[str]:
    """The shown lines that were not printed; a line of dots alone stands for any."""
    known = {shape(line) for line in printed.splitlines()}
    return [line for line in shown if shape(line) not in known | {""}]
