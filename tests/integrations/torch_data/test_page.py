"""docs/frameworks.md: blocks that need no other framework run as they stand; the others say that they were read."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from tables import score_table

READ = "(checked by reading)"


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 with torch 2.13
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_the_loop_and_the_stateful_loader_run_as_they_stand(page_blocks, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torchdata", reason="torchdata: not installed")
    datasets = pytest.importorskip("datasets", reason="datasets: not installed")
    prompts = [[{"role": "user", "content": f"question {n}"}] for n in range(40)]
    score_table(prompts, directions=True).write(tmp_path / "scores.parquet")
    monkeypatch.chdir(tmp_path)
    dataset = datasets.Dataset.from_list([{"prompt": prompt, "row": row} for row, prompt in enumerate(prompts)])
    seen = []

    def roll_out_and_train(rows):
        seen.append([row["row"] for row in rows])
        return [float(row["row"] % 3 > 0) for row in rows], [7] * len(rows)

    names = {"dataset": dataset, "roll_out_and_train": roll_out_and_train}
    for heading in ("A loop of one's own", "torchdata's StatefulDataLoader"):
        for block in page_blocks[heading]:
            exec(compile(block, heading, "exec"), names)
    assert [len(batch) for batch in seen] == [8] * 12
    assert all(batch[::2] == batch[1::2] for batch in seen)
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert names["state"]
    assert names["second"] != names["first"]


def test_prime_rls_sampler_hands_out_observes_late_and_goes_on_with_what_was_in_flight(
    page_blocks, tmp_path, monkeypatch
):
    """The page's class; prime-rl (Python 3.12 alone) is absent, its launcher not called, its tasks plain objects."""
    for name, contents in {
        "prime_rl": {}, "prime_rl.entrypoints": {}, "prime_rl.entrypoints.orchestrator": {"main": None},
        "prime_rl.orchestrator": {},
        "prime_rl.orchestrator.curriculum": {"samplers": SimpleNamespace(TaskSampler=Iterator)},
    }.items():  # fmt: skip
        module = types.ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    prompts = [f"question {n}" for n in range(40)]
    score_table(prompts, directions=True).write(tmp_path / "scores.parquet")
    monkeypatch.chdir(tmp_path)
    (block,) = page_blocks["prime-rl 0.8"]
    names = {"__name__": "orchestrator_curriculum"}
    exec(compile(block.replace("1024", "24"), "prime-rl", "exec"), names)
    tasks = [SimpleNamespace(key=row, data=SimpleNamespace(prompt=prompt)) for row, prompt in enumerate(prompts)]

    def group(task):
        agent = SimpleNamespace(trainable=True)
        traces = [SimpleNamespace(agent=agent, has_error=False, reward=float(k)) for k in range(2)]
        return [SimpleNamespace(task=task, traces=traces[k : k + 1]) for k in range(2)]

    sampler = names["AngleSampler"](tasks)
    first = [next(sampler) for _ in range(24)]
    for task in first[:12]:
        sampler.observe(group(task))
    second = [next(sampler) for _ in range(4)]  # drawn while half of the first epoch is in flight
    drawn = {sampler.sampler.row_of[name] for name in sampler.sampler.navigator.ids}
    waiting = [task for task in first[12:] if task not in second]
    gone = next(task for task in waiting if task.key not in drawn)
    drawn_again = next(task for task in waiting if task.key in drawn)
    for task in (gone, drawn_again, second[1], second[2]):
        sampler.observe(group(task))
    assert sampler.metrics()["epoch"] == 1
    assert sampler.sampler.navigator.late.rollouts == 4
    again = names["AngleSampler"](tasks)
    again.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    observed = {second[1].key, second[2].key}
    owed = [
        task for name in again.sampler.navigator.ids if (task := tasks[again.sampler.row_of[name]]).key not in observed
    ]
    assert [next(again) for _ in owed] == owed
    assert again.sampler.navigator.totals.rollouts == 8


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 with torch 2.13
def test_nemo_rls_loader_has_whole_batches_alone_and_every_rollout_is_counted(page_blocks, tmp_path, monkeypatch):
    """The page's two functions in the place of NeMo-RL's, which is absent; its datasets are plain objects."""
    pytest.importorskip("torchdata", reason="torchdata: not installed")
    import torch

    class Processed(list):
        def __init__(self, rows):
            super().__init__(rows)
            question = [{"role": "user"}, {"role": "assistant"}]
            self.dataset = [{"messages": [{**question[0], "content": f"question {n}"}, question[1]]} for n in rows]

    grpo = types.ModuleType("nemo_rl.algorithms.grpo")
    grpo.scale_rewards = lambda batch, config: batch
    algorithms = types.ModuleType("nemo_rl.algorithms")
    algorithms.grpo = grpo
    for name, module in (("nemo_rl", types.ModuleType("nemo_rl")), ("nemo_rl.algorithms", algorithms)):
        monkeypatch.setitem(sys.modules, name, module)
    prompts = [row["messages"][:-1] for row in Processed(range(40)).dataset]
    score_table(prompts, directions=True).write(tmp_path / "scores.parquet")
    monkeypatch.chdir(tmp_path)
    (block,) = page_blocks["NeMo-RL"]
    names = {}
    exec(compile(block.replace("1024", "15"), "NeMo-RL", "exec"), names)
    options = {"batch_size": 6, "shuffle": True, "collate_fn": list, "drop_last": True, "num_workers": 0}
    loader = grpo.StatefulDataLoader(Processed(range(40)), **options)
    sampler = names["trained_on"]["sampler"]
    assert (len(loader), sampler.navigator.n) == (2, 12)
    for rows in loader:
        batch = {"idx": rows, "total_reward": torch.tensor([float(row % 2) for row in rows])}
        assert grpo.scale_rewards(batch, None) is batch
    assert sampler.navigator.totals.rollouts == 12
    assert sampler.epoch == 1
    validation = grpo.StatefulDataLoader(Processed(range(3)), batch_size=2, shuffle=False)
    assert [len(rows) for rows in validation] == [2, 1]


def test_every_other_block_is_run_elsewhere_or_says_that_it_was_read(page_blocks):
    blocks = {heading: found for heading, found in page_blocks.items() if heading not in
              ("A loop of one's own", "torchdata's StatefulDataLoader")}  # fmt: skip
    assert set(blocks) == {"OpenRLHF 0.11", "prime-rl 0.8", "SkyRL", "NeMo-RL"}
    for heading, (block,) in blocks.items():
        compile(block, heading, "exec")
        assert (READ in block.splitlines()[0]) == (heading != "OpenRLHF 0.11")  # test_openrlhf.py
