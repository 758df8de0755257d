"""`gainrl profile`: a table of four phases, a trace, and what cannot be profiled."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gainrl.cli import main
from gainrl.scoring.base import PHASES

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_models import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), texts=["How many apples are left?"])


@pytest.fixture
def profiled(model, tmp_path, monkeypatch, capsys):
    """`profiled(rows, *options)` -> (status, what was printed)."""

    def run(rows, *options):
        data = tmp_path / "p.jsonl"
        data.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
        words = ["--model", model, "--dataset", str(data), "--dtype", "float32", *map(str, options)]
        monkeypatch.setattr(sys, "argv", ["gainrl", "profile", *words])
        status = 0
        try:
            main()
        except SystemExit as done:
            status = int(done.code or 0)
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def test_the_table_has_all_phases_and_the_trace_names_them(profiled, tmp_path):
    rows = [[{"role": "user", "content": f"how many {n} apples"}] for n in range(40)]
    status, said = profiled(rows, "--trace", tmp_path / "t.json", "--nll")
    assert status == 0, said
    seconds = {words[0]: float(words[1]) for line in said.splitlines() if len(words := line.split()) == 4}
    assert set(PHASES) <= set(seconds)
    assert seconds["forward"] > 0
    assert "40 of 40 prompts scored" in said
    names = {event.get("name") for event in json.loads((tmp_path / "t.json").read_text())["traceEvents"]}
    assert {f"gainrl:{phase}" for phase in PHASES} <= names


def test_what_cannot_be_profiled_is_said_in_one_sentence(profiled, tmp_path):
    status, said = profiled([""])
    assert (status, "empty prompt" in said) == (2, True)
    status, said = profiled(["a"], "--trace", tmp_path / "no" / "t.json")
    assert (status, "does not exist" in said) == (2, True)
