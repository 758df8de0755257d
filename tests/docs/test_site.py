"""The documentation site builds without a warning, and shows what the code has."""

from __future__ import annotations

import dataclasses
import html
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import yaml

pytest.importorskip("mkdocs", reason="mkdocs: pip install 'gainrl[docs]'")
ROOT = Path(__file__).parents[2]
if not (ROOT / "mkdocs.yml").exists():
    pytest.skip("mkdocs.yml is not beside these tests (they run on an installed wheel)", allow_module_level=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text(page: Path) -> str:
    """The page's article as plain text."""
    article = re.search(r"<article.*?</article>", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert article is not None, page
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", article[0])).split())


def test_every_verb_and_option_is_on_the_page_of_commands(site, run_cli):
    from gainrl.cli import VERBS

    page = text(site / "cli.html")
    for verb in VERBS:
        assert f"gainrl {verb} [OPTIONS]" in page
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", run_cli([verb, "--help"])[1])) - {"--help"}
        assert {option for option in options if option not in page} == set()


def test_every_setting_is_on_the_page_of_settings(site):
    pytest.importorskip("trl", reason="trl: pip install 'gainrl[trl]'")
    from gainrl.integrations.trl.config import CurriculumArguments
    from gainrl.integrations.trl.run_config import RunConfig

    page = text(site / "configuration.html")
    names = [field.name for owner in (RunConfig, CurriculumArguments) for field in dataclasses.fields(owner)]
    assert [name for name in names if name.removeprefix("curriculum_") not in page] == []


def test_every_environment_variable_of_the_package_is_on_the_page_of_settings():
    code = [*ROOT.glob("gainrl/**/*.py"), *ROOT.glob("csrc/**/*.cpp")]
    read = r"(?:environ(?:\.get\(|\.setdefault\(|\[)|getenv\()\s*\"(GAINRL_\w+)\""
    used = {name for path in code for name in re.findall(read, path.read_text(encoding="utf-8"))}
    assert len(used) >= 4
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert {name for name in used if f"`{name}`" not in page} == set()


def test_the_page_of_benchmarks_has_the_figures_of_the_readme(site):
    assert "of a step in fp32" in text(site / "benchmarks.html")


def test_every_page_is_in_the_navigation():
    def pages(item: object) -> list[str]:
        if isinstance(item, str):
            return [item]
        return [page for part in (item.values() if isinstance(item, dict) else item) for page in pages(part)]

    named = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    there = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted(there)


def test_the_site_fetches_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img)[^>]*(?:src|href)=\"?(https?://[^\" >]+)", page.read_text(encoding="utf-8")
        )
        assert [address for address in loaded if "canonical" not in address] == [], page


def test_public_names_are_documented_with_their_arguments(site):
    page = text(site / "api" / "op.html")
    assert "angle_concentration" in page
    assert "cu_seqlens" in page
    assert "Any row stride and alignment" in page
    assert "NON_FINITE" in page
    samplers = text(site / "api" / "samplers.html")
    for name in ("load_curriculum", "prompts_per_batch", "observe", "load_state_dict", "navigator_in_state"):
        assert name in samplers
    assert "Undefined, skipped and failed prompts are NaN" in text(site / "api" / "scoring.html")


def test_an_option_without_help_stops_the_build():
    import typer

    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "scripts" / "docs_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)

    def verb(quiet=False) -> None:
        """A verb."""

    verb.__annotations__["quiet"] = Annotated[bool, typer.Option()]
    with pytest.raises(ValueError, match="gainrl verb: quiet has no help"):
        list(hooks._parameters("verb", verb))
