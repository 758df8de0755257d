#!/usr/bin/env bash
# GRPO on GSM8K with verl 0.9.1 and the curriculum:  examples/verl/gsm8k.sh [further settings of verl]
# DATA holds train.parquet and test.parquet as verl's quick start prepares them; MODEL is a path or a name on the hub.
set -euo pipefail
data=${DATA:-$HOME/data/gsm8k} model=${MODEL:-Qwen/Qwen2.5-1.5B-Instruct} gpus=${GPUS:-8}
scores=${SCORES:-scores.parquet}

[ -e "$scores" ] || gainrl score --model "$model" --dataset "$data/train.parquet" --directions --output "$scores"

python -m verl.trainer.main_ppo \
  'hydra.searchpath=[pkg://gainrl.integrations.verl.config]' \
  +curriculum=gainrl \
  data.gainrl.scores="$scores" \
  data.train_files="$data/train.parquet" \
  data.val_files="$data/test.parquet" \
  data.train_batch_size=256 \
  data.max_prompt_length=512 \
  data.max_response_length=1024 \
  algorithm.adv_estimator=grpo \
  actor_rollout_ref.model.path="$model" \
  actor_rollout_ref.actor.optim.lr=1e-6 \
  actor_rollout_ref.actor.ppo_mini_batch_size=128 \
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8 \
  actor_rollout_ref.actor.use_kl_loss=true \
  actor_rollout_ref.rollout.name=vllm \
  actor_rollout_ref.rollout.n=8 \
  actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
  actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8 \
  actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8 \
  trainer.n_gpus_per_node="$gpus" \
  trainer.total_epochs=15 \
  trainer.save_freq=20 \
  trainer.test_freq=20 \
  trainer.logger='["console"]' \
  "$@"
