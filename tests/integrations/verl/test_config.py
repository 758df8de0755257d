"""Three lines of configuration, what they set, and mistakes in them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from verl_support import THREE_LINES, OmegaConf, compose, initialize_config_module, make_config, rank, write_dataset

from gainrl.errors import UserError

KEYS = {
    "data.custom_cls.path": "pkg://gainrl.integrations.verl",
    "data.custom_cls.name": "CurriculumDataset",
    "data.shuffle": False,
    "data.dataloader_num_workers": 0,
    "actor_rollout_ref.model.external_lib": "gainrl.integrations.verl.actor",
    "trainer.checkpoint_callback_class": "gainrl.integrations.verl.CurriculumCheckpoint",
    "trainer.v1.sampler.custom_sampler.path": "pkg://gainrl.integrations.verl",
    "trainer.v1.sampler.custom_sampler.name": "replay_buffer",
}

ROOT = Path(__file__).parents[3]
Configure = Callable[..., Any]


@pytest.fixture
def configure(dataset: Path, model: str, scores: Path, tmp_path: Path) -> Configure:
    def make(*overrides: str, train: Path = dataset) -> Any:
        return make_config(tmp_path / "run", model, train, scores, *overrides)

    return make


def train_dataset(config: Any) -> Any:
    from verl.trainer.ppo.utils import create_rl_dataset
    from verl.utils import hf_tokenizer

    tokenizer = hf_tokenizer(config.actor_rollout_ref.model.path)
    return create_rl_dataset(config.data.train_files, config.data, tokenizer, None)


def test_three_lines_turn_the_curriculum_on() -> None:
    assert len(THREE_LINES) == 3
    with initialize_config_module("verl.trainer.config", version_base=None):
        plain = compose(config_name="ppo_trainer")
        config = compose(config_name="ppo_trainer", overrides=[line.format(scores="s.parquet") for line in THREE_LINES])
    for key, value in KEYS.items():
        assert OmegaConf.select(config, key) == value, key
        assert OmegaConf.select(plain, key) != value, key  # none of them is set in vain
    OmegaConf.set_struct(config, False)
    for key in KEYS:
        OmegaConf.update(config, key, OmegaConf.select(plain, key))
    del config.data["gainrl"]
    config.trainer.v1.sampler.sampler_kwargs = {}
    assert config == plain  # and nothing else is


def test_verls_command_line_composes_the_example(tmp_path: Path) -> None:
    """verl's own entry point takes the example's lines (and would go on to train)."""
    scores = tmp_path / "scores.parquet"
    scores.touch()  # ranked already
    environment = {**os.environ, "SCORES": str(scores), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [str(ROOT / "examples/verl/gsm8k.sh"), "--cfg", "job", "--package", "data.gainrl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"scores: {scores}" in done.stdout
    assert "prompts_per_epoch: 256" in done.stdout
    assert "directory: ${trainer.default_local_dir}" in done.stdout


@pytest.mark.parametrize("page", ["docs/verl.md", "examples/verl/gsm8k.sh"])
def test_the_page_and_the_example_have_the_three_lines(page: str) -> None:
    text = (ROOT / page).read_text().replace("'", "").replace('"', "")
    for line in THREE_LINES:
        assert line.partition("{")[0] in text


def test_every_setting_of_the_packaged_group_is_known_and_has_its_default() -> None:
    import dataclasses

    from gainrl.integrations.verl.settings import Run, Settings

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(config_name="ppo_trainer", overrides=[line.format(scores="s") for line in THREE_LINES])
    section = OmegaConf.to_container(config.data.gainrl)
    assert isinstance(section, dict)
    assert set(section) == {field.name for field in dataclasses.fields(Settings) if field.init}
    assert set(section["run"]) == {field.name for field in dataclasses.fields(Run)}
    for field in dataclasses.fields(Settings):
        if field.default is not dataclasses.MISSING:
            assert section[field.name] == field.default, field.name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+data.gainrl.sigmaa=3", r"data\.gainrl\.sigmaa is not a setting; the nearest name is 'sigma'"),
        ("data.gainrl.sigma=0", r"sigma must be a positive finite number, got 0"),
        ("data.gainrl.navigator=random", r"data\.gainrl\.navigator='random': the nearest name is .* \(of gaussian, "),
        ("data.gainrl.components=0", r"data\.gainrl\.components=0: give an integer from 1 to 128"),
        ("data.gainrl.explore=2", r"data\.gainrl\.explore=2: give a share of the epoch"),
        (
            "data.gainrl.memory=9",
            r"data\.gainrl\.memory=9 works with the navigator posterior, not with 'gaussian': leave",
        ),
        (
            "data.gainrl.sigma=1000 data.gainrl.navigator=probe",
            r"data\.gainrl\.sigma=1000 works with the navigators gaussian, target, not with 'probe' \(the default\): "
            r"leave it out, or choose data\.gainrl\.navigator='gaussian'",
        ),
        ("data.gainrl.angle=prompt", r"angle='prompt': choose one of auto, actor, table \(.*prompt is table\)"),
        ("+data.gainrl.backfill=true", r"backfill is a setting of gainrl train alone: .*algorithm\.filter_groups"),
        ("+data.gainrl.rerank_every=2", r"rerank_every is a setting of gainrl train alone: rank again between runs"),
        ("+data.gainrl.accuracy_rewards=[a]", r"accuracy_rewards is a setting of .*data\.gainrl\.accuracy"),
        (
            "data.gainrl.prompts_per_epoch=6",
            r"prompts_per_epoch=6 is no multiple of data\.train_batch_size=4: use 4 or 8",
        ),
        ("data.gainrl.prompts_per_epoch=28", r"prompts_per_epoch=28, but of 24 prompts at most 24 fit an epoch"),
        ("data.train_batch_size=32", r"24 prompts can be drawn, but an epoch needs 32"),
        ("data.gen_batch_size=3", r"no multiple of data\.gen_batch_size=3"),
        ("data.shuffle=true", r"data\.shuffle=true would undo the curriculum's order"),
        ("data.dataloader_num_workers=8", r"data\.dataloader_num_workers=8: a worker process would choose prompts"),
        ("data.gainrl.accuracy_range=[1,0]", r"accuracy_range=\[1, 0\] must be finite, with low below high"),
        (
            "data.gainrl.skip_mastered=2 data.gainrl.navigator=posterior",
            r"skip_mastered=2 works with the navigators .* not with 'posterior'",
        ),
        ("reward.reward_model.enable=true", r"enable_resource_pool=true"),
    ],
)
def test_a_mistake_is_refused_by_name(configure: Configure, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_dataset(configure(*override.split()))


def test_the_default_over_a_table_without_directions_says_so_once(
    configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made = train_dataset(configure("data.gainrl.navigator=probe"))
    assert caplog.text.count("so that data.gainrl.navigator=probe goes by ranking and question length alone") == 1
    assert made.curriculum.navigator.features.components == 0


def test_scores_must_be_given(configure: Configure) -> None:
    config = configure()
    config.data.gainrl.scores = "???"
    with pytest.raises(UserError, match=r"data\.gainrl\.scores is not set.*gainrl score"):
        train_dataset(config)


def test_a_table_of_another_dataset_is_refused_by_name(configure: Configure, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other.parquet", seed=1)
    with pytest.raises(UserError, match=r"another dataset: of 24 prompts of data\.train_files=.*other\.parquet"):
        train_dataset(configure(train=tmp_path / "other.parquet"))


def test_a_table_of_more_than_the_first_samples_is_refused_with_the_limit(
    configure: Configure, model: str, dataset: Path, tmp_path: Path
) -> None:
    from verl.trainer.ppo.utils import create_rl_dataset
    from verl.utils import hf_tokenizer

    def first(config: Any) -> Any:  # as verl's trainers do
        tokenizer = hf_tokenizer(config.actor_rollout_ref.model.path)
        count = config.data.train_max_samples
        return create_rl_dataset(config.data.train_files, config.data, tokenizer, None, max_samples=count)

    with pytest.raises(UserError, match=r"data\.train_max_samples=16 takes the first: score with --limit 16"):
        first(configure("data.train_max_samples=16"))
    scores = rank(model, [dataset], tmp_path / "limited.parquet", "--limit", "16")
    made = first(configure("data.train_max_samples=16", f"data.gainrl.scores={scores}"))
    assert len(made.dataframe) == 16


@pytest.mark.parametrize(
    "given",
    [
        ("trainer.v1.trainer_mode=colocate_async",),
        ("algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=acc"),
        ("trainer.v1.sampler.sync_refill_failed_groups=true",),
    ],
)
def test_a_fetch_size_that_verl_overrides_is_not_refused(configure: Configure, given: tuple[str, ...]) -> None:
    made = train_dataset(configure("data.gen_batch_size=3", *given))
    assert made.curriculum.settings.fetches_single_prompts


def test_several_training_files_are_ranked_as_one_table(
    configure: Configure, model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    prompts = write_dataset(files[0], count=10) + write_dataset(files[1], count=14)  # the first ten are in both
    scores = rank(model, files, tmp_path / "scores.parquet")
    both = f"data.train_files=[{files[0]},{files[1]}]"
    made = train_dataset(configure(both, f"data.gainrl.scores={scores}", "data.gainrl.prompts_per_epoch=24"))
    from gainrl.table import ScoreTable, content_ids

    assert ScoreTable.read(scores).ids == content_ids(prompts)
    drawn = {made[index]["extra_info"]["gainrl"]["id"]: made[index]["raw_prompt"] for index in range(24)}
    assert drawn == dict(zip(content_ids(prompts), prompts, strict=True))
    other = f"data.train_files=[{files[1]},{files[0]}]"
    with pytest.raises(UserError, match=r"in another order"):
        train_dataset(configure(other, f"data.gainrl.scores={scores}"))


def test_a_run_without_group_filtering_in_its_configuration_composes(configure: Configure) -> None:
    assert train_dataset(configure("algorithm.filter_groups=null")).curriculum.most_in_flight == 0


def test_prompts_that_verl_filters_out_are_never_drawn(
    configure: Configure, dataset: Path, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    import pyarrow.parquet as pq
    from verl.utils import hf_tokenizer

    render = hf_tokenizer(model).apply_chat_template
    prompts = pq.read_table(dataset)["prompt"].to_pylist()
    lengths = sorted(len(render(prompt, add_generation_prompt=True, return_dict=False)) for prompt in prompts)
    median = lengths[12]
    with caplog.at_level(logging.WARNING):
        made = train_dataset(configure("data.filter_overlong_prompts=true", f"data.max_prompt_length={median}"))
    kept = len(made.dataframe)
    assert 8 <= kept < 24
    assert f"{24 - kept} prompts that verl or the scoring pass left out are never drawn" in caplog.text
    seen = [made[index] for index in range(8)]
    from gainrl.table import content_ids

    assert [row["extra_info"]["gainrl"]["id"] for row in seen] == content_ids([row["raw_prompt"] for row in seen])


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["trainer.use_v1=false"], "the V0 trainer"),
        (["actor_rollout_ref.actor.strategy=veomni"], "'veomni'"),
        (["actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"], "ulysses_sequence_parallel_size=2"),
        (["algorithm.rollout_correction.bypass_mode=true"], "bypass_mode=true"),
    ],
)
def test_where_the_actor_cannot_measure_the_table_is_taken_or_the_run_refused(
    configure: Configure, overrides: list[str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        made = train_dataset(configure(*overrides))
    assert made.curriculum.angle_source == "table"
    assert reason in caplog.text
    with pytest.raises(UserError, match="angle=actor is impossible here"):
        train_dataset(configure(*overrides, "data.gainrl.angle=actor"))


def test_an_asynchronous_epoch_must_hold_the_warm_up(configure: Configure) -> None:
    mode = "trainer.v1.trainer_mode=colocate_async"
    with pytest.raises(UserError, match=r"an epoch of less than 8 prompts would be drawn before anything"):
        train_dataset(configure(mode, "data.gainrl.prompts_per_epoch=4"))
    with pytest.raises(UserError, match=r"less than 16 "):
        train_dataset(configure(mode, "trainer.v1.colocate_async.num_warmup_batches=2.5"))


def test_without_a_size_an_epoch_is_about_a_thousand_prompts_or_what_there_is(configure: Configure) -> None:
    assert len(train_dataset(configure("data.gainrl.prompts_per_epoch=null"))) == 24
    from gainrl.integrations.verl.settings import Run, Settings

    settings = Settings("s.parquet", Run("."), navigator="posterior")
    assert [settings.epoch_size(batch, 7473) for batch in (1024, 256, 32, 4000)] == [1024, 1024, 1024, 4000]
    settings = Settings("s.parquet", Run(".", gen_batch_size=384), navigator="posterior")
    assert [settings.epoch_size(128, 7473), settings.epoch_size(128, 500)] == [1152, 384]


def test_without_a_size_an_epoch_of_probe_is_one_batch_or_the_fewest_that_the_trainer_can_do_with(
    configure: Configure,
) -> None:
    default = ("data.gainrl.prompts_per_epoch=null", "data.gainrl.navigator=probe")
    assert len(train_dataset(configure(*default))) == 4
    assert len(train_dataset(configure(*default, "data.gen_batch_size=12"))) == 12
    assert len(train_dataset(configure(*default, "+rollout.nnodes=1"))) == 8  # verl's one-step off-policy
    assert len(train_dataset(configure(*default, "trainer.v1.trainer_mode=colocate_async"))) == 8
    from gainrl.integrations.verl.settings import Run, Settings

    assert [Settings("s.parquet", Run(".")).epoch_size(batch, 7473) for batch in (1024, 16, 4000)] == [1024, 16, 4000]
    assert Settings("s.parquet", Run(".", rollout_nodes=1)).epoch_size(16, 20) == 16  # all there are


def test_another_release_warns_with_the_tested_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from gainrl.integrations.verl import extension

    monkeypatch.setattr(extension, "version", lambda name: "0.10.0")
    extension.warn_if_untested.cache_clear()
    with caplog.at_level(logging.WARNING):
        extension.warn_if_untested()
    assert "tested with verl 0.9.1; this is verl 0.10.0" in caplog.text
    extension.warn_if_untested.cache_clear()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("verl.utils.dataset.rl_dataset", "RLHFDataset.maybe_filter_out_long_prompts"),
        ("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer._clear_groups"),
        ("verl.trainer.ppo.checkpoint_callback", "CheckpointCallback.on_save"),
        ("verl.utils.transferqueue_utils", "TQ_INITIALIZED"),
    ],
)
def test_a_missing_extension_point_is_named(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    from gainrl.integrations.verl import extension

    points = extension.CUSTOM_DATASET + extension.REPLAY_BUFFER + extension.CHECKPOINT_CALLBACK + extension.ACTOR
    assert (module, name) in points
    extension.require(points)
    owner, _, attribute = name.rpartition(".")
    home = importlib.import_module(module)
    monkeypatch.delattr(getattr(home, owner) if owner else home, attribute)
    with pytest.raises(UserError, match=rf"no extension point {module}\.{name}.*tested with verl 0\.9\.1"):
        extension.require(points)


def test_parts_that_are_configured_apart_are_named(configure: Configure) -> None:
    from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback

    config = configure()
    assert type(build_checkpoint_callback(config)).__name__ == "CurriculumCheckpoint"
    config.trainer.v1.sampler.custom_sampler.name = None
    with pytest.raises(UserError, match=r"trainer\.v1\.sampler\.custom_sampler\.name=None.*'replay_buffer'"):
        build_checkpoint_callback(config)


def test_a_trainer_that_observes_nothing_is_told_so(configure: Configure) -> None:
    made = train_dataset(configure())
    for index in range(8):
        made[index]
    with pytest.raises(UserError, match="neither calls on_batch_end of its dataset nor samples"):
        made[0]
