import numpy as np
import pytest

from llm import logprobs
from llm.judges import FeatureJudge, ask, drain
from llm.judges import attributes as module
from llm.judges.attributes import AttributeJudge, distinct_words, finished_sentences
from llm.judges.matrix import MatrixJudge
from llm.reward import LinearReward, fit_reward
from slhf.errors import InvalidParameter, JudgeError
from tabular import PreferenceMatrix, solve_rlhf

pytestmark = pytest.mark.numeric

PROMPT = "Give one tip for sleeping better."
GOOD = "Keep a regular schedule and avoid screens before bed, so that your body rests well each night."
LONGER = (
    "Keep a regular schedule and avoid screens before bed, "
    "because a calm routine helps your body rest well every night."
)
DEGENERATE = {
    "fragment": "Sleep well.",
    "cut off": "Keep a regular schedule and avoid screens before bed, as a calm evening helps and",
    "repetition": "Good sleep good sleep good sleep good sleep good sleep good sleep good sleep.",
    "empty": "",
    "flattery": "Amazing wonderful great happy love best joy beautiful excellent.",
    "word salad": "Schedule the bed of calmly avoid routine purple helps night dream screens because, regular well.",
}


@pytest.fixture(scope="module")
def attributes():
    return AttributeJudge(dtype="float32")  # other batches, here, are other padding: bfloat16 would round it otherwise


@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_text_does_not_win(attributes, kind):
    """It beats neither of two plain answers, and loses to them on average."""
    p = ask(attributes, [PROMPT] * 2, [GOOD, LONGER], [DEGENERATE[kind]] * 2)
    assert p.min() >= 0.5
    assert p.mean() > 0.5


def test_preferences_are_antisymmetric_and_equal_texts_tie(attributes):
    texts = [GOOD, *DEGENERATE.values()]
    a, b = [x for x in texts for _ in texts], texts * len(texts)
    p = ask(attributes, [PROMPT] * len(a), a, b).reshape(len(texts), -1)
    np.testing.assert_allclose(p + p.T, 1)
    np.testing.assert_allclose(np.diag(p), 0.5)


def test_it_says_how_often_each_attribute_is_with_the_majority(attributes):
    a, b = [GOOD, LONGER] * len(DEGENERATE), [text for text in DEGENERATE.values() for _ in range(2)]
    drain(attributes)
    p, found = ask(attributes, [PROMPT] * len(a), a, b), drain(attributes)
    ours, theirs = (attributes.features([PROMPT] * len(a), texts) for texts in (a, b))
    won = p > 0.5  # no verdict goes against a here
    agreement = (np.sign(ours - theirs)[won].mean(0) + 1) / 2
    for name, value in zip(attributes.feature_names, agreement, strict=True):
        assert found.pop(f"agreement_{name}") == pytest.approx(value)
    assert found.pop("seconds_per_comparison") > 0
    assert found == {"comparisons": len(a)}


def test_features_do_not_depend_on_the_batch(attributes):
    texts = [GOOD, *DEGENERATE.values()]
    together = attributes.features([PROMPT] * len(texts), texts)
    alone = np.concatenate([attributes.features([PROMPT], [text]) for text in texts[:3]])
    np.testing.assert_allclose(together[:3], alone, rtol=1e-5, atol=1e-5)


def test_only_so_many_tokens_are_read_at_a_time_and_no_logits_of_all_of_them(attributes, monkeypatch):
    """The same attributes in the same order from batches of bounded tokens; one text is a batch of its own at least."""
    texts = [" ".join([GOOD] * n) for n in (1, 3, 7)] + [GOOD[:i] for i in range(1, 13, 3)]
    whole = attributes.features([PROMPT] * len(texts), texts)
    read, head, sizes, logits = attributes._score, attributes._model.get_output_embeddings(), [], []
    monkeypatch.setattr(module, "TOKENS_AT_A_TIME", 128)
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 30 * len(head.weight))
    linear = logprobs.linear
    monkeypatch.setattr(logprobs, "linear", lambda *args: logits.append(linear(*args)) or logits[-1])
    monkeypatch.setattr(attributes, "_score", lambda ids, mask: sizes.append(tuple(ids.shape)) or read(ids, mask))
    np.testing.assert_allclose(attributes.features([PROMPT] * len(texts), texts), whole, rtol=1e-4, atol=1e-4)
    assert sum(rows for rows, _ in sizes) == len(texts)
    assert all(rows == 1 or rows * columns <= 128 for rows, columns in sizes)
    assert max(rows for rows, _ in sizes) > 1
    assert max(map(len, logits)) <= 30


def test_gibberish_after_a_long_text_is_not_fluent(attributes):
    """Fluency is of the very text whose words are counted, however long."""
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), (60, 6))
    long = " ".join(f"{i} times {i} is {i * i}, as one can see by counting." for i in range(15))
    spoilt = f"{long} {' '.join(map(''.join, letters))}"
    plain, worse = attributes.features([PROMPT] * 2, [long, spoilt])[:, attributes.feature_names.index("fluency")]
    assert len(attributes._tokenizer(long)["input_ids"]) > 256
    assert worse < plain


def test_a_text_beyond_the_context_is_refused(attributes):
    with pytest.raises(JudgeError, match="longer than the judge's context of"):
        attributes.features([PROMPT], ["word " * 9000])


@pytest.mark.parametrize(("text", "count"), [("", 0), ("A a A.", 1), ("It's nice, isn't it?", 4), ("x " * 50, 1)])
def test_distinct_words(text, count):
    assert len(distinct_words(text)) == count


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("", ""),
        ("One. Two", "One."),
        ('He said "Stop!" and left', 'He said "Stop!"'),
        ("About 3.5 metres", ""),
        ("Why? Because\nit is.", "Why? Because\nit is."),
    ],
)
def test_finished_sentences(text, finished):
    assert finished_sentences(text) == finished


def test_matrix_judge_looks_up():
    judge = MatrixJudge(np.array([[0.5, 0.9], [0.1, 0.5]]), ["a", "b"])
    assert isinstance(judge, FeatureJudge)
    np.testing.assert_array_equal(ask(judge, ["x"] * 3, ["a", "b", "a"], ["b", "a", "a"]), [0.9, 0.1, 0.5])
    with pytest.raises(JudgeError, match="'c' is not one of"):
        ask(judge, ["x"], ["c"], ["a"])
    with pytest.raises(JudgeError, match="shape"):
        MatrixJudge(np.eye(3), ["a", "b"])


class Answering:
    """A judge that answers what it is told, or raises it; so do its features."""

    feature_names = ("one", "two")

    def __init__(self, answer):
        self.answer = answer

    def features(self, prompts, answers):
        return self.prefer(prompts, answers, answers)

    def prefer(self, prompts, a, b):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ConnectionError("no route"), "ConnectionError: no route"),
        (np.array([0.5]), r"\(1,\) to 2 questions"),
        (np.array([0.5, np.nan]), "row 1"),
        (np.array([1.5, 0.5]), "row 0"),
    ],
)
def test_no_preference_is_invented(answer, message):
    with pytest.raises(JudgeError, match=message):
        ask(Answering(answer), ["x", "x"], ["a", "a"], ["b", "b"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ConnectionError("no route"), "ConnectionError: no route"),
        (np.zeros(2), r"\(2,\) to 2 questions"),
        (np.zeros((2, 3)), r"\(2, 3\) to 2 questions"),
        (np.array([[0.5, 0.0], [0.5, np.nan]]), "not finite features, in row 1"),
    ],
)
def test_no_feature_is_invented(answer, message):
    with pytest.raises(JudgeError, match=message):
        LinearReward(Answering(answer), np.ones(2), 0.0, None).score(["x", "x"], ["a", "b"])


def test_a_reward_is_not_fitted_to_features_that_are_none():
    judge = MatrixJudge(np.full((2, 2), 0.5), ["a", "b"])
    judge.features = lambda prompts, answers: np.full((len(prompts), 2), np.nan)
    with pytest.raises(JudgeError, match="not finite features, in row 0"):
        fit_reward(judge, ["x"], ["a"], ["b"], l2=1.0)


def test_the_fitted_reward_is_tabulars_on_finite_answers():
    """One-hot features and every pair asked once: RLHF's own reward, found by another solver."""
    P = PreferenceMatrix([[0.5, 0.65, 0.4], [0.35, 0.5, 0.75], [0.6, 0.25, 0.5]])
    labels = ["a", "b", "c"]
    i, j = np.triu_indices(3, 1)
    judge = MatrixJudge(P.p, labels)
    reward = fit_reward(judge, ["x"] * 3, [labels[k] for k in i], [labels[k] for k in j], l2=1e-7)
    np.testing.assert_allclose(reward.score(["x"] * 3, labels), solve_rlhf(P).reward, atol=1e-5)
    assert reward.certificate.gap < 1e-9


def test_the_fitted_reward_needs_a_penalty():
    with pytest.raises(InvalidParameter, match="l2"):
        fit_reward(MatrixJudge(np.full((2, 2), 0.5), ["a", "b"]), ["x"], ["a"], ["b"], l2=0.0)
