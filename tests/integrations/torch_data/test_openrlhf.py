"""The example with the real OpenRLHF 0.11.2 and Ray (environment: scripts/vllm_environment.sh).

Real: PPOTrainer (its constructor, fit, train_step), prepare_datasets, PromptDataset, DeepspeedStrategy and its loader,
SamplesGenerator, Ray.  Replaced: the vLLM engines' answers, the groups of model actors (which keep the checkpoint), and
the experience maker, whose passes they make.  Absent: flash_attn, which needs CUDA.
"""

from __future__ import annotations

import copy
import json
import runpy
import sys
import types
import warnings
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from gainrl.curriculum import Outcomes
from gainrl.integrations.torch_data import load_curriculum
from tests.learners import Learner, learnt, table_of

if find_spec("openrlhf") is None or find_spec("vllm") is None:
    pytest.skip("openrlhf: not installed here (scripts/vllm_environment.sh)", allow_module_level=True)

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("default")]

ROWS, EPISODE, BATCH, SAMPLES = 24, 8, 4, 2
PROMPTS = [[{"role": "user", "content": f"question {n % 20}"}] for n in range(ROWS)]  # four occur twice


@pytest.fixture(scope="module")
def trainer_class():
    """The class of the example."""
    import accelerate  # noqa: F401  (whatever asks whether flash_attn is there has asked)
    import peft  # noqa: F401

    stubs = {
        "flash_attn": (),
        "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
        "flash_attn.utils": (),
        "flash_attn.utils.distributed": ("all_gather",),
    }
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, symbols in stubs.items():
            module = types.ModuleType(name)
            module.__spec__ = ModuleSpec(name, None)
            vars(module).update(dict.fromkeys(symbols))
            patch.setitem(sys.modules, name, module)
        example = Path(__file__).parents[3] / "examples" / "openrlhf" / "train_curriculum.py"
        yield runpy.run_path(str(example), run_name="train_curriculum")["CurriculumTrainer"]


@pytest.fixture(scope="module")
def ray_started():
    import ray

    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False)
    yield
    ray.shutdown()


def answers_right(number, sample):
    """Even numbers are answered right, odd ones wrong, and every third number by turns."""
    return sample % 2 == 0 if number % 3 == 0 else number % 2 == 0


class Engine:
    """A vLLM engine's face."""

    def __init__(self):
        import ray

        self.asked = []
        self.get_num_unfinished_requests = SimpleNamespace(remote=lambda: ray.put(0))
        self.generate_responses = SimpleNamespace(remote=lambda **given: ray.put(self._answers(**given)))

    def _answers(self, prompt, label, num_samples, **_):
        self.asked.append(prompt)
        scores = [float(answers_right(int(label), sample)) for sample in range(num_samples)]
        answer = {
            "prompt": prompt, "label": label, "observation_tokens": list(range(10)), "action_ranges": [(6, 10)],
            "rollout_log_probs": None, "truncated": False,
        }  # fmt: skip
        return [{**answer, "reward": score, "scores": score} for score in scores]


class Models:
    """A group of model actors: what it is asked to save."""

    def __init__(self, states=None):
        self.saved, self.states = [], states

    def async_run_method_batch(self, method_name, **_):
        return []

    def async_run_method(self, method_name, **given):
        import ray

        if method_name == "save_checkpoint":
            self.saved.append(copy.deepcopy(given["client_states"]))
        return [ray.put(self.states if method_name == "get_checkpoint_states" else {})]


def run(trainer_class, folder, states=None, *, filtering=False):
    from openrlhf.utils.config import hierarchize
    from openrlhf.utils.utils import get_strategy

    (folder / "ckpt" / "_actor").mkdir(parents=True, exist_ok=True)
    flat = {
        "data.prompt_dataset": str(folder / "prompts.jsonl"), "data.prompt_probs": None, "data.max_samples": 1000,
        "data.prompt_split": "train", "data.input_template": None, "data.dataloader_num_workers": 0,
        "data.input_key": "prompt", "data.label_key": "label", "data.apply_chat_template": True,
        "data.image_key": "images", "data.disable_fast_tokenizer": False,
        "eval.dataset": None, "eval.steps": -1,
        "train.seed": 3, "train.batch_size": BATCH * SAMPLES, "train.micro_batch_size": 1, "train.num_episodes": 3,
        "train.max_epochs": 1, "train.dynamic_batch_enable": False, "train.full_determinism_enable": False,
        "rollout.n_samples_per_prompt": SAMPLES, "rollout.batch_size": BATCH, "rollout.vllm_generate_batch_size": BATCH,
        "ckpt.save_steps": 1, "ckpt.path": str(folder / "ckpt"), "ckpt.load_enable": states is not None,
        "ckpt.best_metric_key": "none",
        "algo.kl.target": None, "algo.kl.init_coef": 0.0, "algo.dynamic_filtering_enable": filtering,
        "algo.dynamic_filtering_range": (0, 1),
        "algo.advantage.is_correction_level": "off", "algo.advantage.estimator": "rloo",
        "logger.wandb.key": None, "logger.tensorboard_dir": None, "logger.logging_steps": 1,
        "vllm.enable_sleep": False, "critic.freezing_steps": -1,
        "ds.enable_sleep": False, "ds.zero_stage": 2, "ds.param_dtype": "fp32", "ds.adam_offload": False,
        "ds.grad_accum_dtype": None, "ds.overlap_comm": False, "ds.zpg": 1, "ds.tensor_parallel_size": 1,
        "ds.ring_attn_size": 1, "ds.use_universal_ckpt": False, "ds.deepcompile": False,
        "use_ms": False, "local_rank": -1,
    }  # fmt: skip
    engine, models = Engine(), Models(states)
    strategy = get_strategy(hierarchize(SimpleNamespace(**flat)))
    trainer = trainer_class(str(folder / "model"), strategy, models, None, None, None, [engine])
    trainer.experience_maker = SimpleNamespace(make_experience_batch=lambda samples: samples)
    trainer.fit()
    return trainer, engine.asked, models.saved


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A folder with a model's tokenizer, the prompts and their score table; the navigator is `learner`."""
    from tests.tiny_models import make_tokenizer

    make_tokenizer(["question 1"]).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    rows = [{"prompt": prompt, "label": str(n % 20)} for n, prompt in enumerate(PROMPTS)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table_of(PROMPTS).write(tmp_path / "scores.parquet")
    monkeypatch.setenv("SCORES", str(tmp_path / "scores.parquet"))
    monkeypatch.setenv("PROMPTS_PER_EPISODE", str(EPISODE))
    monkeypatch.setattr("gainrl.curriculum.NAVIGATORS", {"probe": Learner})
    return tmp_path


def by_hand(folder):
    """The rows of three draws of the same curriculum, told what the answers were, and its navigator."""
    navigator, rows = load_curriculum(folder / "scores.parquet", PROMPTS, EPISODE, seed=3).navigator, []
    for _ in range(3):
        drawn = navigator.draw(EPISODE)
        right = [[answers_right(row % 20, sample) for sample in range(SAMPLES)] for row in drawn.tolist()]
        correct, mixed = [sum(pair) for pair in right], [len(set(pair)) > 1 for pair in right]
        two = [SAMPLES] * EPISODE
        navigator.observe(Outcomes(drawn, two, two, correct, mixed))
        rows += drawn.tolist()
    return navigator, rows


def test_openrlhf_trains_on_what_the_curriculum_draws_and_resumes_from_every_checkpoint(
    trainer_class, ray_started, scored
):
    trainer, asked, saved = run(trainer_class, scored)
    assert len(asked) == 3 * EPISODE
    assert trainer.get_max_steps() == 3 * EPISODE // BATCH
    expected, rows = by_hand(scored)
    assert asked == [trainer.prompts_dataloader.dataset.prompts[row] for row in rows]
    navigator = trainer.samples_generator.sampler.curriculum.navigator
    assert learnt(navigator).tolist() == learnt(expected).tolist()
    for states in saved[:-1]:
        again, more, _ = run(trainer_class, scored, states)
        assert more == asked[states["global_step"] * BATCH :]
        theirs = again.samples_generator.sampler.curriculum.navigator
        assert learnt(theirs).tolist() == learnt(navigator).tolist()


def test_rollouts_that_dynamic_filtering_drops_count_too(trainer_class, ray_started, scored):
    trainer, asked, saved = run(trainer_class, scored, filtering=True)
    expected, rows = by_hand(scored)
    assert len(saved) < 3 * EPISODE // BATCH  # groups were dropped: fewer steps
    texts = trainer.prompts_dataloader.dataset.prompts
    for start in range(0, 3 * EPISODE, EPISODE):  # replacements are asked for as answers come, in whatever order
        assert sorted(asked[start : start + EPISODE]) == sorted(texts[row] for row in rows[start : start + EPISODE])
    navigator = trainer.samples_generator.sampler.curriculum.navigator
    assert learnt(navigator).tolist() == learnt(expected).tolist()
