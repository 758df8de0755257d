"""A folder in which the commands of the documentation find what they name: models, datasets, tables."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

QUESTIONS = [f"Tom has {k} apples and buys {k + 3} more. How many apples does Tom have?" for k in range(2, 14)]
GSM8K = [{"question": q, "answer": f"He has {2 * k + 5}.\n#### {2 * k + 5}"} for k, q in enumerate(QUESTIONS)]
CARD = "---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: train.jsonl}\n---\n"


def _lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted, small and real: a random Qwen2 under every name of a model."""
    from tiny_models import make_model

    folder = tmp_path_factory.mktemp("world")
    make_model(folder / "checkpoint", texts=QUESTIONS)
    for name in (
        "my-model",
        "Qwen/Qwen2.5-1.5B-Instruct",
        "runs/a/checkpoint-200",
        "cache/smollm2-135m-instruct",
    ):
        shutil.copytree(folder / "checkpoint", folder / name)
    (folder / "cache/smollm2-135m-instruct/gainrl-complete").touch()
    _lines(folder / "openai/gsm8k/train.jsonl", GSM8K)  # datasets takes a folder of the hub's name for the dataset
    (folder / "openai/gsm8k/README.md").write_text(CARD, encoding="utf-8")
    _lines(folder / "gsm8k/test.jsonl", GSM8K)
    _lines(folder / "prompts.jsonl", [{"prompt": [{"role": "user", "content": q}]} for q in QUESTIONS])
    _lines(folder / "math500_test.jsonl", [{"problem": "What is $6 \\cdot 7$?", "answer": "42", "unique_id": "a"}])
    _lines(folder / "numbers.jsonl", [{"number": k, "answer": ("even", "odd")[k % 2]} for k in range(4)])
    return folder
