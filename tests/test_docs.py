"""README.md and docs/ are true: their blocks run; their commands, links, files and targets exist."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from closecast.flows.cli.commands import app
from tests.documents import (
    LANGUAGES,
    PROJECT,
    Block,
    Command,
    blocks_of,
    commands_of,
    missing,
    pages,
    session_of,
)

# Sphinx builds its own blocks, such as `{toctree}`, in `make docs`.
BLOCKS = [block for page in pages() for block in blocks_of(page) if not block.language.startswith("{")]
# Blocks of each page that are not run; the page has the reason for each.
NOT_RUN = {
    "README.md": 3,
    "CONTRIBUTING.md": 2,
    "docs/accuracy.md": 1,
    "docs/containers.md": 7,
    "docs/engines.md": 2,
    "docs/operations.md": 20,
    "docs/scaling.md": 2,
    "docs/performance.md": 1,
    "docs/howto/installed.md": 4,
    "docs/howto/notebook.md": 2,
    "docs/howto/scripts.md": 1,
}
# The pages show real runs; the test runs the same commands with small networks.
SMALL = {
    "run": "--set members=1 --set epochs=1 --set units=4",
    "backtest": "--set members=1 --set epochs=1 --set units=4",
    "article": "--set epochs=10 --set units=4",
    "own": "--set epochs=2",
}
SHIM = """#!/bin/bash
case " $* " in
  *" --help "*) small="" ;;
  " run "*:*Profile*|" backtest "*:*Profile*) small="{own}" ;;
  *" run "*article*) small="{article}" ;;
  " run "*) small="{run}" ;;
  " backtest "*) small="{backtest}" ;;
esac
exec {python} -m closecast "$@" $small
"""
# Marks the end of each command's output.
END = "\x1e"


@dataclass
class Folder:
    """A folder that looks like the project's, with an empty home in `data/` and small networks."""

    path: Path
    environment: dict[str, str]
    sessions: dict[str, list[str]] = field(default_factory=dict)

    def bash(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "-c", f"{script}\nstatus=$?\nkill $(jobs -p) 2> /dev/null\nexit $status"],
            cwd=self.path,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )

    def session(self, page: str) -> list[str]:
        """What each example of the page's Python session prints, with its end; the session runs once."""
        if page not in self.sessions:
            examples = [command.text for _, command in examples_of(page)]
            done = self.bash(f"{sys.executable} -c {shlex.quote(DRIVER)} {shlex.quote(json.dumps(examples))}")
            self.sessions[page] = re.findall(rf".*?\n{END}\d+\n", done.stdout, re.DOTALL)
            assert len(self.sessions[page]) == len(examples), done.stdout
        return self.sessions[page]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Folder:
    path = tmp_path_factory.mktemp("docs")
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True).stdout.split()
    for name in sorted({file.split("/")[0] for file in listed} - {"data"}):
        (path / name).symlink_to(PROJECT / name)
    (path / "data").mkdir()
    (path / "data" / "sample").symlink_to(PROJECT / "data" / "sample")
    shims = path / ".venv" / "bin"
    shims.mkdir(parents=True)
    for tool in Path(sys.executable).parent.iterdir():
        (shims / tool.name).symlink_to(tool)
    for name, text in {
        "closecast": SHIM.format(python=shlex.quote(sys.executable), **SMALL),
        "python": f'#!/bin/bash\nexec {shlex.quote(sys.executable)} "$@"\n',
    }.items():
        (shims / name).unlink(missing_ok=True)
        (shims / name).write_text(text)
        (shims / name).chmod(0o755)
    for stamp in (".run", ".test"):  # tells make that everything is installed
        (path / ".venv" / stamp).touch()
    # Two files that the reader brings.
    sample = (PROJECT / "data/sample/coinbase_btc-usd_daily.csv").read_text()
    (path / "article_bitcoin.csv").write_text(sample)
    (path / "closes.csv").write_text("date,close\n2024-01-01,2352.33\n2024-01-02,2355.34\n")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COV")},
        "PATH": f"{shims}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "CLOSECAST_HOME": str(path / "data"),
        "PREFECT_API_URL": prefect_server,
        "HOME": str(tmp_path_factory.mktemp("user")),
        "PYTHONWARNINGS": "ignore",
    }
    return Folder(path, environment)


def test_every_block_has_a_language_that_is_run_or_parsed() -> None:
    assert not [block.name for block in BLOCKS if block.language not in LANGUAGES]


def test_number_of_blocks_that_are_not_run() -> None:
    assert Counter(block.page for block in BLOCKS if block.not_run) == NOT_RUN


@pytest.mark.documents
@pytest.mark.timeout(900)
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.not_run is None], ids=lambda block: block.name)
def test_block_runs_and_prints_what_the_page_shows(block: Block, folder: Folder) -> None:
    if block.file:
        (folder.path / block.file).write_text(block.text, encoding="utf-8")
    elif block.language == "console":
        compare(block, commands_of(block), folder.bash(script_of(commands_of(block))).stdout)
    elif block.language == "pycon":
        printed = zip(examples_of(block.page), folder.session(block.page), strict=True)
        own = [(command, text) for (other, command), text in printed if other == block]
        compare(block, [command for command, _ in own], "".join(text for _, text in own))
    elif block.language == "python":
        done = folder.bash(f"{sys.executable} -c {shlex.quote(block.text)}")
        assert done.returncode == 0, done.stdout
    elif block.language == "sql":
        done = folder.bash(f"closecast sql {shlex.quote(block.text)}")
        assert done.returncode == 0, done.stdout
    elif block.language != "text":
        parsers: dict[str, Any] = {
            "toml": tomllib.loads,
            "yaml": yaml.safe_load,
            "json": json.loads,
            "bash": parsed_by_bash,
        }
        parsers[block.language](block.text)


def parsed_by_bash(text: str) -> None:
    subprocess.run(["/bin/bash", "-n", "-c", text], check=True)


def script_of(commands: list[Command]) -> str:
    return "\n".join(f"{command.text}\nprintf '\\n{END}%s\\n' $?" for command in commands)


# Runs each example as interactive Python does.
DRIVER = f"""
import json, sys, traceback
names = {{}}
for source in json.loads(sys.argv[1]):
    try:
        exec(compile(source, "<session>", "single"), names)
        end = 0
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        end = 1
    print(f"\\n{END}{{end}}", flush=True)
"""


def examples_of(page: str) -> list[tuple[Block, Command]]:
    """The examples of the page's Python session, each with its block."""
    session = [block for block in BLOCKS if block.page == page and block.language == "pycon"]
    return [(block, command) for block in session for command in session_of(block)]


def compare(block: Block, commands: list[Command], output: str) -> None:
    """Every command ended with code 0 and printed the lines shown below it."""
    parts = re.split(rf"\n{END}(\d+)\n", output)
    printed, ends = parts[:-1:2], parts[1::2]
    assert len(ends) == len(commands), output
    for command, text, end in zip(commands, printed, ends, strict=True):
        assert end == "0", f"{block.name}: {command.text}\n{text}"
        lines = missing(command.shown, text)
        assert not lines, f"{block.name}: {command.text}\nis shown with {lines}\nbut printed\n{text}"


COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
EXAMPLES = {name: command.epilog.split("\n\n$ closecast ")[1:] for name, command in COMMANDS.items()}


def typed_arguments() -> Iterator[list[str]]:
    """The arguments of every `closecast` command in a block."""
    for block in BLOCKS:
        if block.language == "console":
            for command in commands_of(block):
                for call in re.finditer(r"(?:^|[ (])closecast ([^|;)&]*)", command.text):
                    yield call[1].split()


def test_every_command_is_shown_and_has_examples() -> None:
    assert set(COMMANDS) - {words[0] for words in typed_arguments()} == set(), "a command that no page shows"
    assert all(EXAMPLES.values())


def test_every_option_is_in_the_reference_with_its_help() -> None:
    reference = command_reference()
    for name, command in COMMANDS.items():
        _, _, own = reference.partition(f"\n## `closecast {name}`\n")
        own = own.partition("\n## ")[0]
        assert command.help, name
        for option in command.params:
            if option.param_type_name == "option":
                assert option.help, f"closecast {name} {option.opts}"
                assert f"`{option.opts[0]}" in own


def command_reference() -> str:
    text: str = runpy.run_path(str(PROJECT / "docs" / "conf.py"))["commands"]()
    return text


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOSECAST_CONFIG", "")  # --config sets it for the process
    name, *words = shlex.split(line)
    COMMANDS[name].make_context(name, words)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", ["rooms.svg", "data-way.svg"])
def test_pictures_show_the_present_rooms(name: str, tmp_path: Path) -> None:
    script = runpy.run_path(str(PROJECT / "docs" / "pictures.py"))
    script["draw"](tmp_path)
    assert (PROJECT / "docs" / "images" / name).read_text() == (tmp_path / name).read_text()


def test_make_targets_in_pages_exist() -> None:
    assert shutil.which("make")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    makefile = (PROJECT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


SOURCE = re.compile(r"(?<![\w/.-])(?:flows|tasks|storage|tests|benchmarks)/[\w./-]*\w")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_source_files_in_pages_exist(page: Path) -> None:
    named = set(SOURCE.findall(page.read_text(encoding="utf-8")))
    assert not sorted(name for name in named if not (PROJECT / name).exists())
