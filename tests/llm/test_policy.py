"""Roles, adapters and references: who computes, who is trained, and what a saved policy brings back."""

import gc
import weakref

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig

from llm import finite
from llm.algorithms import check, parameter_groups
from llm.generation import TransformersGenerator
from llm.policy import LoRA, Policy
from slhf.algorithms import EGPO, RLOO, StackelbergGDA
from slhf.errors import ConfigError, MissingResource
from tests.llm.architectures import build
from tests.llm.tiny import answers, conversation, move, pack, tiny_policy

pytestmark = pytest.mark.numeric

SHAPE = LoRA(rank=4, modules=finite.MODULES)


def load(directory, lora=SHAPE, **options):
    return Policy.load(str(directory), lora, dtype="float32", **options)


@pytest.fixture
def base(tmp_path):
    finite.build_model(tmp_path / "base", ("a", "b"), seed=1)
    return tmp_path / "base"


def read(policy):
    """Log-probabilities of every two-token answer and one reply to it."""
    batch = pack(policy, [conversation(policy, y, y) for y in answers(policy, ("a", "b"), 2)])
    with torch.no_grad():
        return policy.logprobs(batch), batch


def test_each_role_reads_with_its_own_adapter(base, tmp_path):
    """The two-adapter policy is, role by role, the one-adapter policies that hold the same weights."""
    two = load(base, sharing="two")
    move(two, seed=2)
    two.save(tmp_path / "two")
    logp, batch = read(two)
    for role, folder in (("leader", "two"), ("follower", "two/follower")):
        single, _ = read(load(base, adapter=tmp_path / folder))
        mask = batch.owners[role]
        torch.testing.assert_close(logp[mask], single[mask])
    assert two.adapter == "default"


def test_a_new_policy_is_its_reference(base):
    for policy in (load(base), load(base, sharing="two"), load(base, None)):
        logp, _ = read(policy)
        with policy.reference():
            reference, _ = read(policy)
        torch.testing.assert_close(logp, reference)


@pytest.mark.parametrize("sharing", ["one", "two"])
def test_switching_leaves_everything_trainable(base, sharing):
    """peft's set_adapter and disable_adapter toggle requires_grad; a role that lost it would silently not learn."""
    policy = load(base, sharing=sharing)
    groups = policy.parameter_groups(3.0)
    assert [group["factor"] for group in groups] == ([1.0] if sharing == "one" else [1.0, 3.0])
    optimised = {id(p) for group in groups for p in group["params"]}
    assert optimised == {id(p) for p in policy.model.parameters() if p.requires_grad}

    def check():
        assert {id(p) for p in policy.model.parameters() if p.requires_grad} == optimised
        assert {id(p) for _, p in policy.trainable()} == optimised

    for role in ("follower", "leader"):
        with policy.acting(role):
            check()
            with policy.reference():
                check()
            check()
    check()


def test_a_role_moves_its_own_adapter_only(base):
    policy = load(base, sharing="two")
    move(policy, seed=2)
    batch = pack(policy, [conversation(policy, y, y) for y in answers(policy, ("a", "b"), 2)])
    for role, other in (("leader", "follower"), ("follower", "leader")):
        policy.model.zero_grad()
        (policy.logprobs(batch) * batch.owners[role]).sum().backward()
        assert any(p.grad is not None and p.grad.any() for _, p in policy.trainable(role))
        assert not any(p.grad is not None and p.grad.any() for _, p in policy.trainable(other))
        assert not {name for name, _ in policy.trainable(role)} & {name for name, _ in policy.trainable(other)}


@pytest.mark.parametrize("sharing", ["one", "two"])
def test_the_reference_is_the_adapter_that_training_started_from(base, tmp_path, sharing):
    trained = load(base)
    move(trained, seed=2)
    trained.save(tmp_path / "trained")
    start, _ = read(trained)
    untouched, _ = read(load(base))
    assert not torch.allclose(start, untouched, atol=1e-2)

    policy = load(base, sharing=sharing, start_from=tmp_path / "trained")
    torch.testing.assert_close(read(policy)[0], start)
    move(policy, seed=3)
    policy.save(tmp_path / "further")
    resumed = load(base, sharing=sharing, adapter=tmp_path / "further", start_from=tmp_path / "trained")
    for later in (policy, resumed):
        with later.reference():
            torch.testing.assert_close(read(later)[0], start)
        assert not torch.allclose(read(later)[0], start, atol=1e-2)
    torch.testing.assert_close(read(resumed)[0], read(policy)[0])
    assert not any("reference" in name for name, _ in policy.trainable())
    assert not (tmp_path / "further" / "reference").exists()


def test_full_fine_tuning_trains_all_weights_against_a_frozen_copy(base, tmp_path):
    policy = load(base, None)
    assert {name for name, _ in policy.trainable()} == {name for name, _ in policy.model.named_parameters()}
    start, _ = read(policy)
    move(policy, seed=2, scale=0.1)
    moved, _ = read(policy)
    assert not torch.allclose(moved, start, atol=1e-2)
    policy.save(tmp_path / "full")
    resumed = load(base, None, adapter=tmp_path / "full")
    for later in (policy, resumed):
        torch.testing.assert_close(read(later)[0], moved)
        with later.reference():
            torch.testing.assert_close(read(later)[0], start)
    plain = load(tmp_path / "full", None)  # what was saved is an ordinary model, with its tokenizer
    torch.testing.assert_close(read(plain)[0], moved)


def test_adapters_load_with_plain_peft(base, tmp_path):
    policy = load(base, sharing="two")
    move(policy, seed=2)
    policy.save(tmp_path / "saved")
    ids = torch.tensor([policy.chat.prompt(finite.PROMPT)])
    for role, folder in (("leader", "saved"), ("follower", "saved/follower")):
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / folder))
        with torch.no_grad(), policy.acting(role):
            torch.testing.assert_close(plain(input_ids=ids).logits, policy.model(input_ids=ids).logits)


def test_what_does_not_fit_is_refused(base, tmp_path):
    with pytest.raises(ConfigError, match="sharing 'two'"):
        load(base, None, sharing="two")
    with pytest.raises(ConfigError, match="bfloat16"):
        Policy.load(str(base), None, dtype="bfloat16")
    load(base).save(tmp_path / "saved")
    with pytest.raises(ConfigError, match="r = 4"):
        load(base, LoRA(rank=2, modules=finite.MODULES), start_from=tmp_path / "saved")
    with pytest.raises(ConfigError, match="no_such"):
        load(base, start_from=tmp_path / "no_such")
    with pytest.raises(MissingResource):
        load(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="no Follower"):
        check(RLOO(), "two", steps=2)
    with pytest.raises(ConfigError, match="2 steps an update"):
        check(EGPO(), "one", steps=3)


def test_the_timescale_is_the_followers_learning_rate_where_it_has_its_own(base):
    spec = StackelbergGDA(timescale=7.0)
    assert [group["factor"] for group in parameter_groups(spec, load(base))] == [1.0]
    assert [group["factor"] for group in parameter_groups(spec, load(base, sharing="two"))] == [1.0, 7.0]


def test_an_episode_of_the_follower_stays_the_reference_within_the_reference(tmp_path):
    policy = tiny_policy(tmp_path, sharing="two")
    with policy.reference(), policy.acting("follower"):
        inside, _ = read(policy)
    with policy.reference():
        expected, _ = read(policy)
    torch.testing.assert_close(inside, expected)


def test_saving_an_adapter_asks_nobody(base, tmp_path, monkeypatch):
    """peft would look on the hub whether the base's embedding was resized, at every checkpoint."""
    asked = []
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *a, **k: asked.append(a))
    policy = load(base)
    policy.model.peft_config["default"].base_model_name_or_path = "someone/model"
    policy.save(tmp_path / "saved")
    assert not asked


def test_pickled_weights_are_refused(base, tmp_path):
    """They can run code as they are read."""
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.save(model.state_dict(), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    with pytest.raises(MissingResource, match=r"no weights in safetensors format\. Pickled ones"):
        load(base)
    model.save_pretrained(base)
    policy, saved = load(base), tmp_path / "saved"
    policy.save(saved)
    torch.save(load_file(saved / "adapter_model.safetensors"), saved / "adapter_model.bin")
    (saved / "adapter_model.safetensors").unlink()
    for use in ({"adapter": saved}, {"start_from": saved}):
        with pytest.raises(ConfigError, match="holds no adapter in safetensors format"):
            load(base, **use)
    with pytest.raises(ConfigError, match="holds no adapter in safetensors format"):
        Policy.as_is(str(base), saved, dtype="float32")


def test_modules_that_the_model_does_not_have_are_named(base):
    """Else most of the default modules would be left without an adapter where they have other names."""
    with pytest.raises(ConfigError, match=r"names o_proj, .* which PhiForCausalLM does not have.*: dense, fc1"):
        load(base, LoRA())


def test_a_trained_model_says_where_its_answers_end(tmp_path):
    """As do the files of its tokenizer's template; its base named another token."""
    name = build(tmp_path / "model", "qwen2-base")
    policy = Policy.load(name, None, dtype="float32")
    policy.save(tmp_path / "saved")
    known = GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id
    assert set(known) == policy.chat.ends == {policy.chat.eos, policy.tokenizer.eos_token_id}
    assert policy.chat.eos != policy.tokenizer.eos_token_id


def test_a_model_is_freed_with_its_policy(tmp_path):
    """Not only when garbage is collected: an evaluation would hold the weights of two models."""
    policy = tiny_policy(tmp_path)
    session = TransformersGenerator(policy).open([policy.chat.prompt("choose")])
    session.sample(1, seed=0)
    weights = [weakref.ref(p) for p in policy.model.parameters()]
    gc.collect()
    gc.disable()
    try:
        del policy, session
        assert not any(weight() is not None for weight in weights)
    finally:
        gc.enable()
