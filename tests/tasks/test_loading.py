from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gainrl.errors import UserError
from gainrl.tasks import load_task

ROWS = [{"question": f"What is {n}+1?", "answer": f"So\n#### {n + 1}"} for n in range(5)]


def write(path: Path) -> Path:
    lines = "\n".join(map(json.dumps, ROWS)) + "\n"
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text(lines)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.jsonl.gz"])
def test_every_kind_of_local_file_gives_the_same_rows_and_their_number(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    rows = load_task("gsm8k").load("train", path, limit=3)
    assert [row["answer"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["prompt"][-1] == {"role": "user", "content": "What is 0+1?"}
    for task, options in [("gsm8k", {}), ("gsm8k", {"limit": 2}), ("arithmetic", {"limit": 2})]:
        size, rows = load_task(task).stream("train", path, **options)
        assert list(rows) == load_task(task).load("train", path, **options)
        assert size == options.get("limit", 5 if task == "gsm8k" else 2)


def test_what_is_wrong_with_a_late_row_is_said_before_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([*ROWS, {"question": "no answer"}]))
    with pytest.raises(UserError, match=r"row 5: task 'gsm8k' needs .* missing: answer"):
        load_task("gsm8k").stream("train", path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no rows"),
        ("a.jsonl", b"{broken", "line 1: not valid JSON"),
        ("a.jsonl", b"[1]", "an object is wanted, not int"),
        ("a.jsonl", b'{"problem": "x", "answer": "1"}', "missing: question .the row has problem, answer"),
        ("a.jsonl", b"\xff\xfe", "holds"),
        ("a.parquet", b"PAR1 not really", "cannot read"),
        ("a.jsonl.gz", b"plain", "holds neither JSON lines"),
        ("a.txt", b"x", "holds neither JSON lines"),
    ],
)
def test_a_bad_file_gets_a_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_task("gsm8k").load("test", path)


def test_a_missing_file_an_unknown_split_and_a_bad_limit_are_named(tmp_path: Path) -> None:
    task = load_task("gsm8k")
    with pytest.raises(UserError, match="no file"):
        task.load("test", tmp_path / "none.jsonl")
    with pytest.raises(UserError, match=r"no split 'dev'; its splits are train, test"):
        task.load("dev", write(tmp_path / "a.jsonl"))
    with pytest.raises(UserError, match="at least 1"):
        task.load("test", write(tmp_path / "a.jsonl"), limit=0)


def test_an_unreachable_hub_says_how_to_give_a_local_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"could not be loaded from the hub.*no route.*source=PATH.*question, answer"):
        load_task("gsm8k").load("test")
    with pytest.raises(
        UserError, match=r"test6.jsonl of .*no route.*source=PATH.*question_content or problem, starter_code, pub"
    ):
        load_task("livecodebench:v6").load("test")


def test_a_missing_datasets_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"gainrl\[tasks\]"):
        load_task("gsm8k").load("test")


def test_files_of_a_repository_are_read_one_after_another(monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[tuple[str, str, str]] = []

    def download(repository: str, name: str, repo_type: str) -> str:
        asked.append((repository, name, repo_type))
        return str(shared_data / "livecodebench" / "lcb_1873_A_with_private.jsonl")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    task = load_task("livecodebench:release_v2")
    assert task.name == "livecodebench:release_v2"
    assert [row["id"] for row in task.load("test")] == ["1873_A"] * 2
    assert asked == [("livecodebench/code_generation_lite", name, "dataset") for name in ("test.jsonl", "test2.jsonl")]
    asked.clear()
    assert len(load_task("livecodebench:v6").load("test", limit=1)) == 1
    assert [name for _, name, _ in asked] == ["test6.jsonl"]
    asked.clear()
    load_task("livecodebench").load("test", limit=1)
    assert [name for _, name, _ in asked] == ["test.jsonl"], "a file that is not needed is not fetched"
    with pytest.raises(UserError, match=r"no release 'v9': release_v1, .*v6"):
        load_task("livecodebench:v9")
