"""What lies beyond selection: bounds with an oracle, before anything is built.  README.md has the commands.

baseline   advantages (r − b)/√(b(1 − b)) in all groups;  b = (κm + k + mates' rewards)/(κ + n + g − 1),  m the true
           pass rate, or the probe's prediction;  k of n earlier rollouts of the prompt were right
rounds     every other pair of rollouts of a step begins a prompt; half of what is left goes to the half of those
           prompts with the largest p(1 − p), and so on.  The shape is so many pairs: 24x2
replay     one rollout of a group is a right answer by teacher forcing, weighted by its chance (Liang et al. 2018, arXiv
           1807.02322): all right answers are known (`--known all`), or those that earlier rollouts found (`found`)
kinds      draws by the mean p(1 − p) of a prompt's level: canaries that are never wrong
linear     draws by the best linear prediction of p(1 − p) from the probe's features, fitted to the truth
again      the same from directions that the present policy gives
probe      the probe with other constants: `--set REST=8 SHARPNESS=2`
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gainrl.curriculum import NAVIGATORS, probe
from gainrl.curriculum.prompts import Floats, Integers
from gainrl.integrations.trl import GainRLTrainer
from studies.convergence import protocol as protocols
from studies.convergence import study
from studies.convergence.__main__ import shape_of
from studies.convergence.bed import Bed, pass_rates
from studies.convergence.held_out import FAMILIES
from studies.convergence.measures import compared, factor
from studies.convergence.navigators import Oracle, register
from studies.convergence.report import table
from studies.generation import generate

RESULTS = study.RESULTS.with_name("convergence_bounds.jsonl")
FLOOR = 0.05
"""Least variance b(1 − b) that an advantage is divided by the root of."""
LEAST_REPLAY = 0.1
"""Least weight of a replayed answer."""
EVERY = 4
"""Draws between two looks at the directions."""


class Weighted(GainRLTrainer):
    """A trainer with its own `advantages`: (n, g) for the `rewards` (n, g) of the rows `drawn`."""

    bed: Bed
    advantages: Any

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._calculate_rewards(*args, **kwargs)
        self.rewards = found.sum(dim=1).double().numpy().reshape(len(self.drawn), -1)
        return found

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        out = super()._generate_and_score_completions(inputs)
        out["advantages"] = torch.from_numpy(self.advantages()).float().flatten()
        return out

    def chances(self, rows: Sequence[int], answers: Sequence[Sequence[str]] | None = None) -> Floats:
        """(n,) true pass rates of these rows, or the chances of these answers to them."""
        problems = [self.bed.problems[row] for row in rows]
        if answers is not None:
            problems = [dataclasses.replace(p, answers=tuple(a)) for p, a in zip(problems, answers, strict=True)]
        return pass_rates(self.model, self.bed.tokenizer, self.bed.family, problems)


class Baseline(Weighted):
    """See `baseline` above."""

    kappa, predicted = np.inf, False

    def advantages(self) -> Floats:
        """From the prediction, the prompt's earlier rollouts, and its mates."""
        if not hasattr(self, "earlier"):
            self.earlier = np.zeros((2, len(self.bed.problems), 1))
        (k, n), reward = self.earlier[:, self.drawn], self.rewards
        m = self.navigator.expected_accuracy(self.drawn) if self.predicted else self.chances(self.drawn)
        right, size = reward.sum(axis=1, keepdims=True), reward.shape[1]
        if np.isinf(self.kappa):
            b = np.broadcast_to(m[:, None], reward.shape)
        else:
            b = (self.kappa * m[:, None] + k + right - reward) / (self.kappa + n + size - 1)
        self.earlier[:, self.drawn] += np.stack([right, np.full_like(right, size)])
        return (reward - b) / np.sqrt(np.maximum(b * (1 - b), FLOOR))


class Replay(Weighted):
    """See `replay` above.  A replayed answer is no rollout, and is not counted as one."""

    known = "found"

    def rollout(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """TRL's `rollout_func`: the last of a group's rollouts gives way to an answer that is known."""
        if not hasattr(self, "memory"):
            problems = self.bed.problems if self.known == "all" else []
            self.memory: dict[int, set[str]] = defaultdict(set, {i: set(p.answers) for i, p in enumerate(problems)})
        group, tokenizer = self.num_generations, self.processing_class
        asked, ids = generate(
            self.model, tokenizer, prompts[::group], group, self.eos_token_ids, self.max_completion_length
        )
        self.weight, self.taken = np.zeros(len(self.drawn)), [set(self.memory[row]) for row in self.drawn.tolist()]
        for at, (row, answers) in enumerate(zip(self.drawn.tolist(), self.taken, strict=True)):
            if answers:
                each = self.chances([row] * len(answers), [[answer] for answer in sorted(answers)])
                self.weight[at] = np.clip(each.sum(), LEAST_REPLAY, 1.0)
                chosen = self.navigator.rng.choice(sorted(answers), p=each / each.sum() if each.sum() else None)
                written = tokenizer(chosen, add_special_tokens=False)["input_ids"]
                ids[(at + 1) * group - 1] = [*written, self.eos_token_ids[0]]
                self.navigator.extra = getattr(self.navigator, "extra", 0) - 1  # type: ignore[attr-defined]
        self.texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return {"prompt_ids": [one for one in asked for _ in range(group)], "completion_ids": ids, "logprobs": None}

    def advantages(self) -> Floats:
        """GRPO's where nothing is known; else the known answers' share by replay, the rest by rollouts outside it."""
        reward, size = self.rewards, self.rewards.shape[1]
        found = (reward - reward.mean(axis=1, keepdims=True)) / (reward.std(axis=1, ddof=1, keepdims=True) + 1e-4)
        for at, (weight, answers) in enumerate(zip(self.weight, self.taken, strict=True)):
            texts = self.texts[at * size : (at + 1) * size]
            if answers:
                fresh = np.array([text not in answers for text in texts[:-1]] + [False])
                rest = reward[at, fresh].mean() if fresh.any() else 0.0
                b = weight + (1 - weight) * rest
                scale = size / np.sqrt(max(b * (1 - b), FLOOR))
                found[at] = np.where(fresh, scale * (1 - weight) / max(fresh.sum(), 1) * (reward[at] - b), 0.0)
                found[at, -1] = scale * weight * (1 - b)
            self.memory[int(self.drawn[at])] |= {t for t, r in zip(texts, reward[at], strict=True) if r > 0}
        return found


class Rounds(Oracle):
    """See `rounds` above: a draw of n pairs, in which a prompt has several."""

    name = "rounds"

    def usefulness(self) -> Floats:
        """As the oracle's; kept for the rounds."""
        self.useful = super().usefulness()
        return self.useful

    def draw(self, n: int) -> Integers:
        """(n,) rows with repetitions."""
        super().draw(n // 2)
        live, pairs, left = self._last, [self._last], n - n // 2
        while left:
            best = np.argsort(-self.useful[live], kind="stable")
            live = live[best[: min(left, max(len(live) // 2, n // 8, 1))]]
            pairs.append(live)
            left -= len(live)
        return self.prompts.rows[np.concatenate(pairs)]


class ByPrompt(Weighted):
    """GRPO's advantages over all rollouts that a prompt has in a step, in however many pairs."""

    def advantages(self) -> Floats:
        """The same for each pair's own two rollouts as for the whole group."""
        found = np.empty_like(self.rewards)
        for row in np.unique(self.drawn):
            of = self.rewards[self.drawn == row]
            found[self.drawn == row] = (of - of.mean()) / (of.std(ddof=1) + 1e-4)
        return found


class Kinds(Oracle):
    """See `kinds`, `linear` and `again` above."""

    name, way = "kinds", "kinds"
    bed: Bed
    trainer: Any

    def usefulness(self) -> Floats:
        """(M,) what the draw goes by."""
        truth = super().usefulness()
        if self.way == "kinds":
            level = np.array([self.bed.problems[row].level for row in self.prompts.rows])
            return (np.bincount(level, truth) / np.maximum(np.bincount(level), 1))[level]
        if self.draws == 0 or (self.way == "again" and self.draws % EVERY == 0):
            self.x = self._features()
        fitted = np.linalg.solve(self.x @ self.x.T + np.eye(len(self.x)), self.x @ (truth - truth.mean()))
        return np.maximum(truth.mean() + fitted @ self.x, 1e-3)

    def _features(self) -> Any:
        from gainrl.integrations.shared import load_navigator
        from studies.convergence.training import scored

        with tempfile.TemporaryDirectory() as directory:
            made = scored(self.trainer.model, self.bed, Path(directory, "scores.parquet"))
            again = load_navigator(made, self.prompts.rows, "uniform").prompts
            return probe._features(again, 32)[0].astype(np.float64)


def run(options: argparse.Namespace) -> None:
    """One run; its result is kept."""
    from studies.convergence.training import run as train

    register()
    NAVIGATORS.update({kind.name: kind for kind in (Rounds, Kinds)})
    label, navigator, trainer = options.bound, options.arm, GainRLTrainer
    if options.bound == "baseline":
        label = f"baseline, κ {options.kappa:g}, {'predicted' if options.predicted else 'true'} m"
        trainer = type("Trainer", (Baseline,), {"kappa": options.kappa, "predicted": options.predicted})
    elif options.bound == "replay":
        label, trainer = f"replay, {options.known}", type("Trainer", (Replay,), {"known": options.known})
    elif options.bound == "rounds":
        navigator, trainer = "rounds", ByPrompt
    elif options.bound == "probe":
        navigator = "probe"
        for name, value in (item.split("=") for item in options.set):
            now = getattr(probe, name)
            setattr(probe, name, np.array([float(x) for x in value.split(",")]) if np.ndim(now) else type(now)(value))
        label = " ".join(["probe", *options.set])
    else:
        navigator = "kinds"

    def prepare(bed: Bed, trainer: Any) -> None:
        trainer.bed = bed
        if isinstance(trainer.navigator, Kinds):
            trainer.navigator.bed, trainer.navigator.trainer, trainer.navigator.way = bed, trainer, options.bound
        if isinstance(trainer, Replay):
            trainer.rollout_func = trainer.rollout

    shape = options.shape
    result = train(
        protocols.load(), options.family, navigator, options.seed, shape, trainer_class=trainer, prepare=prepare
    )
    study.append({**study.loaded(), **result, "arm": f"{navigator}: {label}", "usual": False}, options.output)
    print(f"{navigator}: {label}: {result['curve'][0]['accuracy']:.3f} to {result['curve'][-1]['accuracy']:.3f}, "
          f"{result['seconds']:.0f} s")  # fmt: skip


def report(options: argparse.Namespace) -> None:
    """Factors over uniform in the usual shape on the same base, of all runs on the bases of the bounds."""
    bounds = study.results(options.output)
    runs = [*study.results(), *bounds]
    cells: dict[tuple[str, ...], list[tuple[int, float, bool]]] = defaultdict(list)
    for one in runs:
        base = next(
            (u for u in runs if u["usual"] and (u["family"], u["base"]) == (one["family"], one["base"])),
            None,
        )
        pair = None if base is None else compared(runs, base, one)
        if pair is not None and one["base"] in {bound["base"] for bound in bounds}:
            shape = str(protocols.Shape(*one["shape"]))
            cells[(one["family"], one["base"], shape, one["arm"])].append((one["seed"], *pair))
    rows = [[*key, factor(pairs)] for key, pairs in sorted(cells.items())]
    print(table(["family", "base", "shape", "arm", "factor"], rows))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.convergence.bounds", description=__doc__.partition("\n")[0]
    )
    bounds = ("baseline", "rounds", "replay", "kinds", "linear", "again", "probe")
    parser.add_argument("bound", choices=[*bounds, "report"])
    parser.add_argument("--family", default="strings", choices=list(FAMILIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", type=shape_of, default="12x4@1e-4")
    parser.add_argument("--arm", default="oracle", choices=["uniform", "probe", "oracle"], help="baseline, replay")
    parser.add_argument("--kappa", type=float, default=np.inf, help="baseline: rollouts that the prediction is worth")
    parser.add_argument("--predicted", action="store_true", help="baseline: m is the probe's (--arm probe)")
    parser.add_argument("--known", default="found", choices=["found", "all"], help="replay")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="probe: constants of its module")
    parser.add_argument("--output", type=Path, default=RESULTS, help="another file of results")
    options = parser.parse_args()
    (report if options.bound == "report" else run)(options)


if __name__ == "__main__":
    main()
