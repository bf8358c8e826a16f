"""Estimates against the real thing: parameters on the meta device, bytes that the backward pass keeps, the cache."""

import json
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, Qwen2Config

from benchmarks.llm_step import synthetic_tokenizer
from experiments import plan
from experiments.config import EvaluationConfig, LanguageModelSweep, load_sweep
from experiments.run import HERE, main
from experiments.shapes import HUB, from_config, shape_of
from llm import logprobs
from llm.config import ModelConfig, TrainConfig
from llm.experience import Experience
from llm.generation import TransformersGenerator
from llm.judges import attributes
from llm.judges.attributes import AttributeJudge
from llm.linear import lighten
from llm.logprobs import CHUNK_LOGITS
from llm.optimise import make_optimizer, update
from llm.policy import LoRA, Policy, TokenBatch, lora_config
from llm.trunk import frozen_layers, read_lower
from slhf.algorithms import RLOO, NashMD, StackelbergGDA
from slhf.errors import ConfigError, MissingResource
from tests.llm.peak import peak_of

SMALL_SWEEPS = ("quickstart", "hour", "finite_answers")
BIG = sorted(path for path in (HERE / "sweeps").glob("*.yaml") if path.stem not in SMALL_SWEEPS)
PUBLISHED = {  # parameters, from the safetensors index of each model on the hub
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "allenai/Llama-3.1-Tulu-3-8B-SFT": 8_030_326_784,
}


def config_of(shape):
    """The ``transformers`` configuration of a shape."""
    kind = Qwen2Config if shape.biased else LlamaConfig
    return kind(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )


@pytest.mark.parametrize("name", HUB)
def test_parameters_are_those_of_transformers_and_of_the_hub(name):
    shape = HUB[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape))
    assert model.num_parameters() == shape.parameters == PUBLISHED[name]
    for lora in (LoRA(rank=64), LoRA(rank=8, layers=3, modules=("o_proj", "down_proj"))):
        with torch.device("meta"):
            adapted = get_peft_model(AutoModelForCausalLM.from_config(config_of(shape)), lora_config(model, lora))
        trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        assert trained == plan.trained_parameters(shape, ModelConfig(name, lora=lora))


def test_a_shape_is_read_from_config_json(tmp_path):
    assert shape_of("embedded") == HUB["HuggingFaceTB/SmolLM2-135M-Instruct"]
    shape = HUB["Qwen/Qwen2.5-0.5B-Instruct"]
    config_of(shape).save_pretrained(tmp_path)
    assert shape_of(str(tmp_path)) == shape
    with pytest.raises(MissingResource, match="no/such/model"):
        shape_of("no/such/model")
    with pytest.raises(MissingResource, match="'phi'"):
        from_config({"model_type": "phi"}, "config.json")


SMALL = HUB["Qwen/Qwen2.5-0.5B-Instruct"]
SMALL = replace(SMALL, hidden=64, layers=4, heads=4, kv_heads=2, intermediate=160, vocabulary=300, head_width=16)


def small_policy(tmp_path, dtype, lora):
    """A policy of the shape ``SMALL`` with the embedded model's tokenizer cut to nothing that matters here."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(SMALL)).to(dtype)
    if lora is None:
        return model.eval()
    adapted = get_peft_model(model, lora_config(model, lora)).eval()
    lighten(adapted)
    return adapted.get_base_model()


def bytes_kept(model, ids):
    """What autograd keeps of a forward pass of the decoder, each storage once, parameters and their copies left out."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no other tensor gets this address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = model.get_decoder()(input_ids=ids, use_cache=False)
    assert out.last_hidden_state.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("lora", [LoRA(rank=8), LoRA(rank=8, layers=2), None], ids=["all layers", "two layers", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kept_activations_are_within_a_tenth(tmp_path, dtype, lora):
    if lora is None and dtype == "bfloat16":
        pytest.skip("full fine-tuning is in float32")
    model = small_policy(tmp_path, getattr(torch, dtype), lora)
    sweep = LanguageModelSweep("x", (), model=ModelConfig("x", dtype, lora=lora), train=TrainConfig(batch_size=8))
    work = plan.work_of(RLOO(samples=2), 8, 64, 64)
    ids = torch.randint(0, 300, (work.rows, work.length))
    told = plan.memory(SMALL, work, sweep)["activations"]
    assert told == pytest.approx(bytes_kept(model, ids), rel=0.1)


def test_the_cache_is_exact():
    with torch.no_grad():
        cache = DynamicCache()
        model = AutoModelForCausalLM.from_config(config_of(SMALL)).to(torch.bfloat16)
        model(input_ids=torch.zeros(3, 11, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 3 * 11 * plan.cache_per_token(SMALL, 2)


def test_trained_parameters_gradients_and_adam_are_exact(tmp_path):
    model = small_policy(tmp_path, torch.bfloat16, LoRA(rank=8))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(input_ids=torch.zeros(1, 2, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    sweep = LanguageModelSweep("x", (), model=ModelConfig("x", lora=LoRA(rank=8)))
    told = plan.memory(SMALL, plan.work_of(RLOO(), 1, 1, 1), sweep)
    assert told["weights"] == sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    assert told["adapters"] == sum(p.nbytes for p in trained)
    assert told["gradients"] == sum(p.grad.nbytes for p in trained)
    moments = [s[key].nbytes for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert told["Adam"] == sum(moments)


def test_full_fine_tuning_holds_two_models_and_adapters_one():
    whole = LanguageModelSweep("x", (), model=ModelConfig("x", "float32", lora=None))
    work = plan.work_of(RLOO(), 1, 1, 1)
    told = plan.memory(SMALL, work, whole)
    assert told["reference"] == told["weights"] == 4 * SMALL.parameters
    assert told["gradients"] + told["Adam"] == 12 * SMALL.parameters
    assert told["adapters"] == 0
    adapted = plan.memory(SMALL, work, LanguageModelSweep("x", ()))
    assert adapted["reference"] == 0
    both = plan.memory(SMALL, work, LanguageModelSweep("x", (), model=ModelConfig(sharing="two")))
    assert both["adapters"] == 2 * adapted["adapters"]


def test_frozen_lower_layers_are_kept_once_and_not_read_by_the_update(tmp_path):
    work = plan.work_of(RLOO(samples=2), 8, 64, 64)
    whole, upper = (LanguageModelSweep("x", (), model=ModelConfig("x", lora=LoRA(layers=n))) for n in (4, 2))
    model = small_policy(tmp_path, torch.bfloat16, upper.model.lora)
    count = frozen_layers(model.get_decoder())
    assert count == 2
    trunk = read_lower(model.get_decoder(), torch.zeros(work.rows, work.length, dtype=torch.long), count)
    assert [plan.memory(SMALL, work, sweep)["trunk"] for sweep in (whole, upper)] == [0, trunk.nbytes]
    body, half = (plan.time_per_step(SMALL, work, sweep) for sweep in (whole, upper))
    assert half["reference"] == body["reference"]
    assert 0.5 < half["update"] / body["update"] < 0.6  # the output layer is as large


def test_with_two_adapters_each_role_has_its_row():
    one, two = (plan.work_of(StackelbergGDA(follower_samples=3), 4, 10, 5, sharing) for sharing in ("one", "two"))
    assert two.rows == 2 * one.rows
    assert two.rows * two.scored == one.rows * one.scored


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sharing=two", "RLOO has no Follower"),
        ("sampler=vllm", "knows nothing of model.sampler"),
        ("judge.kind=local_lm", "knows the memory of the attribute judge, not of one of kind local_lm"),
    ],
)
def test_what_a_run_would_refuse_or_the_plan_does_not_know_has_no_estimate(capsys, setting, message):
    sweep = str(HERE / "sweeps" / "qwen2.5-7b.yaml")
    assert main([sweep, "--plan", "--set", setting]) == 1
    assert message in capsys.readouterr().err


def test_flops_of_a_forward_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(SMALL), attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(1, 50, dtype=torch.long, device="meta"))
    causal = 2 * SMALL.layers * SMALL.heads * SMALL.head_width * 50**2  # eager attention multiplies the masked half too
    assert counter.get_total_flops() == plan.read_flops(SMALL, 50, 50) + causal


MACHINE = replace(plan.GPU, name="the CPU of a test", reserved=0.0, fragmentation=1.0, chunk=CHUNK_LOGITS, auto=4)


def runnable(lora, dtype=torch.float32):
    """A policy that can be sampled, of more layers and a wider MLP than vocabulary; its answers never end."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config_of(SAMPLED)).to(dtype)
    base.lm_head.bias = torch.nn.Parameter(torch.zeros(SAMPLED.vocabulary, dtype=dtype), requires_grad=False)
    tokenizer = synthetic_tokenizer(SAMPLED.vocabulary)
    base.lm_head.bias.data[tokenizer.eos_token_id] = -1e4
    return Policy(get_peft_model(base, lora_config(base, lora)), tokenizer)


SAMPLED = replace(SMALL, hidden=128, layers=3, heads=8, intermediate=512, tied=False)


def sweep_of(lora, **train):
    return LanguageModelSweep(
        "x", (), model=ModelConfig("x", "float32", lora=lora, max_new_tokens=40), train=TrainConfig(**train)
    )


@pytest.mark.parametrize(("prompt", "models"), [(10, 1), (200, 1), (10, 2)])
def test_sampling_takes_what_the_plan_says(prompt, models):
    """No more, and not much less: the cache, a layer of it, the logits, and what reading takes."""
    policy = runnable(LoRA(rank=4))
    opening = [[i + 5] + [20 + j % 100 for j in range(prompt - 1)] for i in range(24)]
    session = TransformersGenerator(policy).open(opening, mixture=0.5 if models == 2 else None)
    session.sample(1, 0)  # what the libraries keep
    session = TransformersGenerator(policy).open(opening, mixture=0.5 if models == 2 else None)
    peak, _ = peak_of(lambda: session.sample(40, 0))
    call = plan.Sampling(24, prompt, prompt, models)
    told = plan.cache(SAMPLED, call, 40, 4) + plan.sampling(SAMPLED, call, 40, 4)
    assert peak <= told <= 1.25 * peak


@pytest.mark.parametrize("train", [{}, {"tokens_per_micro_batch": 1024}, {"gradient_checkpointing": True}], ids=str)
@pytest.mark.parametrize("lora", [LoRA(rank=4), LoRA(rank=4, layers=2)], ids=["all layers", "two layers"])
def test_an_update_takes_what_the_plan_says(lora, train):
    policy, sweep = runnable(lora), sweep_of(lora, batch_size=24, **train)
    work = plan.work_of(RLOO(samples=2), 24, 30, 40)
    rows = [[([5] * 30, None), (torch.randint(5, 300, (40,)).tolist(), "leader")] for _ in range(work.rows)]
    batch = TokenBatch.pack(rows, policy.pad, "cpu")
    trunk = policy.trunk(batch)
    reference = torch.zeros(batch.ids.shape)
    texts = {"prompt": ["x"] * work.rows, "leader": ["y"] * work.rows}
    experience = Experience(batch, reference, torch.rand(work.rows), texts, trunk=trunk)
    optimizer = make_optimizer(RLOO(samples=2), policy, sweep.train)

    def step():
        return update(RLOO(samples=2), policy, experience, optimizer, sweep.train, {}, inspect=False)

    step()  # Adam's moments are there from the first step on
    optimizer.zero_grad()
    peak, _ = peak_of(step)
    chunk = min(CHUNK_LOGITS, plan.micro_batch_tokens(work, sweep) * SAMPLED.vocabulary)
    held = plan.memory(SAMPLED, work, sweep, replace(MACHINE, chunk=chunk))
    told = held["gradients"] + held["activations"] + max(held["backward"], held["output layer"])
    assert peak <= told <= 1.25 * peak


def test_the_judge_takes_what_the_plan_says(monkeypatch):
    monkeypatch.setattr(attributes, "TOKENS_AT_A_TIME", 1024)
    monkeypatch.setattr(plan, "TOKENS_AT_A_TIME", 1024)
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 2**21)
    judge = AttributeJudge(dtype="float32")
    texts = [f"{i} is a number that comes after {i - 1}, and {i + 1} comes next." for i in range(60)]
    judge.features(["Count."], texts[:1])
    peak, _ = peak_of(lambda: judge.features(["Count."] * 60, texts))
    held = plan.memory(SMALL, plan.work_of(RLOO(), 1, 1, 1), sweep_of(LoRA()), replace(MACHINE, chunk=2**21))
    assert peak <= held["judging"] <= 1.5 * peak
    assert held["judge"] == sum(p.nbytes for m in (judge._model, judge._encoder) for p in m.parameters())


def test_an_evaluation_holds_no_more_than_its_bound_of_tokens():
    """However many prompts and samples are asked for, the plan's evaluation stops growing."""

    def told(**settings):
        sweep = replace(sweep_of(LoRA()), evaluation=EvaluationConfig(**settings))
        return plan.estimate(RLOO(), sweep, HUB["allenai/Llama-3.1-Tulu-3-8B-SFT"], 200).peaks["evaluation"]

    few, many, more = told(prompts=80), told(prompts=800, samples=4), told(prompts=1600, samples=4)
    assert few < many == more


def test_the_plan_says_for_which_machine(capsys):
    sweep = str(HERE / "sweeps" / "quickstart.yaml")
    assert main([sweep, "--plan", "--here"]) == 0
    assert "this machine's processor" in capsys.readouterr().out
    assert main([sweep, "--plan"]) == 0
    assert "one 80 GB GPU" in capsys.readouterr().out
    assert main([sweep, "--here"]) == 1
    assert "--here goes with --plan" in capsys.readouterr().err


def test_memory_falls_with_the_micro_batch_and_with_checkpointing_and_time_rises():
    def peak_and_time(**settings):
        sweep = LanguageModelSweep("x", (), model=ModelConfig(max_new_tokens=512), train=TrainConfig(**settings))
        found = plan.estimate(StackelbergGDA(), sweep, HUB["Qwen/Qwen2.5-0.5B-Instruct"], 100)
        return found.memory["activations"], found.seconds["update"]

    whole, parts = peak_and_time(), peak_and_time(tokens_per_micro_batch=4096)
    recomputed = peak_and_time(tokens_per_micro_batch=4096, gradient_checkpointing=True)
    assert whole[0] > parts[0] > recomputed[0]
    assert whole[1] < parts[1] < recomputed[1]


def test_the_work_of_each_algorithm():
    slhf = plan.work_of(StackelbergGDA(leader_samples=2, follower_samples=3), 4, 10, 5)
    assert (slhf.rows, slhf.length, slhf.scored) == (24, 10 + 5 + plan.TURN_TOKENS + 5, 10)
    assert [s.conversations for s in slhf.sampling] == [8, 24]
    nash = plan.work_of(NashMD(samples=2), 4, 10, 5)
    assert [s.models for s in nash.sampling] == [1, 2]
    assert (nash.rows, nash.length) == (8, 15)


@pytest.mark.parametrize("path", BIG, ids=lambda path: path.stem)
def test_the_big_sweeps_have_the_papers_settings_and_fit(path):
    (sweep,) = load_sweep(path)
    llama = path.stem.startswith("llama")
    assert (sweep.train.steps, sweep.train.batch_size, sweep.model.lora.rank, sweep.model.lora.alpha) == (
        1000,
        32,
        64,
        128,
    )
    assert (sweep.model.temperature, sweep.model.max_new_tokens) == (0.9, 512)
    specs = [planned.spec for planned in plan.runs_of(sweep)]
    assert {spec.learning_rate for spec in specs} == {5e-6 if llama else 1e-5}
    assert specs[0].timescale == (2 if llama else 5)
    assert specs[0].tau_leader == specs[0].tau_follower == specs[1].tau == specs[2].tau == 0.001
    assert all(estimate.fits for estimate in plan.plan([sweep]))


def test_the_command_prints_a_table_or_json_and_runs_nothing(tmp_path, capsys):
    sweep = str(HERE / "sweeps" / "qwen2.5-7b.yaml")
    assert main([sweep, "--plan", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("| yes") == 3
    assert "stackelberg_gda" in shown
    assert main([sweep, "--plan", "--json", "--set", "seed=0,1", "--out", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 6
    assert rows[0]["hours"] == pytest.approx(rows[0]["seconds_per_step"] * 1000 / 3600)
    assert not list(tmp_path.iterdir())
    assert main([sweep, "--plan", "--set", "model.name=nobody/knows"]) == 1
    assert "nobody/knows" in capsys.readouterr().err


def test_an_unknown_module_is_named():
    with pytest.raises(ConfigError, match="no dense"):
        plan.trained_parameters(SMALL, ModelConfig("x", lora=LoRA(modules=("dense",))))
