"""The vLLM backend: against an engine that implements the calls it makes, and against vLLM itself where installed."""

import copy
import importlib.util
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from llm import finite, vllm_generator
from llm.config import ModelConfig, TrainConfig
from llm.judges.matrix import MatrixJudge
from llm.optimise import make_optimizer
from llm.policy import LoRA, Policy, TokenBatch
from llm.train import train
from llm.vllm_generator import VLLMGenerator, engine_for, read, start_engine
from slhf.algorithms import StackelbergGDA
from slhf.errors import ConfigError, MissingResource, TrainingError
from slhf.runs import Run
from tests.llm.architectures import build
from tests.llm.tiny import tiny_policy

LABELS = ("a", "b", "c")


class ByLength:
    """Prefers the longer text."""

    def prefer(self, prompts, a, b):
        return np.array([(len(y) > len(z)) + 0.5 * (len(y) == len(z)) for y, z in zip(a, b, strict=True)], float)


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 16
    ignore_eos: bool = False
    stop_token_ids: list[int] = field(default_factory=list)
    logprobs: int | None = None
    seed: int | None = None
    detokenize: bool = True


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class Engine:
    """Like ``vllm.LLM``: keeps its own base model, and an adapter by its id once loaded, whatever its file becomes."""

    def __init__(self, base):
        self.base, self.adapters, self.requests = base, {}, []

    @torch.no_grad()
    def generate(self, prompts, sampling_params, use_tqdm, lora_request=None):
        self.requests.append((prompts, sampling_params, lora_request))
        model = self.base() if lora_request is None else self._adapted(lora_request)
        return [
            SimpleNamespace(outputs=[self._complete(model, prompt["prompt_token_ids"], settings)])
            for prompt, settings in zip(prompts, sampling_params, strict=True)
        ]

    def _adapted(self, request):
        if request.lora_int_id not in self.adapters:
            self.adapters[request.lora_int_id] = PeftModel.from_pretrained(self.base(), request.lora_path).eval()
        return self.adapters[request.lora_int_id]

    def _complete(self, model, prompt, settings):
        assert (settings.top_p, settings.top_k, settings.ignore_eos, settings.logprobs) == (1.0, 0, True, 0)
        rng = torch.Generator().manual_seed(settings.seed)
        ids, logprobs = [], []
        while len(ids) < settings.max_tokens and not set(ids) & set(settings.stop_token_ids):
            logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1] / settings.temperature
            logp = logits.log_softmax(-1)
            ids.append(int(torch.multinomial(logp.exp(), 1, generator=rng)))
            logprobs.append({ids[-1]: SimpleNamespace(logprob=float(logp[ids[-1]]))})
        reason = "stop" if ids[-1] in settings.stop_token_ids else "length"
        return SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason=reason)


@pytest.fixture
def vllm(monkeypatch):
    """A package of that name with the two classes that requests are made of."""
    package, lora, request = (ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    package.SamplingParams, request.LoRARequest = SamplingParams, LoRARequest
    for module in (package, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def base_of(directory):
    """A fresh copy of the tiny policy's base, which like it may end its answers."""

    def load():
        policy = Policy.load(str(directory), LoRA(rank=4, modules=finite.MODULES), dtype="float32")
        with torch.no_grad():
            policy.head.bias[policy.chat.eos] = 0.0
        return policy.model.unload()

    return load


@pytest.fixture
def generator(tmp_path, vllm):
    policy = tiny_policy(tmp_path / "model", LABELS, temperature=0.7)
    return VLLMGenerator(policy, Engine(base_of(tmp_path / "model")), tmp_path / "adapters")


def log_probabilities(policy, prompts, samples):
    """Of each sampled answer, as the trainer sees them."""
    batch = TokenBatch.pack(
        [[(x, None), (y.ids, "leader")] for x, y in zip(prompts, samples, strict=True)], policy.pad, policy.device
    )
    with torch.no_grad():
        logp = policy.logprobs(batch)
    return [row[mask].tolist() for row, mask in zip(logp, batch.owners["leader"], strict=True)]


def move(policy):
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.add_(0.3 * torch.randn_like(parameter))


def test_sampled_log_probabilities_are_the_policys_before_and_after_a_step(generator):
    policy = generator.policy
    prompts = [policy.chat.prompt(finite.PROMPT)] * 6
    for step in range(3):
        samples = generator.open(prompts).sample(4, seed=step)
        for sample, expected in zip(samples, log_probabilities(policy, prompts, samples), strict=True):
            assert sample.logprobs == pytest.approx(expected, abs=1e-5)
        move(policy)


def test_the_step_of_a_fused_optimiser_is_a_change(generator, monkeypatch):
    """It leaves no trace in the version of a tensor."""
    monkeypatch.setattr(torch.optim, "AdamW", partial(torch.optim.AdamW, fused=True))
    policy, spec = generator.policy, StackelbergGDA(0.01)
    optimizer, before = make_optimizer(spec, policy, TrainConfig()), generator.request("leader")
    weights = [p for _, p in policy.trainable()]
    for p in weights:
        p.grad = torch.ones_like(p)
    versions = [p._version for p in weights]
    optimizer.step()
    assert [p._version for p in weights] == versions
    assert generator.request("leader").lora_int_id != before.lora_int_id
    assert generator.request("leader").lora_int_id == generator.request("leader").lora_int_id


def test_an_adapter_gets_a_new_id_when_it_changed_and_only_then(generator):
    x = [generator.policy.chat.prompt(finite.PROMPT)]
    for changed in (False, False, True, True):
        if changed:
            move(generator.policy)
        generator.open(x).sample(2, seed=0)
    ids = [request.lora_int_id for _, _, request in generator.engine.requests]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert [path.name for path in generator.folder.iterdir()] == [f"version-{generator.version}"]


def test_the_follower_continues_the_leaders_conversation_and_rows_have_their_own_draws(generator):
    policy = generator.policy
    session = generator.open([policy.chat.prompt(finite.PROMPT)] * 3)
    session.repeat(2)
    answers = session.sample(3, seed=5)
    turns = [policy.chat.turn(y.ids) for y in answers]
    session.extend(turns)
    session.sample(3, seed=6, role="follower", first_row=10)
    (first, seeds, _), (second, later, _) = generator.engine.requests
    assert [row["prompt_token_ids"] for row in second] == [
        [*x["prompt_token_ids"], *y.ids, *turn] for x, y, turn in zip(first, answers, turns, strict=True)
    ]
    assert len({settings.seed for settings in (*seeds, *later)}) == 12
    part = generator.open([policy.chat.prompt(finite.PROMPT)] * 2).sample(3, seed=5, first_row=4)
    assert [y.ids for y in part] == [y.ids for y in answers[4:]]


def test_an_answer_ends_with_the_end_of_sequence_exactly_when_it_ended(generator):
    policy = generator.policy
    samples = generator.open([policy.chat.prompt(finite.PROMPT)] * 40).sample(3, seed=1)
    assert {len(y.ids) for y in samples} >= {1, 3}
    for y in samples:
        assert policy.chat.eos not in y.ids[:-1]
        assert y.ids[-1] == policy.chat.eos or len(y.ids) == 3
    cut = SimpleNamespace(token_ids=[5], finish_reason="length", logprobs=[{5: SimpleNamespace(logprob=-1.0)}])
    with pytest.raises(TrainingError, match="1 of at most 3 tokens"):
        read(cut, policy.chat.ends, 3)


def test_sampling_stops_at_every_end_that_the_policy_knows(generator):
    """The template's, and those of the model's own generation settings."""
    policy = generator.policy
    policy.chat.ends = frozenset({policy.chat.eos, policy.tokenizer.convert_tokens_to_ids("b")})
    samples = generator.open([policy.chat.prompt(finite.PROMPT)] * 40).sample(3, seed=1)
    assert {y.ids[-1] for y in samples if len(y.ids) < 3} == policy.chat.ends
    assert all(not policy.chat.ends & set(y.ids[:-1]) for y in samples)


def test_the_reference_is_the_base_without_adapter(generator):
    prompts = [generator.policy.chat.prompt(finite.PROMPT)] * 4
    samples = generator.open(prompts, mixture=1.0).sample(3, seed=0)
    with generator.policy.reference():
        expected = log_probabilities(generator.policy, prompts, samples)
    assert [y.logprobs for y in samples] == [pytest.approx(row, abs=1e-5) for row in expected]


def test_two_adapters_have_two_ids_and_two_files(tmp_path, vllm):
    finite.build_model(tmp_path / "model", LABELS, seed=1)
    policy = Policy.load(str(tmp_path / "model"), LoRA(rank=4, modules=finite.MODULES), dtype="float32", sharing="two")
    generator = VLLMGenerator(policy, None, tmp_path / "adapters")
    leader, follower = generator.request("leader"), generator.request("follower")
    assert leader.lora_int_id != follower.lora_int_id
    assert leader.lora_path != follower.lora_path
    for request in (leader, follower):
        assert (Path(request.lora_path) / "adapter_config.json").exists()


def test_what_vllm_cannot_do_is_refused(generator):
    with pytest.raises(ConfigError, match="mixture"):
        generator.open([[1]], mixture=0.5)
    with pytest.raises(ConfigError, match=r"model\.lora"):
        engine_for(generator.policy, ModelConfig(lora=None), [finite.PROMPT])


def test_a_run_samples_with_the_engine_and_its_trained_adapters(tmp_path, vllm, monkeypatch):
    """Through ``train``: the recorded gap between sampler and trainer stays at rounding as the adapter moves."""
    finite.build_model(tmp_path / "model", LABELS, seed=1)
    config = ModelConfig(str(tmp_path / "model"), "float32", 1.0, 1, LoRA(2, 32, 1, finite.MODULES), sampler="vllm")
    base = Policy.load(config.name, config.lora, dtype="float32")
    monkeypatch.setattr(vllm_generator, "start_engine", lambda *_: Engine(lambda: copy.deepcopy(base.model).unload()))
    run = Run.open(tmp_path, "x", {})
    judge = MatrixJudge(np.array([[0.5, 0.7, 0.9], [0.3, 0.5, 0.6], [0.1, 0.4, 0.5]]), list(LABELS))
    train(StackelbergGDA(0.05), judge, [finite.PROMPT], run, config, TrainConfig(steps=3, batch_size=4))
    rows = run.metrics()
    assert max(row["sampler_gap_max"] for row in rows) < 1e-4
    assert abs(rows[-1]["leader_kl"]) > 1e-3


INSTALLED = importlib.util.find_spec("vllm") is not None


@pytest.mark.skipif(INSTALLED, reason="vLLM is installed")
def test_without_vllm_it_is_named():
    with pytest.raises(MissingResource, match=r"vLLM \(0\.10\.2 or newer\) is not installed"):
        start_engine("embedded", "bfloat16", LoRA(), 128)


@pytest.mark.parametrize("version", ["0.9.2", "0.10.1.1"])
def test_a_vllm_that_is_too_old_is_named(vllm, monkeypatch, version):
    monkeypatch.setattr(sys.modules["vllm"], "__version__", version, raising=False)
    with pytest.raises(MissingResource, match=f"vLLM {version} is too old; 0.10.2 or newer"):
        start_engine("x", "float32", LoRA(), 128)


def test_the_engine_may_adapt_every_module(vllm, monkeypatch):
    """vLLM packs q, k, v and gate, up under names of its own: told ours, it would leave five of seven as they were."""
    asked = {}
    monkeypatch.setattr(sys.modules["vllm"], "__version__", "0.10.2", raising=False)
    monkeypatch.setattr(sys.modules["vllm"], "LLM", lambda **options: asked.update(options), raising=False)
    start_engine("x", "float32", LoRA(), 128)
    assert asked["enable_lora"] is True
    assert asked["max_lora_rank"] >= LoRA().rank
    assert "lora_target_modules" not in asked


def forgetful(request):
    """An engine that leaves a part of the adapter out."""
    path = Path(request.lora_path) / "adapter_model.safetensors"
    save_file({key: 0 * x if "v_proj" in key else x for key, x in load_file(path).items()}, path)


def test_a_run_whose_engine_drops_a_part_of_the_adapter_ends(tmp_path, vllm, monkeypatch):
    """With the default LoRA(), on a model that has all of its modules."""
    name, lora = build(tmp_path / "model", "llama"), LoRA()
    config = ModelConfig(name, "float32", 1.0, 4, lora, sampler="vllm")
    base = Policy.load(name, lora, dtype="float32")
    honest = Engine._adapted

    def run(rate, folder):
        monkeypatch.setattr(
            vllm_generator, "start_engine", lambda *_: Engine(lambda: copy.deepcopy(base.model).unload())
        )
        run = Run.open(tmp_path, folder, {})
        train(StackelbergGDA(rate), ByLength(), ["Why?"], run, config, TrainConfig(steps=4, batch_size=2))
        return run.metrics()

    assert max(row["sampler_gap_max"] for row in run(0.1, "whole")) < 1e-3
    monkeypatch.setattr(Engine, "_adapted", lambda self, request: (forgetful(request), honest(self, request))[1])
    with pytest.raises(TrainingError, match=r"differ from the trained policy's by .* nats a token .*sampler_gap_mean"):
        run(0.1, "part")


@pytest.mark.skipif(not INSTALLED, reason="needs vLLM")
def test_against_vllm_itself(tmp_path):
    """Sampler and trainer agree in float32, at a temperature, with adapters, before and after they change."""
    lora = LoRA(rank=4, modules=("o_proj", "down_proj"))
    policy = Policy.load("embedded", lora, temperature=0.7, dtype="float32")
    engine = start_engine("embedded", "float32", lora, 128, enforce_eager=True, max_num_seqs=16)
    generator = VLLMGenerator(policy, engine, tmp_path)
    prompts = [policy.chat.prompt(x) for x in ("Name a fruit.", "Count to three.")]
    for step in range(2):
        torch.manual_seed(step)
        with torch.no_grad():
            for _, parameter in policy.trainable():
                parameter.add_(0.05 * torch.randn_like(parameter))
        samples = generator.open(prompts).sample(6, seed=step)
        assert [y.ids for y in samples] == [y.ids for y in generator.open(prompts).sample(6, seed=step)]
        gap = gaps(samples, log_probabilities(policy, prompts, samples))
        print(f"step {step}: mean gap {sum(gap) / len(gap):.4f}, largest {max(gap):.4f}")
        assert max(gap) < 1e-3
        with policy.reference():
            far = gaps(samples, log_probabilities(policy, prompts, samples))
        print(f"to the base: {sum(far) / len(far):.4f}")
        assert sum(far) / len(far) > 0.2


def gaps(samples, expected):
    """|sampler's log-probability - the trainer's| of every token."""
    return [abs(a - b) for y, row in zip(samples, expected, strict=True) for a, b in zip(y.logprobs, row, strict=True)]


def test_a_rank_that_vllm_does_not_take_is_named():
    with pytest.raises(ConfigError, match=r"lora.rank = 513"):
        start_engine("embedded", "float32", LoRA(rank=513), context=64)
