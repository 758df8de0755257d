"""What a report shows of a run, and of several side by side."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from gainrl.report import figures
from gainrl.report.figures import Figure, Line
from gainrl.report.page import Page, Section, Table, count, percent, span
from gainrl.report.records import Floats, Record, Run, number, series
from gainrl.table import ScoreTable

FIFTHS = 5
MOVING = "Curves are moving means over a twentieth of the draws."
PROGRESS = {"accuracy": "Accuracy of rollouts", "mixed": "Mixed groups", "reward": "Reward",
            "tokens": "Tokens per rollout", "seconds": "Seconds per draw", "angle": "Angle concentration"}  # fmt: skip


def run_page(run: Run, prompts: int) -> Page:
    """The page of one run."""
    config, draws = run.config, run.draws
    table, last = run.table, (draws[-1] if draws else {})
    named = {"model": config.get("model_name_or_path"), "dataset": config.get("task") or config.get("dataset"),
             "navigator": last.get("navigator") or config.get("navigator")}  # fmt: skip
    facts = {name: value for name, value in named.items() if value}
    details = {"Settings of the run": yaml.safe_dump(dict(config), allow_unicode=True)} if config else {}
    if table:
        details["Provenance of the scores"] = json.dumps(json.loads(table.metadata.to_json()), indent=1)
    tiles = []
    if draws:
        recent = draws[-max(1, len(draws) // 4) :]
        tried = len({row for draw in draws for row in draw["rows"]})
        tiles = [
            (count(run.rollouts[-1]), f"rollouts in {count(len(draws))} draw{'s' * (len(draws) > 1)}"),
            (count(tried), f"different prompts{f' of {count(len(table))}' if table else ''}"),
            (count(np.nansum(series(draws, "tokens"))), "generated tokens"),
            (span(float(np.nansum(series(draws, "seconds")))), "wall time of the draws"),
            (percent(_mean(series(recent, "mixed"))), "mixed groups, last quarter"),
            (percent(_mean(series(recent, "accuracy"))), "right rollouts, last quarter"),
        ]
    sections = [_evaluations([run]), _draws(run), _progress([run]), _sources(run),
                *(_scores(table, prompts) if table else ())]  # fmt: skip
    return Page(run.name, facts, tiles, run.notes, sections, details)


def comparison_page(runs: Sequence[Run]) -> Page:
    """The page of several runs: accuracy and mixed groups over rollouts, and what each run cost."""
    rows = []
    for run in runs:
        rollouts, tokens, seconds = (np.nansum(series(run.draws, name)) for name in ("rollouts", "tokens", "seconds"))
        accuracy = number(run.evals[-1].get("accuracy")) if run.evals else None
        navigator = run.draws[-1].get("navigator") if run.draws else "–"
        mixed = percent(_mean(series(run.draws, "mixed")))
        rows.append([run.name, navigator, count(rollouts), count(tokens), span(seconds), mixed, percent(accuracy)])
    header = ["run", "navigator", "rollouts", "tokens", "time", "mixed groups", "last evaluation"]
    notes = [f"{run.name}: {note}" for run in runs for note in run.notes]
    sections = [Section("Cost", table=Table(header, rows)), _evaluations(runs), _progress(runs)]
    return Page(f"Comparison of {len(runs)} runs", {}, (), notes, sections, {})


def _evaluations(runs: Sequence[Run]) -> Section:
    curves, rows = [], []
    for run in runs:
        for task in dict.fromkeys(str(one.get("task")) for one in run.evals):
            of = [one for one in run.evals if str(one.get("task")) == task]
            spent = [0.0 if one.get("stage") == "before" else run.rollouts_at(number(one.get("step"))) for one in of]
            accuracy, low, high = (series(of, name) for name in ("accuracy", "low", "high"))
            name = task if len(runs) == 1 else f"{run.name}, {task}"
            curves.append(Line(name, np.array(spent), accuracy, low, high, points=True))
            for one, at, value, *ends in zip(of, spent, accuracy, low, high, strict=True):
                problems, unscorable = (count(number(one.get(key))) for key in ("rows", "unscorable"))
                shown = f"{percent(value)} ({' to '.join(f'{100 * end:.1f}' for end in ends)})"
                rows.append([f"{name}, {one.get('stage') or 'eval'}", count(at), shown, problems, unscorable])
    plot = figures.lines(curves, "rollouts of training", "accuracy", percent=True)
    header = ["evaluation", "rollouts", "accuracy", "problems", "unscorable"]
    lead = "Share of sampled completions that are right, with 95 % intervals over problems."
    return Section("Evaluations", lead, [(plot, "Accuracy on held-out problems")], Table(header, rows))


def _draws(run: Run) -> Section:
    x, draws = run.rollouts, run.draws
    shares = {name.replace("_", " "): _moving(series(draws, name)) for name in ("all_right", "mixed", "all_wrong")}
    rest = np.clip(1 - np.sum(list(shares.values()), axis=0), 0, 1)
    if _mean(rest) > 0.001:
        shares["other"] = rest
    alt = ", ".join(f"{name} {percent(_mean(part))} on average" for name, part in shares.items())
    plots = [(figures.stack(x, shares, "rollouts", f"Shares of groups: {alt}"), "Groups by their rewards")]
    plots += _prediction(draws, x, shares["mixed"])
    names = ("position_median", "position_p10", "position_p90", "mean", "sigma")
    median, p10, p90, mean, sigma = (series(draws, "metrics", name) for name in names)
    curves = [Line("drawn: median, 10 to 90 %", x, median, p10, p90)]
    if np.isfinite(mean).any():
        curves.append(Line("window: mean ± σ", x, mean, mean - sigma, mean + sigma))
    positions = figures.lines(curves, "rollouts", "position in the ranking")
    plots.append((positions, "Position in the ranking; 0 is the highest score"))
    if run.table is not None and draws:
        fifth = np.minimum(run.table.column("position") * FIFTHS // len(run.table), FIFTHS - 1)
        per_draw = [np.bincount(fifth[draw["rows"]], minlength=FIFTHS) / len(draw["rows"]) for draw in draws]
        fifths = [f"{100 * at // FIFTHS}–{100 * (at + 1) // FIFTHS} %" for at in range(FIFTHS)]
        by_fifth = {name: _moving(share) for name, share in zip(fifths, np.transpose(per_draw), strict=True)}
        stack = figures.stack(x, by_fifth, "rollouts", "Share of the draws by fifth of the ranking.")
        plots.append((stack, "Draws by fifth of the ranking; the first has the highest scores"))
    lead = f"Only mixed groups teach: a group whose rewards are all alike has no advantage. {MOVING}"
    return Section("Draws", lead, plots)


def _prediction(draws: Sequence[Record], x: Floats, mixed: Floats) -> list[tuple[Figure | None, str]]:
    """Plots of the predicted chance of a mixed group; none if the navigator predicts nothing."""
    pairs = np.array([
        (chance, outcome[2])
        for draw in draws
        for chance, outcome in zip(draw.get("predicted") or [], draw.get("outcome") or [], strict=False)
        if number(chance) is not None and outcome[0]
    ], dtype=np.float64).reshape(-1, 2)  # fmt: skip
    if not len(pairs):
        return []
    means = np.array([_mean(series([{"p": p} for p in draw.get("predicted") or []], "p")) for draw in draws])
    curves = [Line("predicted", x, _moving(means)), Line("observed", x, mixed)]
    bins = np.clip((10 * pairs[:, 0]).astype(int), 0, 9)
    groups = [pairs[bins == at] for at in np.unique(bins)]
    chance, share = (np.array([part[:, column].mean() for part in groups]) for column in (0, 1))
    size = np.array([len(part) for part in groups])
    half = 1.96 * np.sqrt((share * (1 - share) * size + 1) / (size + 4) ** 2)  # Agresti and Coull's, about the share
    line = Line("observed", chance, share, np.clip(share - half, 0, 1), np.clip(share + half, 0, 1), points=True)
    return [
        (figures.lines(curves, "rollouts", "mixed groups", percent=True), "Mixed groups: predicted and observed"),
        (figures.lines([line], "predicted chance", "observed share", percent=True, diagonal=True),
         "Observed share by predicted chance, with 95 % intervals"),
    ]  # fmt: skip


def _progress(runs: Sequence[Run]) -> Section:
    plots = []
    for name, label in PROGRESS.items():
        same = name == "reward" and all(one.get("reward") == one.get("accuracy") for run in runs for one in run.draws)
        if same or (name == "mixed" and len(runs) == 1):
            continue  # a single run shows mixed groups among its groups
        curves = []
        for run in runs:
            values = series(run.draws, name)
            if name == "tokens":
                values = values / np.maximum(series(run.draws, "rollouts"), 1)
            curves.append(Line(run.name, run.rollouts, _moving(values)))
        plots.append((figures.lines(curves, "rollouts", label, percent=name in ("accuracy", "mixed")), label))
    lead = f"Every draw has other prompts: a level curve over harder prompts is progress too. {MOVING}"
    return Section("Training", lead, plots)


def _sources(run: Run) -> Section:
    names = sorted({name for draw in run.draws for name in draw.get("sources") or {}})
    of = {
        name: {key: series(run.draws, "sources", name, key) for key in ("groups", "accuracy", "mixed")}
        for name in names
    }
    curves = [Line(name, run.rollouts, _moving(one["accuracy"])) for name, one in list(of.items())[:6]]
    plot = figures.lines(curves, "rollouts", "accuracy", percent=True)
    rows = [
        [name, count(np.nansum(one["groups"])), percent(_mean(one["accuracy"])), percent(_mean(one["mixed"]))]
        for name, one in of.items()
    ]
    header = ["source", "groups", "accuracy", "mixed groups"]
    return Section("By source", "", [(plot, "Accuracy of rollouts, six sources at most")], Table(header, rows))


def _scores(table: ScoreTable, prompts: int) -> list[Section]:
    score = table.column("score").astype(np.float64)
    reasons = Counter(zip(table.column("status"), table.columns["reason"].to_pylist(), strict=True))
    rows = [[": ".join(filter(None, pair)), count(number)] for pair, number in reasons.most_common(30)]
    falling = Line("score", np.arange(len(score), dtype=np.float64), -np.sort(-score))
    plots = [(figures.lines([falling], "position in the ranking", "score C"), "Score C, highest first")]
    lead = "Angle concentration of each prompt's final hidden states before training."
    found = [Section("Scores", lead, plots, Table(["status of the row", "rows"], rows))]
    if "prompt" in table.columns.column_names:
        order = np.argsort(table.column("position"))
        order = order[np.isfinite(score[order])]
        for title, chosen in (("Highest scores", order[:prompts]), ("Lowest scores", order[prompts:][::-1][:prompts])):
            found.append(Section(title, prompts=[_prompt(row) for row in table.columns.take(chosen).to_pylist()]))
    return found


def _prompt(row: dict[str, Any]) -> dict[str, Any]:
    text = row["prompt"] or "(the table does not hold this prompt's text)"
    try:
        messages = [(one["role"], one["content"] if len(one) == 2 else json.dumps(one)) for one in json.loads(text)]
    except (ValueError, TypeError, KeyError):
        messages = [("", text)]
    facts = [f"position {row['position']}", f"C {row['score']:.4f}", f"{row['question_tokens']} question tokens"]
    return {"facts": [*facts, f"row {row['row']}"], "messages": messages}


def _moving(values: Floats) -> Floats:
    """A moving mean over a twentieth of the values, NaN left out."""
    width = max(1, len(values) // 20)
    there = np.isfinite(values)
    sums, counts = (
        np.convolve(part, np.ones(width), mode="same") if len(values) else part
        for part in (np.where(there, values, 0), there.astype(float))
    )
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _mean(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
