"""Log-probabilities in chunks, the shared trunk and the lean linear layers change nothing but the cost."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llm import finite, logprobs
from llm.experience import joint_rows
from llm.generation import TransformersGenerator
from llm.linear import FastLinears
from llm.logprobs import token_logprobs
from llm.policy import LoRA, Policy
from llm.trunk import frozen_layers
from slhf import hardware
from slhf.errors import ConfigError
from tests.llm.tiny import answers, conversation, move, pack, tiny_policy
from tests.tabular.strategies import examples

pytestmark = pytest.mark.numeric


def plain(hidden, weight, bias, targets, temperature):
    logits = nn.functional.linear(hidden, weight, bias).float() / temperature
    return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 70),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.3, 1.0, 2.0]),
    st.sampled_from([1, 40, 200, 2**20]),
)
@examples(60)
def test_values_and_gradients_equal_the_plain_computation(seed, n, vocabulary, biased, trained, temperature, chunk):
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, 5, generator=rng).requires_grad_()
    weight = torch.randn(vocabulary, 5, generator=rng).requires_grad_(trained)
    bias = torch.randn(vocabulary, generator=rng).requires_grad_(trained) if biased else None
    targets = torch.randint(vocabulary, (n,), generator=rng)
    upstream = torch.randn(n, generator=rng)
    inputs = [x for x in (hidden, weight, bias) if x is not None and x.requires_grad]
    before, logprobs.CHUNK_LOGITS = logprobs.CHUNK_LOGITS, chunk
    try:
        ours = token_logprobs(hidden, weight, bias, targets, temperature)
        ours_grad = torch.autograd.grad(ours @ upstream, inputs)
    finally:
        logprobs.CHUNK_LOGITS = before
    theirs = plain(hidden, weight, bias, targets, temperature)
    theirs_grad = torch.autograd.grad(theirs @ upstream, inputs)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-6)
    for a, b in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6 * max(1.0, float(b.abs().max())), rtol=1e-6)


def test_no_more_logits_than_a_chunk_at_a_time(monkeypatch):
    sizes, whole = [], logprobs._logits
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 100)
    monkeypatch.setattr(logprobs, "_logits", lambda *args: sizes.append(whole(*args).numel()) or whole(*args))
    hidden, weight = torch.randn(23, 4, requires_grad=True), torch.randn(30, 4, requires_grad=True)
    token_logprobs(hidden, weight, None, torch.randint(30, (23,)), 1.0).sum().backward()
    assert sum(sizes) == 2 * 23 * 30
    assert max(sizes) <= 100


def shallow(directory, sharing="one"):
    """A policy whose first layer is frozen, moved away from its reference."""
    finite.build_model(directory, ("a", "b"), seed=1)
    lora = LoRA(rank=4, layers=1, modules=finite.MODULES)
    policy = Policy.load(str(directory), lora, dtype="float32", sharing=sharing)
    with torch.no_grad():
        policy.head.bias[policy.chat.eos] = 0.0
    move(policy, seed=2)
    return policy


@pytest.mark.parametrize("sharing", ["one", "two"])
def test_the_trunk_read_once_gives_the_same_values_and_gradients(tmp_path, sharing):
    policy = shallow(tmp_path, sharing)
    batch = pack(policy, [conversation(policy, y, y) for y in answers(policy, ("a", "b"), 3)])
    trunk = policy.trunk(batch)
    assert frozen_layers(policy.decoder) == 1
    assert trunk.shape[:2] == batch.ids.shape
    results = []
    for given_trunk in (trunk, None):
        logp = policy.logprobs(batch, given_trunk)
        loss = (logp * torch.arange(logp.numel()).view(logp.shape)).mean()
        results.append((logp, *torch.autograd.grad(loss, [p for _, p in policy.trainable()])))
    whole = policy.decoder(input_ids=batch.ids, attention_mask=batch.attention).last_hidden_state  # a Leader's view
    expected = plain(whole[:, :-1].flatten(0, 1), policy.head.weight, policy.head.bias, batch.ids[:, 1:].flatten(), 1.0)
    mask = batch.owners["leader"][:, 1:]
    torch.testing.assert_close(results[0][0][:, 1:][mask], expected.view(mask.shape)[mask], atol=2e-6, rtol=1e-5)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    with policy.reference():
        torch.testing.assert_close(policy.logprobs(batch, trunk), policy.logprobs(batch))


def test_nothing_is_taken_for_frozen_that_is_trained(tmp_path):
    whole = tiny_policy(tmp_path / "adapters")
    assert frozen_layers(whole.decoder) == 0
    for name, p in whole.trainable():
        p.requires_grad_("layers.0." not in name)
    assert frozen_layers(whole.decoder) == 0  # not trained, but adapted: not the reference's
    batch = pack(whole, [conversation(whole, [whole.chat.eos])])
    assert whole.trunk(batch) is None
    full = Policy.load(str(tmp_path / "adapters"), None, dtype="float32")
    assert full.trunk(batch) is None
    with full.reference():
        assert full.trunk(batch) is None


def test_a_trunk_of_another_batch_is_refused(tmp_path):
    policy = shallow(tmp_path)
    batch = pack(policy, [conversation(policy, y) for y in answers(policy, ("a", "b"), 2)])
    with pytest.raises(ValueError, match="not of this batch"):
        policy.logprobs(batch, policy.trunk(batch)[1:])


@pytest.mark.parametrize("repeats", [1, 3])
def test_sampling_leaves_the_trunk_of_its_conversations(tmp_path, repeats):
    policy = shallow(tmp_path)
    prompts = ["choose", "choose choose choose", "the answer"] * 4
    session = TransformersGenerator(policy).open([policy.chat.prompt(x) for x in prompts])
    y = session.sample(5, seed=0)
    session.extend([policy.chat.turn(a.ids) for a in y])
    session.repeat(repeats)
    replies = session.sample(5, seed=1)
    prompts, y = ([z for z in each for _ in range(repeats)] for each in (prompts, y))
    rows = joint_rows(policy.chat, prompts, [a.ids for a in y], [b.ids for b in replies])
    conversations = [[token for ids, _ in row for token in ids] for row in rows]
    batch = pack(policy, rows)
    kept = session.trunk(conversations)
    read = batch.attention.bool()
    read[torch.arange(len(rows)), batch.attention.sum(1) - 1] = False  # the last token is not read
    torch.testing.assert_close(kept[read], policy.trunk(batch)[read], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(policy.logprobs(batch, kept), policy.logprobs(batch), atol=2e-5, rtol=1e-5)
    assert len({len(a.ids) for a in y}) > 1
    assert session.trunk(conversations[1:]) is None


def test_the_lean_adapter_computes_what_peft_computes(tmp_path):
    policy = tiny_policy(tmp_path)
    layer = next(m for m in policy.model.modules() if hasattr(m, "lora_A"))
    theirs = type(layer).forward
    x = torch.randn(2, 3, layer.in_features, requires_grad=True)
    weights = [x, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    for a, b in zip(
        torch.autograd.grad((layer(x) ** 2).sum(), weights),
        torch.autograd.grad((theirs(layer, x) ** 2).sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    with policy.reference():
        torch.testing.assert_close(layer(x), layer.base_layer(x), atol=0, rtol=0)
    layer.bfloat16()
    layer.lora_A.float(), layer.lora_B.float()
    x = x.detach().bfloat16()
    exact = theirs(layer, x).float()
    assert float((layer(x).float() - exact).abs().max()) < 2 * 2**-8 * float(exact.abs().max())
    assert not torch.equal(layer(x), layer.base_layer(x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocked_weights_change_the_order_of_float32_sums_alone_and_are_put_away(tmp_path, dtype):
    finite.build_model(tmp_path, ("a", "b"), seed=1)
    policy = Policy.load(str(tmp_path), LoRA(rank=4, modules=finite.MODULES), dtype=dtype)
    move(policy, seed=2)
    fast = FastLinears(policy.model)
    ids = torch.randint(5, 20, (3, 7))
    with torch.no_grad():
        before = policy.model(input_ids=ids).logits
        with fast.on():
            during = policy.model(input_ids=ids).logits
            layers = [layer for layer, _ in fast.forwards]
            for layer in layers if dtype == "float32" else ():
                assert_same_sums(layer)
    served = hardware.has_bfloat16_units() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if torch.backends.mkldnn.is_available() and (dtype == "float32" or served):
        assert len(layers) == 2 * 6 + 1
    else:
        assert layers == []
    if dtype == "float32":
        torch.testing.assert_close(during, before, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(before, during)
    assert not any("forward" in vars(m) for m in policy.model.modules() if type(m) is nn.Linear)


def assert_same_sums(layer):
    """A sum of K products errs by at most K u times the sum of their sizes, in any order; u = 2^-24."""
    x = torch.randn(9, layer.in_features)
    exact = nn.functional.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
    sizes = x.abs().double() @ layer.weight.abs().double().T + (0 if layer.bias is None else layer.bias.abs().double())
    assert ((layer(x) - exact).abs() <= (layer.in_features + 1) * 2**-24 * sizes).all()


def test_an_adapted_output_layer_is_refused(tmp_path):
    finite.build_model(tmp_path, ("a", "b"), seed=1)
    with pytest.raises(ConfigError, match="output layer"):
        Policy.load(str(tmp_path), LoRA(rank=4, modules=("q_proj", "lm_head")), dtype="float32")


def test_where_torch_comes_without_onednn_the_model_samples_all_the_same(tmp_path, monkeypatch):
    """As on Apple silicon, where ``torch.ops.mkldnn`` has no operators."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    policy = tiny_policy(tmp_path)
    policy.model.to(torch.bfloat16)
    session = TransformersGenerator(policy).open([policy.chat.prompt(finite.PROMPT)])
    assert len(session.sample(2, seed=0)[0].ids) > 0


@pytest.fixture
def offered(monkeypatch):
    """As on a GPU: ``torch.mm`` returns the float32 numbers in which it sums products of bfloat16."""
    plain_mm = torch.mm

    def mm(a, b, out_dtype=None):
        return plain_mm(a, b) if out_dtype is None else plain_mm(a.to(out_dtype), b.to(out_dtype))

    monkeypatch.setattr(torch, "mm", mm)
    logprobs._offers_float32.cache_clear()
    yield
    logprobs._offers_float32.cache_clear()


def test_logits_are_not_rounded_where_torch_can_return_them(offered):
    """The floor under every KL elsewhere: the same numbers through bfloat16 logits."""
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(64, 32), torch.randn(300, 32), torch.randn(300)
    hidden, weight, bias = hidden.bfloat16(), weight.bfloat16(), bias.bfloat16()
    targets = torch.randint(300, (64,))
    exact = plain(hidden.double(), weight.double(), bias.double(), targets, 1.0)
    torch.testing.assert_close(token_logprobs(hidden, weight, bias, targets, 1.0), exact.float(), atol=1e-4, rtol=1e-5)
    head = nn.Linear(32, 300).bfloat16()
    with torch.no_grad():
        head.weight.copy_(weight), head.bias.copy_(bias)
        sampled = logprobs.head_logits(head, hidden).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(sampled, exact.float(), atol=1e-4, rtol=1e-5)
    rounded = plain(hidden, weight, bias, targets, 1.0)
    assert float((rounded - exact).abs().max()) > 1e-2
