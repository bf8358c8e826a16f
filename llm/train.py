"""The training loop: collect, log-probabilities, loss, step. The algorithms differ only in collect and loss.

Every draw is addressed by (run seed, step, role) and the order of prompts by (run seed, epoch), so a resumed run
needs nothing but its checkpoint to go on as if it had not been interrupted: on one machine, with the same
versions and number of threads, to the bit.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from functools import partial

import torch
from accelerate import Accelerator
from tqdm import tqdm

from llm import checkpoint, metrics, tracking
from llm.algorithms import check, implementation
from llm.config import ModelConfig, TrainConfig, load_policy
from llm.data import batch_at
from llm.data.prompts import Prompt
from llm.distributed import Processes, SlicedGenerator, gathered, join, shard, share
from llm.experience import Collector, Experience, Reward
from llm.generation import Generator, TransformersGenerator
from llm.judges import Judge, drain
from llm.lengths import Player, fitting
from llm.optimise import make_optimizer, update
from llm.policy import Policy
from llm.precision import settled
from llm.vllm_generator import VLLMGenerator, engine_for
from slhf.algorithms import Algorithm
from slhf.errors import ConfigError
from slhf.runs import Run, derive_seed

SHOWN = ("follower_preferred", "leader_preferred", "reward", "leader_kl", "follower_kl")
"""Metrics beside the progress bar."""
SAMPLES_PER_CHECKPOINT = 4


def train(
    spec: Algorithm,
    judge: Judge,
    prompts: list[str],
    run: Run,
    model: ModelConfig | None = None,
    config: TrainConfig | None = None,
    seed: int = 0,
    reward: Reward | None = None,
) -> Policy:
    """Train ``spec`` in the run directory, from its last checkpoint if it has one; returns the policy.

    Args:
        spec: the algorithm.
        judge: whose preferences to learn.
        prompts: training prompts; those too long for the model's context are left out and reported.
        run: where metrics, samples and checkpoints go.
        model: which model.
        config: steps, batch, optimiser.
        seed: of everything random.
        reward: the scalar reward, for RLOO.

    Raises:
        TrainingError: signal, loss or gradient is not finite, or a step left the adapter as it was; what the
            step was computed from is in ``failed_step`` of the run directory (see ``llm.failure``).
        JudgeError: the judge failed.
        RunError: another run trains in this directory, or its files contradict each other.
        MissingResource: a model or tracker is not there.
        InvalidData: no prompt fits into the model's context with answer, Follower's turn and reply.
        ConfigError: the algorithm cannot be run so, or there are fewer prompts a step than processes.
    """
    from llm import failure  # not at the top: `python -m llm.failure` would find itself imported, and warn

    model, config = model or ModelConfig(), config or TrainConfig()
    check(spec, model.sharing, config.steps)
    tracking.require_installed(config.trackers)
    processes = join(config.timeout_minutes)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), log_with=list(config.trackers) or None, project_dir=str(run.path)
    )
    with run.lock() if processes.first else nullcontext():
        device = str(accelerator.device)
        settle = partial(settled, model, "model", run.manifest, device, trained=model.lora is None)
        model = processes.in_turn(settle)
        saved = processes.agree(checkpoint.latest(run.path))
        policy = load_policy(model, saved and saved / "adapter", derive_seed(seed, "adapter"), device)
        policy = shard(policy, processes)
        optimizer = make_optimizer(spec, policy, config)
        start, state = checkpoint.restore(saved, policy, optimizer) if saved else (0, {})
        prompts = [prompts[i] for i in fitting(prompts, [Player.of(policy, model.max_new_tokens)])]
        if processes.first:
            run.rewind(start)
        settings = {"algorithm": {"name": spec.name, **asdict(spec)}, "model": asdict(model), "train": asdict(config)}
        tracking.start(accelerator, run.path, start, {**settings, "seed": seed})

        budget = config.tokens_per_micro_batch
        low, high = processes.slice(config.batch_size)
        generator = SlicedGenerator(make_generator(policy, model, prompts, run, processes), low, high)
        collector = Collector(policy, generator, judge, model.max_new_tokens, seed, reward, budget)
        bar = tqdm(
            range(start, config.steps),
            initial=start,
            total=config.steps,
            desc=spec.name,
            unit="step",
            disable=not processes.first,
        )
        drain(judge)  # what it did before does not belong to the first step
        for step in bar:
            collector.seconds.clear()
            metrics.restart_peak_memory()
            batch = batch_at(prompts, config.batch_size, step, seed)[low:high]
            with gathered(policy):
                mine = implementation(spec).collect(spec, collector, batch, step)
            experience, part = share(mine, processes)
            # a failed step is kept by a run of one process; several would have to fail together to write it
            kept = failure.recorded(run, policy, spec, model, experience, budget)
            with collector.phase("update"), kept if processes.count == 1 else nullcontext():
                logp, row, state = update(
                    spec, policy, experience, optimizer, config, state, inspect=step == start, part=part
                )
            row |= metrics.of_game(experience, logp, policy.chat.ends)
            metrics.require_agreement(row, step)
            row |= metrics.of_speed(experience, collector) | metrics.of_memory()
            row |= metrics.of_judge(processes.everyones(drain(judge)))
            accelerator.log(row, step=step)
            bar.set_postfix({key: f"{row[key]:.3f}" for key in SHOWN if key in row})
            if processes.first:
                run.log({"step": step, **row})
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                if processes.first:
                    log_samples(run, experience, step)
                checkpoint.save(run.path, policy, optimizer, step + 1, state, processes)
                if processes.first:
                    checkpoint.prune(run.path, config.keep_checkpoints, config.keep_every)
        for tracker in accelerator.trackers:  # not end_training(), which would also part us from the other processes
            tracker.finish()
    return policy


def make_generator(policy: Policy, model: ModelConfig, prompts: list[str], run: Run, processes: Processes) -> Generator:
    """What samples in training.

    Raises:
        ConfigError: vLLM cannot sample this policy, or would have to for several processes.
        MissingResource: vLLM is not installed.
    """
    if model.sampler == "transformers":
        return TransformersGenerator(policy)
    if processes.count > 1:
        raise ConfigError('model.sampler "vllm" is for one process; use "transformers" with several.')
    return VLLMGenerator(policy, engine_for(policy, model, prompts), run.path / "sampler")


def log_samples(run: Run, experience: Experience, step: int) -> None:
    """A few of the step's conversations with what the judge said, into ``samples.jsonl``."""
    for i in range(min(SAMPLES_PER_CHECKPOINT, len(experience.signal))):
        row = {key: texts[i] for key, texts in experience.texts.items()}
        if isinstance(row["prompt"], Prompt):
            row["system"] = row["prompt"].system
        run.log({"step": step, **row, "signal": float(experience.signal[i])}, "samples.jsonl")
