"""Convergence study: does a curriculum reach the same accuracy with fewer rollouts?  See README.md beside this file.

families, held_out   graded problems; the held-out families chose nothing
tokens, base         the tokenizer, and small models that are partly able (pretrained once, cached)
bed                  one family and seed: dataset, base model, fresh problems, exact pass rates
rankings, arms       what each arm ranks by and how it draws; `oracle` knows the true pass rates
training             one arm through gainrl's own trainer, measured
study                what is missing, in a good order
statistics, report   rollouts to a level, intervals over seeds; tables, plots, convergence.json
"""
