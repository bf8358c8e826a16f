"""The sampler and the trainer agree on every token: cache, masks, positions, temperature, adapter, mixture."""

from collections import Counter
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm import finite, generation
from llm.generation import TransformersGenerator, batches, common_prefix, draw
from slhf.errors import TrainingError
from slhf.signals import geometric_mixture
from tests.llm.peak import peak_of
from tests.llm.tiny import answers, conversation, move, pack, tiny_policy
from tests.tabular.strategies import examples

pytestmark = pytest.mark.numeric

PROMPTS = ["choose", "choose choose choose", "choose the answer"]


def recorded(samples):
    return torch.tensor([p for sample in samples for p in sample.logprobs])


@pytest.mark.parametrize(("temperature", "sharing"), [(1.0, "one"), (0.7, "one"), (1.0, "two")])
def test_both_roles_log_probabilities_equal_the_training_forward(tmp_path, temperature, sharing):
    """Prompts of different lengths, repeated, answers that end and that are cut off, the Follower on the same cache."""
    policy = tiny_policy(tmp_path, temperature=temperature, sharing=sharing)
    chat, repeats = policy.chat, 8
    session = TransformersGenerator(policy).open([chat.prompt(x) for x in PROMPTS])
    session.repeat(repeats)
    y = session.sample(4, seed=0)
    session.extend([chat.turn(sample.ids) for sample in y])
    replies = session.sample(4, seed=1, role="follower")
    prompts = [x for x in PROMPTS for _ in range(repeats)]
    batch = pack(
        policy,
        [
            [(chat.prompt(x), None), (a.ids, "leader"), (chat.turn(a.ids), None), (b.ids, "follower")]
            for x, a, b in zip(prompts, y, replies, strict=True)
        ],
    )
    assert len({len(sample.ids) for sample in y}) > 1
    assert any(sample.ids[-1] == chat.eos for sample in y)
    assert any(sample.ids[-1] != chat.eos for sample in y)
    logp = policy.logprobs(batch)
    for role, samples in (("leader", y), ("follower", replies)):
        trained = logp[batch.owners[role]]
        torch.testing.assert_close(recorded(samples), trained, atol=2e-5, rtol=1e-5)


def test_the_reference_is_the_base_model(tmp_path):
    moved, base = tiny_policy(tmp_path / "a"), tiny_policy(tmp_path / "b", moved=False)
    conversations = [conversation(moved, y, y) for y in answers(moved, ("a", "b"), 2)]
    with moved.reference():
        reference = moved.logprobs(pack(moved, conversations))
    torch.testing.assert_close(reference, base.logprobs(pack(base, conversations)))
    assert not torch.allclose(moved.logprobs(pack(moved, conversations)), reference, atol=1e-2)


@pytest.mark.parametrize("mixture", [0.0, 0.4, 1.0])
def test_mixture_samples_the_geometric_mixture_at_every_token(tmp_path, mixture):
    policy = tiny_policy(tmp_path)
    opening = policy.chat.prompt(finite.PROMPT)
    session = TransformersGenerator(policy).open([opening] * 64, mixture=mixture)
    for sample in session.sample(3, seed=0):
        ids = torch.tensor([opening + sample.ids])
        own = policy.model(input_ids=ids).logits.log_softmax(-1)
        with policy.reference():
            base = policy.model(input_ids=ids).logits.log_softmax(-1)
        mixed = geometric_mixture(own, base, mixture=mixture).log_softmax(-1)[0, len(opening) - 1 : -1]
        expected = mixed.gather(1, torch.tensor(sample.ids)[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=2e-5, rtol=1e-5)


def test_samples_follow_the_policy(tmp_path):
    """4096 draws against the exact distribution: total variation of about sqrt(n / (2 pi draws)) is noise."""
    policy = tiny_policy(tmp_path)
    possible = answers(policy, ("a", "b"), 2)
    batch = pack(policy, [conversation(policy, y) for y in possible])
    exact = policy.logprobs(batch).sum(1).exp()
    session = TransformersGenerator(policy).open([policy.chat.prompt(finite.PROMPT)])
    session.repeat(4096)
    counts = Counter(tuple(sample.ids) for sample in session.sample(2, seed=5))
    drawn = torch.tensor([counts[tuple(y)] / 4096 for y in possible])
    assert float(exact.sum()) == pytest.approx(1, abs=1e-5)
    assert float((drawn - exact).abs().sum() / 2) < 0.03


def test_a_seed_repeats_the_draw_and_another_does_not(tmp_path):
    policy = tiny_policy(tmp_path)
    opening = [policy.chat.prompt(x) for x in PROMPTS] * 4

    def draw(seed):
        return [sample.ids for sample in TransformersGenerator(policy).open(opening).sample(4, seed)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def sampled(policy, prompts=PROMPTS * 8, count=6, first_row=0, seed=3, **options):
    """Answers and replies: token ids, and log-probabilities, of each row."""
    session = TransformersGenerator(policy, **options).open([policy.chat.prompt(x) for x in prompts])
    y = session.sample(count, seed, first_row=first_row)
    session.extend([policy.chat.turn(a.ids) for a in y])
    replies = session.sample(count, seed + 1, "follower", first_row)
    return [(a.ids, b.ids) for a, b in zip(y, replies, strict=True)], recorded(y + replies)


def test_what_a_row_draws_depends_on_its_place_in_the_global_batch_alone(tmp_path):
    policy = tiny_policy(tmp_path)
    whole, _ = sampled(policy)
    parts = [sampled(policy, (PROMPTS * 8)[a:b], first_row=a)[0] for a, b in ((0, 1), (1, 9), (9, 24))]
    assert list(chain(*parts)) == whole
    assert sampled(policy, first_row=1)[0] != whole
    assert len(set(map(str, whole))) > 12


@pytest.mark.parametrize(("name", "value"), [("COMPACT", 2.0), ("COMPACT", 0.0), ("READ_TOKENS", 30)])
def test_leaving_out_finished_rows_and_reading_in_parts_change_nothing(tmp_path, monkeypatch, name, value):
    """COMPACT = 2 carries finished rows to the end, 0 drops each at once."""
    policy = tiny_policy(tmp_path)
    ids, logp = sampled(policy)
    monkeypatch.setattr(generation, name, value)
    others, other_logp = sampled(policy)
    assert others == ids
    torch.testing.assert_close(other_logp, logp, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compact", [0.0, 2.0])
def test_finished_rows_cost_nothing(tmp_path, monkeypatch, compact):
    """The rows fed to the model in a decoding step are those still going, and no token is fed twice."""
    policy, fed = tiny_policy(tmp_path), []
    forward = generation._forward
    monkeypatch.setattr(generation, "COMPACT", compact)
    monkeypatch.setattr(generation, "_forward", lambda *args: fed.append(tuple(args[2].shape)) or forward(*args))
    opening = [policy.chat.prompt(x) for x in PROMPTS * 8]
    session = TransformersGenerator(policy).open(opening)
    y = session.sample(6, seed=3)
    shared = common_prefix(opening)
    assert fed[0] == (1, shared)
    assert fed[1] == (24, max(map(len, opening)) - shared)
    alive = [sum(len(a.ids) > step and a.ids[: step + 1][-1] != policy.chat.eos for a in y) for step in range(5)]
    assert alive[-1] < 24
    assert fed[2:] == [(n if compact == 0 else 24, 1) for n in alive if n]
    fed.clear()
    session.extend([policy.chat.turn(a.ids) for a in y])
    session.sample(1, seed=4)
    # the turn starts with the end of sequence, which an ended answer holds already and a cut-off one lacks
    assert fed == [(24, len(policy.chat._turn) + any(a.ids[-1] != policy.chat.eos for a in y))]


def test_only_a_change_of_adapter_reads_again(tmp_path, monkeypatch):
    forward = generation._forward
    for sharing in ("one", "two"):
        policy, fed = tiny_policy(tmp_path / sharing, sharing=sharing), []
        monkeypatch.setattr(generation, "_forward", lambda *args, fed=fed: fed.append(args[2]) or forward(*args))
        session = TransformersGenerator(policy).open([policy.chat.prompt("choose")])
        y = session.sample(1, seed=0)
        session.extend([policy.chat.turn(y[0].ids)])
        session.sample(1, seed=0, role="follower")
        again = fed[-1].shape[1] > len(policy.chat._turn) + 1
        assert again == (sharing == "two")


def test_decoding_with_fixed_shapes_through_the_compiler_gives_the_same(tmp_path, monkeypatch):
    """With the backend "eager": the tracing, its one graph and the fixed shapes are tested, not the generated code."""
    policy = tiny_policy(tmp_path)
    ids, logp = sampled(policy)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    others, other_logp = sampled(policy, compile=True)
    assert others == ids
    torch.testing.assert_close(other_logp, logp, atol=1e-5, rtol=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 128, 129, 300]), st.sampled_from([0.5, 3.0, 20.0]))
@examples(20)
def test_draw_inverts_the_cumulative_distribution(seed, vocabulary, scale):
    """Of 20,000 evenly spread uniform numbers each token gets its share, but for one at either end."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(scale=scale, size=vocabulary), dtype=torch.float32)
    logits[torch.tensor(rng.random(vocabulary) < 0.2)] = -torch.inf
    logits[rng.integers(vocabulary)] = 1.0
    n = 20_000
    token, logp = draw(logits.expand(n, -1), (torch.arange(n, dtype=torch.float64) + 0.5) / n)
    p = logits.double().softmax(-1)
    assert torch.all(token[1:] >= token[:-1])
    assert float((torch.bincount(token, minlength=vocabulary) / n - p).abs().max()) < 1.1 / n + 2e-6
    torch.testing.assert_close(logp, p[token].log().float(), atol=2e-5, rtol=1e-5)


def test_draw_takes_no_impossible_token_at_the_ends():
    logits = torch.full((2, 300), -torch.inf)
    logits[:, [7, 200]] = 0.0
    token, _ = draw(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert token.tolist() == [7, 200]


def test_diverged_logits_stop_the_run(tmp_path):
    policy = tiny_policy(tmp_path)
    move(policy, seed=0, scale=float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        sampled(policy)


def test_switching_adapters_walks_no_modules(tmp_path, monkeypatch):
    """A mixture switches twice for every token; all that is trained keeps its gradient."""
    policy = tiny_policy(tmp_path)
    trained = {name for name, _ in policy.trainable()}
    for name in ("named_modules", "named_parameters"):
        monkeypatch.setattr(torch.nn.Module, name, lambda *_, **__: pytest.fail("walked all modules"))
    with policy.reference():
        pass
    monkeypatch.undo()
    assert {name for name, p in policy.model.named_parameters() if p.requires_grad} == trained


def test_compiled_decoding_meets_the_same_shapes_for_conversations_of_other_lengths(tmp_path, monkeypatch):
    policy, seen = tiny_policy(tmp_path), set()

    def compile(forward, **_):
        return lambda *args: seen.add((args[2].shape, args[1].width)) or forward(*args)

    monkeypatch.setattr(torch, "compile", compile)
    for prompts in (PROMPTS * 3, ["choose the answer"] * 9, ["choose choose choose choose"] * 9):
        sampled(policy, prompts, compile=True)
    assert seen == {((9, 1), generation.WIDTH)}


@pytest.mark.parametrize("mixture", [None, 0.5])
def test_sampling_holds_no_more_than_its_cache_and_one_layer(tmp_path, mixture):
    """Answer, then reply: no second copy of the cache, no columns that nobody needs, at any moment."""
    policy, n, repeats = tiny_policy(tmp_path), 300, 4
    policy.head.bias.data[policy.chat.eos] = 4.0  # a few answers end early, and their rows move
    session = TransformersGenerator(policy).open([policy.chat.prompt(x) for x in PROMPTS * 4], mixture=mixture)

    def sample():
        session.repeat(repeats)
        y = session.sample(n, seed=0)
        session.extend([policy.chat.turn(a.ids) for a in y])
        longest = max(map(len, session.conversations))
        session.sample(n, seed=1, role="follower")
        return longest

    peak, longest = peak_of(sample)
    caches, shape = list(session.caches.values()), policy.decoder.config
    stored = sum(x.nbytes for cache in caches for x in (*cache.keys, *cache.values))
    assert caches[0].columns == longest + n
    layer = stored / len(caches) / shape.num_hidden_layers
    heads = shape.num_attention_heads / shape.num_key_value_heads  # attention copies keys and values for every head
    assert peak < stored + layer * (0.5 + heads) + 0.1 * stored


def test_a_session_is_used_in_order(tmp_path):
    policy = tiny_policy(tmp_path)
    session = TransformersGenerator(policy).open([policy.chat.prompt("choose")])
    session.repeat(2)
    with pytest.raises(RuntimeError, match="Sample"):
        session.extend([[1], [1]])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 200))
@examples(50)
def test_batches_hold_every_row_once_within_the_limit(lengths, tokens):
    parts = batches(lengths, tokens)
    assert sorted(chain(*parts)) == list(range(len(lengths)))
    assert all(len(part) == 1 or max(lengths[i] for i in part) * len(part) <= tokens for part in parts)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=4))
@examples(50)
def test_common_prefix_leaves_each_a_token(conversations):
    n = common_prefix(conversations)
    assert len({tuple(c[:n]) for c in conversations}) == 1
    assert n < min(map(len, conversations))
    longer = len({tuple(c[: n + 1]) for c in conversations}) == 1
    assert not longer or n + 1 == min(map(len, conversations))
