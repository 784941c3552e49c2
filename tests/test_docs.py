"""README.md and docs/ do what they say: every command and block is run, every command and link is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flows.cli.commands import app
from flows.cli.examples import EXAMPLES
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
    shape,
)

# Sphinx's own, such as `{toctree}`, are built by `make docs`.
BLOCKS = [block for page in pages() for block in blocks_of(page) if not block.language.startswith("{")]
# How many blocks of a page are not run, each with its reason beside it. One more wants a good one.
NOT_RUN = {
    "README.md": 3,
    "CONTRIBUTING.md": 2,
    "docs/accuracy.md": 1,
    "docs/engines.md": 2,
    "docs/operations.md": 13,
    "docs/scaling.md": 2,
    "docs/performance.md": 1,
    "docs/howto/notebook.md": 1,
    "docs/howto/scripts.md": 1,
}
# Small networks in place of the real ones: the documents show real runs, the test proves their words.
SMALL = {
    "run": "--set members=1 --set epochs=1 --set units=4",
    "backtest": "--set members=1 --set epochs=1 --set units=4",
    "article": "--set epochs=10 --set units=4",
}
SHIM = """#!/bin/bash
case " $* " in
  *" --help "*) small="" ;;
  *" run "*article*) small="{article}" ;;
  " run "*) small="{run}" ;;
  " backtest "*) small="{backtest}" ;;
esac
exec {python} -m closecast "$@" $small
"""
# Each command's end, told apart from what it prints.
END = "\x1e"


@dataclass
class Location:
    """A folder that looks like the project's, with an empty home in `data/` and small networks."""

    folder: Path
    environment: dict[str, str]

    def bash(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "-c", f"{script}\nstatus=$?\nkill $(jobs -p) 2> /dev/null\nexit $status"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Location:
    from prefect.settings import PREFECT_API_URL

    folder = tmp_path_factory.mktemp("place")
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True).stdout.split()
    for name in sorted({path.split("/")[0] for path in listed} - {"data"}):
        (folder / name).symlink_to(PROJECT / name)
    (folder / "data").mkdir()
    (folder / "data" / "sample").symlink_to(PROJECT / "data" / "sample")
    shims = folder / ".venv" / "bin"
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
    for stamp in (".run", ".test", ".docs"):  # for make: installed
        (folder / ".venv" / stamp).touch()
    # Two files that a reader has, and the project has not.
    sample = (PROJECT / "data/sample/coinbase_btc-usd_daily.csv").read_text()
    (folder / "article_bitcoin.csv").write_text(sample)
    (folder / "closes.csv").write_text("date,close\n2024-01-01,2352.33\n2024-01-02,2355.34\n")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COV")},
        "PATH": f"{shims}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "CLOSECAST_HOME": str(folder / "data"),
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "HOME": str(tmp_path_factory.mktemp("user")),
        "PYTHONWARNINGS": "ignore",
    }
    return Location(folder, environment)


def test_blocks_are_of_a_known_kind_and_few_are_not_run() -> None:
    assert not [block.name for block in BLOCKS if block.language not in LANGUAGES]
    left_out: dict[str, int] = {}
    for block in BLOCKS:
        if block.not_run:
            left_out[block.page] = left_out.get(block.page, 0) + 1
    assert left_out == NOT_RUN


@pytest.mark.documents
@pytest.mark.timeout(900)
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.not_run is None], ids=lambda block: block.name)
def test_block_does_what_the_page_says(block: Block, place: Location) -> None:
    if block.language == "console":
        compare(block, commands_of(block), place.bash(script_of(commands_of(block))).stdout)
    elif block.language == "pycon":
        before = [one for one in BLOCKS if one.page == block.page and one.language == "pycon"]
        commands = [one for part in before[: before.index(block) + 1] for one in session_of(part)]
        done = place.bash(f"{sys.executable} -c {shlex.quote(DRIVER)} {packed(commands)}")
        compare(block, commands, done.stdout)
    elif block.language == "python":
        done = place.bash(f"{sys.executable} -c {shlex.quote(block.text)}")
        assert done.returncode == 0, done.stdout
    elif block.language == "sql":
        done = place.bash(f"closecast sql {shlex.quote(block.text)}")
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
    return "\n".join(f"{one.text}\nprintf '\\n{END}%s\\n' $?" for one in commands)


# Each example as the interactive Python would take it.
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


def packed(commands: list[Command]) -> str:
    return shlex.quote(json.dumps([one.text for one in commands]))


def compare(block: Block, commands: list[Command], output: str) -> None:
    """Every command ended well, and printed what stands below it."""
    parts = re.split(rf"\n{END}(\d+)\n", output)
    printed, ends = parts[:-1:2], parts[1::2]
    assert len(ends) == len(commands), output
    for one, text, end in zip(commands, printed, ends, strict=True):
        assert end == "0", f"{block.name}: {one.text}\n{text}"
        lost = missing(one.shown, text)
        assert not lost, f"{block.name}: {one.text}\nis shown with {lost}\nbut printed\n{text}"


def test_shape_leaves_out_figures_and_keeps_words() -> None:
    line = "03:56:11  BTC-USD: 1,770 rows (-0.04%), code 0.1.0+9ea2caab6f9d, lower_80  –"
    assert shape(line) == "# BTC-USD: # rows (#%), code #.0+#, lower_80 #"
    assert missing(["2 rows", "…", "3 days"], "17   rows\n") == ["3 days"]


def command_group() -> Any:
    return typer.main.get_command(app)


def typed() -> Iterator[list[str]]:
    """The words of every `closecast` command that a block shows."""
    for block in BLOCKS:
        if block.language == "console":
            for one in commands_of(block):
                for found in re.finditer(r"(?:^|[ (])closecast ([^|;)&]*)", one.text):
                    yield found[1].split()


def test_every_command_is_shown_and_has_examples() -> None:
    names = set(command_group().commands)
    assert names - {words[0] for words in typed()} == set(), "a command that no page shows"
    assert set(EXAMPLES) == names


def test_every_option_is_in_the_reference_with_its_help() -> None:
    reference = command_reference()
    for name, command in command_group().commands.items():
        _, _, own = reference.partition(f"\n## `closecast {name}`\n")
        own = own.partition("\n## ")[0]
        assert command.help, name
        for option in command.params:
            if option.param_type_name == "option":
                assert option.help, f"closecast {name} {option.opts}"
                assert f"`{option.opts[0]}" in own


def command_reference() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "typer", "flows.cli.commands", "utils", "docs", "--name", "closecast"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_can_be_typed(line: str) -> None:
    name, *words = shlex.split(line)
    command_group().commands[name].make_context(name, words)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_make_targets_that_pages_name_exist() -> None:
    assert shutil.which("make")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    makefile = (PROJECT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
