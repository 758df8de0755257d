"""prime-rl 0.8 (at 559b447) with a curriculum: run this in place of `orchestrator`, for tasksets that end.

Rollouts are asynchronous.  A group that is still under way when its task is handed out again counts as the new draw's.
Prompts under way at a checkpoint are handed out again after a resume.
"""

import itertools

from prime_rl.entrypoints.orchestrator import main
from prime_rl.orchestrator.curriculum import samplers

from gainrl.integrations.torch_data import CurriculumSampler, load_curriculum

PROMPTS_PER_DRAW = 64


class AngleSampler(samplers.TaskSampler):
    def __init__(self, tasks):
        self.tasks = list(tasks)
        prompts = [task.data.prompt for task in self.tasks]
        self.sampler = CurriculumSampler(load_curriculum("scores.parquet", prompts, PROMPTS_PER_DRAW))
        self.row_of = {task.key: row for row, task in enumerate(self.tasks)}
        self.rows = itertools.chain.from_iterable(self.sampler for _ in itertools.count())
        self.draws = {}  # in which each row was last handed out

    def __next__(self):
        row = next(self.rows)
        self.draws[row] = self.sampler.draw
        return self.tasks[row]

    def observe(self, group):
        row = self.row_of[group[0].task.key]
        traces = [trace for episode in group for trace in episode.traces if trace.agent.trainable]
        correct = [None if trace.has_error else float(trace.reward > 0.5) for trace in traces]
        rewards, draws = [trace.reward for trace in traces], [self.draws.get(row, -1)] * len(traces)
        self.sampler.observe([row] * len(traces), correct, rewards=rewards, draws=draws)

    def state_dict(self):
        return self.sampler.state_dict()

    def load_state_dict(self, state):
        self.sampler.load_state_dict(state)

    def metrics(self):
        return self.sampler.curriculum.navigator.metrics()


if __name__ == "__main__":
    samplers.StandardSampler = AngleSampler
    main()
