"""What does angle concentration say about a prompt?  Measured on real models; `docs/signal.md` has the findings.

cases        which models and problems; prompts of plain text behind worked examples
measure      scores, rollouts and gradients of a case, kept in parts, so that a run goes on where it stopped
gradients    gradient norms of one prompt: its GRPO step, its question's and its answer's likelihood
statistics   rank correlations with length partialled out, bootstrap intervals, the ridge probe
stability    the ranking before and after training
tables       result files to tables

python -m benchmarks.signal_study measure [CASE...] [--minutes M]    writes benchmarks/results/signal_CASE.json
python -m benchmarks.signal_study stability CASE [--after MODEL...]  writes signal_stability_CASE.json
python -m benchmarks.signal_study tables                             the tables of what there is
"""
