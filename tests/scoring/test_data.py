"""Datasets of every form become the same prompts, or are refused with what to do."""

from __future__ import annotations

import json

import pytest

from gainrl.errors import UserError
from gainrl.scoring import ScoringPrompt, open_rows, scoring_prompts

datasets = pytest.importorskip("datasets")
pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")

CALL = {"name": "add", "arguments": {"x": 1}}
ROWS = [
    {"prompt": [{"role": "user", "content": "how many apples"}], "answer": 3},
    {"prompt": [{"role": "assistant", "tool_calls": [CALL]}, {"role": "user", "content": "and now"}], "answer": 4},
]
PROMPTS = [ScoringPrompt(row["prompt"]) for row in ROWS]


def prompts(dataset, **options):
    return list(scoring_prompts(open_rows(dataset, **options)))


def test_files_folders_and_rows_in_memory_give_the_same_prompts(tmp_path):
    made = datasets.Dataset.from_list(ROWS)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    made.to_parquet(str(tmp_path / "p.parquet"))
    made.save_to_disk(str(tmp_path / "saved"))
    for dataset in (
        str(tmp_path / "p.jsonl"),
        tmp_path / "p.parquet",
        str(tmp_path / "saved"),
        ROWS,
        made,
        made.with_format("numpy"),
        made.to_iterable_dataset(),
        made.with_format("arrow"),
        made.remove_columns("prompt").with_transform(
            lambda batch: {"prompt": [ROWS[n - 3]["prompt"] for n in batch["answer"]]}
        ),
        pyarrow.Table.from_pylist(ROWS),
        datasets.DatasetDict(train=made),
        made.to_pandas(),
    ):
        assert prompts(dataset) == PROMPTS


def test_a_split_is_chosen_by_name_where_there_are_several():
    two = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(ROWS[:1]))
    assert open_rows(two, split="test").split == "test"
    assert prompts(two, split="test") == PROMPTS[:1]
    with pytest.raises(UserError, match=r"has the splits \['test', 'train'\]: choose one"):
        open_rows(two)
    with pytest.raises(UserError, match="has no split 'dev'"):
        open_rows(two, split="dev")


def test_several_datasets_follow_each_other_and_a_limit_counts_them_all(tmp_path):
    names = [str(tmp_path / f"{n}.jsonl") for n in range(2)]
    for name in names:
        (tmp_path / name).write_text('{"prompt": "a", "question": "a"}\n{"prompt": "b"}\n')
    opened = open_rows(names, limit=3)
    assert (opened.size, opened.name) == (3, " + ".join(names))
    assert list(scoring_prompts(opened)) == [ScoringPrompt("a", "a"), ScoringPrompt("b"), ScoringPrompt("a", "a")]
    assert list(scoring_prompts(opened)) == list(scoring_prompts(opened))


def test_a_missing_question_of_pandas_is_no_question():
    for dtype in (object, "string"):
        frame = pandas.DataFrame({"prompt": ["a", "b"], "question": pandas.Series(["a", None], dtype=dtype)})
        assert prompts(frame) == [ScoringPrompt("a", "a"), ScoringPrompt("b", None)]


def test_the_first_row_without_a_prompt_is_refused_a_later_one_fails_by_name():
    with pytest.raises(UserError, match=r"row 0 of the dataset has no column 'prompt', only \['text'\]"):
        prompts([{"text": "x"}])
    assert "no column 'prompt'" in str(prompts([{"prompt": "x"}, {"text": "x"}])[1].problem)


@pytest.mark.parametrize(
    ("dataset", "options", "said"),
    [
        ("none.jsonl", {}, "no such file"),
        ("./none", {}, "no such file"),
        ([], {}, "is empty"),
        ([{"prompt": "x"}], {"limit": 0}, "--limit 0"),
        ([{"prompt": "x"}], {"split": "train"}, "has no splits"),
        (7, {}, "int is no dataset"),
        ([7], {}, "an object is wanted|expected an object"),
    ],
)
def test_what_is_no_dataset_is_refused(dataset, options, said):
    with pytest.raises(UserError, match=said):
        prompts(dataset, **options)
