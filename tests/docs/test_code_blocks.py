"""Every Python, shell and data block of README.md and docs/ runs or parses as it stands, a page's one after the other.

A block that cannot run here has a line `<!-- not run: REASON -->` before it, and one that takes long `<!-- full:
REASON -->`, which runs with --full.  A page runs in a copy of `world`, where a small random model has the names that
the pages use.  Python blocks of a page share their names.  A block that begins with a comment that names a file
(`# reward.py`) is written to that file as well.  A block that includes a file of examples/ (`--8<--`) is not run: these
files have tests of their own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>not run|full): (?P<reason>[^>]+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
READ = {"json": json.loads, "yaml": yaml.safe_load, "toml": tomllib.loads}
LEFT = ("cmake", "text", "bibtex")  # examples/cpp, with the same CMake lines, is built by tests/angle/test_cpp.py
WARNINGS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")

if not (ROOT / "docs").is_dir():
    pytest.skip("docs is not beside these tests (they run on an installed wheel)", allow_module_level=True)


class Block(NamedTuple):
    """One fenced block: where it begins, its language, and why it is not run, if it is not."""

    where: str
    line: int
    language: str
    code: str
    mark: str
    reason: str


def blocks(page: Path) -> list[Block]:
    text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        mark, reason = match["mark"] or "", match["reason"] or ""
        found.append(Block(f"{name}:{line}", line, match["language"], match["code"], mark, reason))
    return found


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


@pytest.mark.parametrize("name", names(PAGES))
@WARNINGS
def test_the_blocks_of_the_page_run(name, world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GAINRL_CACHE", str(tmp_path / "cache"))
    run_page(ROOT / name, ("",), world, tmp_path, monkeypatch, capsys)


@pytest.mark.full
@pytest.mark.model
@pytest.mark.timeout(1200)  # the README's took 230 s on two idle cores with AVX2 alone
@pytest.mark.parametrize("name", names([p for p in PAGES if "smollm2-135m" in p.read_text(encoding="utf-8")]))
@WARNINGS
def test_the_blocks_run_with_the_real_model_too(name, world, tmp_path, monkeypatch, capsys):
    run_page(ROOT / name, ("", "full"), world, tmp_path, monkeypatch, capsys)


def run_page(page, marks, world, tmp_path, monkeypatch, capsys) -> None:
    """Run the page's blocks that carry one of `marks`, in a copy of `world`."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shared: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.mark not in marks or block.code.startswith("--8<--"):
            continue
        if named := re.match(r"# ([\w-]+\.\w+)\n", block.code):
            Path(named[1]).write_text(block.code, encoding="utf-8")
        if block.language == "python":
            exec(compile("\n" * block.line + block.code, page, "exec"), shared)
        elif block.language in ("sh", "bash"):
            shell(block, monkeypatch, capsys)
        elif block.language in READ:
            READ[block.language](block.code)
        else:
            assert block.language in LEFT, f"{block.where}: a block of language {block.language!r}"


def shell(block: Block, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands of gainrl in this process, which has torch loaded already; anything else by bash."""
    lines = block.code.replace("\\\n", " ").splitlines()
    commands = [words for line in lines if (words := shlex.split(line, comments=True))]
    if any(words[0] != "gainrl" for words in commands):
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], check=True, env=environment)
        return
    from gainrl.cli import main

    for words in commands:
        monkeypatch.setattr("sys.argv", words)
        try:
            main()
            status: object = 0
        except SystemExit as end:
            status = end.code or 0
        finally:
            logging.getLogger("gainrl").setLevel(logging.NOTSET)
        said = capsys.readouterr()
        assert status == 0, f"{block.where}: {shlex.join(words)} ended with {status}: {said.out}{said.err}"


def test_every_fence_is_seen_and_a_block_that_is_not_run_gives_a_reason():
    for page in PAGES:
        text, found = page.read_text(encoding="utf-8"), blocks(page)
        assert text.count("\n```") + text.startswith("```") == 2 * len(found), page
        assert len(re.findall(r"^<!-- (?:not run|full):", text, flags=re.M)) == sum(bool(b.mark) for b in found), page
        assert [b.where for b in found if b.mark and len(b.reason.split()) < 3] == []
