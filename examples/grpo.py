"""GRPO with the curriculum:  python grpo.py MODEL problems.jsonl scores.parquet

A row of problems.jsonl has a chat in `prompt` and its result in `answer`.  The ranking is made once:
gainrl score --model MODEL --dataset problems.jsonl --directions --output scores.parquet
"""

import sys

from datasets import load_dataset

from gainrl import GainRLConfig, GainRLTrainer

model, problems, scores = sys.argv[1:]


def correct(completions, answer, **columns):
    """1 for a completion that contains the answer."""
    return [float(right in completion[0]["content"]) for completion, right in zip(completions, answer, strict=True)]


config = GainRLConfig("run", scores=scores, num_generations=8, max_completion_length=64, save_total_limit=2)
dataset = load_dataset("json", data_files=problems, split="train")
trainer = GainRLTrainer(model, reward_funcs=correct, args=config, train_dataset=dataset)
trainer.train()
trainer.save_model()
