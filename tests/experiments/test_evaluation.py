"""The examination of tiny policies by a judge that is a function of the text, against direct calls and enumeration."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from experiments import evaluation
from experiments.config import EvaluationConfig
from experiments.evaluation import Contestant, Examination, examine
from llm.config import load_policy
from llm.judges.bias import length_bias
from slhf.errors import ConfigError, JudgeError
from tests.experiments.examinees import PROMPTS, TextJudge, adapter, build, examination, preference

pytestmark = pytest.mark.numeric

ALL = {"rounds": 3, "leader_follower": True, "leader_follower_prompts": 5, "parity": True, "samples": 4}
ALL |= {"tau": 0.1, "length_control": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapters(model, tmp_path_factory):
    return [adapter(model, tmp_path_factory.mktemp(f"adapter{seed}"), seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def everything(model, adapters, tmp_path_factory):
    exam = examination(tmp_path_factory.mktemp("answers"), model, adapters, **ALL)
    judge = TextJudge()
    return exam, judge, examine(exam, judge)


def kept(exam, name):
    return json.loads((exam.folder / f"{name}.json").read_text())


def written(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def direct(texts, others):
    return np.array([preference(*row) for row in zip(PROMPTS, texts, others, strict=False)])


def row_of(rows, **keys):
    (row,) = [row for row in rows if all(row[key] == value for key, value in keys.items())]
    return row


def test_without_being_asked_the_examination_is_what_it_was(model, adapters, tmp_path):
    result = examine(examination(tmp_path, model, adapters), TextJudge())
    assert set(result) == {"prompts", "answers", "win_rates", "verdicts", "refinement", "attributes"}
    names = ["Base", "RLOO", "SLHF", "SLHF%2Fκ=5"]
    assert set(written(tmp_path)) == {tmp_path / "rounds" / f"{name}.json" for name in names}
    players = ["Base", "Base as Follower", "SLHF Leader", "SLHF Follower", "SLHF/κ=5 Leader", "SLHF/κ=5 Follower"]
    assert list(result["answers"]) == [*players, "RLOO"]
    rate = row_of(result["win_rates"], row="SLHF Follower", column="RLOO")
    assert rate["mean"] == pytest.approx(direct(result["answers"]["SLHF Follower"], result["answers"]["RLOO"]).mean())


def test_every_follower_meets_every_leader(everything):
    exam, _, result = everything
    leaders = {"Base": "Base", "SLHF Leader": "SLHF", "SLHF/κ=5 Leader": "SLHF%2Fκ=5", "RLOO": "RLOO"}
    followers = {
        "Base as Follower": "Base",
        "SLHF Follower": "SLHF",
        "SLHF/κ=5 Follower": "SLHF%2Fκ=5",
        "RLOO as Follower": "RLOO",
    }
    assert len(result["leader_follower"]) == 16
    for (leader, first), (follower, second) in itertools.product(leaders.items(), followers.items()):
        row = row_of(result["leader_follower"], leader=leader, follower=follower)
        seen = kept(exam, f"rounds/{first}")[0]
        own = first == second and first != "RLOO"
        replies = kept(exam, f"rounds/{second}")[1] if own else kept(exam, f"improved/by {second}/{first}")
        p = direct(replies[:5], seen[:5])
        assert row["n"] == len(p) == 5
        assert row["mean"] == pytest.approx(p.mean())
        assert (row["low"], row["high"]) == (None, None)  # of five prompts


def test_replies_depend_on_the_answer_and_come_from_the_follower(model, tmp_path):
    """A Follower of its own whose adapter alone is moved: only then do replies differ from the base's."""
    policy = load_policy(replace(model, sharing="two"), None, 0, "cpu")
    for _, parameter in policy.trainable("follower"):
        parameter.data += 0.5
    policy.save(tmp_path / "two")
    two = Contestant("Two", "two", replace(model, sharing="two"), tmp_path / "two", True)
    exam = Examination(
        [Contestant("Base", "base", model), two], PROMPTS, EvaluationConfig(leader_follower=True), 0, tmp_path / "kept"
    )
    speaker, plain = evaluation.Speaker(two, exam), evaluation.Speaker(replace(two, adapter=None), exam)
    long = ["a b", "a b", "a b", "c", "c", "c", "a"]
    trained = speaker.improve("Base", long)
    (exam.folder / "improved" / "by Two" / "Base.json").unlink()
    untrained = plain.improve("Base", long)
    assert trained != untrained
    (exam.folder / "improved" / "by Two" / "Base.json").unlink()
    assert plain.improve("Base", ["b c a"] * 7) != untrained


def test_parity_is_that_of_enumeration(everything):
    exam, _, result = everything
    base = kept(exam, "rounds/Base")[0]
    for title, name in (("Base", "Base"), ("SLHF", "SLHF"), ("SLHF/κ=5", "SLHF%2Fκ=5")):
        rounds, fresh = kept(exam, f"rounds/{name}"), kept(exam, f"samples/{name}")
        samples = fresh if title == "Base" else [rounds[0], *fresh]
        for n in (1, 2, 3):
            best = []
            for k, x in enumerate(PROMPTS):
                texts = [sample[k] for sample in samples[:n]]
                wins = [sum(preference(x, y, other) for other in texts) for y in texts]
                tied = [y for y, w in zip(texts, wins, strict=True) if np.isclose(w, max(wins))]
                best.append(np.mean([preference(x, y, base[k]) for y in tied]))
            expected = {
                "refinement": direct(rounds[n - 1], base).mean(),
                "best of n": np.mean(best),
                "resampling": np.mean([direct(sample, base) for sample in samples[:n]]),
            }
            for method, mean in expected.items():
                row = row_of(result["parity"], policy=title, method=method, generations=n)
                assert row["mean"] == pytest.approx(mean), (title, method, n)
                assert row["n"] == len(PROMPTS)
    assert len(result["parity"]) == 3 * 3 * 3
    assert row_of(result["parity"], policy="Base", method="refinement", generations=1)["mean"] == 0.5
    at_one = [row["mean"] for row in result["parity"] if (row["policy"], row["generations"]) == ("SLHF", 1)]
    assert len(set(at_one)) == 1


def test_length_control_is_a_regression_on_the_difference_in_words(everything):
    _, _, result = everything
    names = list(result["answers"])
    assert [(row["row"], row["column"]) for row in result["length_control"]] == [
        pair for one, other in itertools.combinations(names, 2) for pair in ((one, other), (other, one))
    ]
    for one, other in (("SLHF Follower", "RLOO"), ("RLOO", "SLHF Follower")):
        texts, others = result["answers"][one], result["answers"][other]
        lengths = [[float(len(text.split())) for text in side] for side in (texts, others)]
        fit = length_bias(direct(texts, others), *map(np.array, lengths), resamples=200, seed=0)
        controlled = row_of(result["length_control"], row=one, column=other)
        assert controlled["mean"] == pytest.approx(fit.win_rate, abs=1e-6)
        assert (controlled["low"], controlled["high"]) == pytest.approx((fit.win_rate_low, fit.win_rate_high), abs=1e-6)
        slope = row_of(result["length_bias"], row=one, column=other)
        assert (slope["slope"], slope["low"]) == pytest.approx((fit.slope, fit.slope_low), abs=1e-6)


def test_answers_of_equal_length_have_their_win_rate_and_no_slope(everything):
    exam, _, _ = everything
    players = {"one": ["a"] * len(PROMPTS), "other": ["b"] * len(PROMPTS)}
    found = evaluation.length_controlled(exam, players, TextJudge())
    assert found["length_bias"] == []
    assert found["length_control"][0]["mean"] == pytest.approx(
        direct(["a"] * len(PROMPTS), ["b"] * len(PROMPTS)).mean()
    )


def test_the_base_is_never_held_against_a_sample_that_is_its_own_first_answer(everything):
    exam, _, _ = everything
    assert len(kept(exam, "samples/Base")) == 4
    assert len(kept(exam, "samples/SLHF")) == 3  # its first answers are the fourth
    assert len(kept(exam, "samples/SLHF%2Fκ=5")) == 2  # not among the four players of the cycles, only of parity
    assert kept(exam, "samples/Base")[0] != kept(exam, "rounds/Base")[0]
    assert len({json.dumps(texts) for texts in kept(exam, "samples/Base")}) > 1


def test_cycles_are_among_one_run_of_each_algorithm(everything):
    exam, _, result = everything
    cycles = result["cycles"]
    assert cycles["players"] == ["Base", "SLHF Leader", "RLOO"]
    assert (cycles["prompts"], cycles["answers"], cycles["tau"]) == (len(PROMPTS), 12, 0.1)
    shortest = []
    for k, x in enumerate(PROMPTS):
        texts = sorted({texts[k] for texts in pool(exam)})
        beats = [[preference(x, y, other) > 0.5 for other in texts] for y in texts]
        walks = np.array(beats)
        lengths = [n for n in range(2, len(texts) + 1) if np.linalg.matrix_power(walks.astype(int), n).trace()]
        shortest.append(lengths[0] if lengths else 0)
    assert cycles["share"] == pytest.approx(np.mean([length > 0 for length in shortest]))
    assert cycles["lengths"] == {str(n): shortest.count(n) for n in sorted(set(shortest) - {0})}
    assert {row["concept"] for row in result["concepts"]} == {row["method"] for row in result["selection"]}


def pool(exam):
    samples = [*kept(exam, "samples/Base")]
    for name in ("SLHF", "RLOO"):
        samples += [kept(exam, f"rounds/{name}")[0], *kept(exam, f"samples/{name}")]
    return samples


@pytest.mark.parametrize("candidates", ["all", "RLOO"])
def test_selection_is_the_expected_verdict_of_the_choice(everything, candidates):
    exam, _, result = everything
    base, samples = kept(exam, "rounds/Base")[0], pool(exam)[0 if candidates == "all" else 8 :]
    expected = {"one at random": [], "RLHF (best of N)": [], "SLHF Leader": [], "SLHF Follower": []}
    for k, x in enumerate(PROMPTS):
        texts = [sample[k] for sample in samples]
        p = np.array([[preference(x, y, other) for other in texts] for y in texts])
        verdicts = np.array([preference(x, y, base[k]) for y in texts])
        best = np.isclose(p.sum(1), p.sum(1).max())
        leader = np.exp(-np.log(np.exp(-p / 0.1).mean(1)))
        leader /= leader.sum()
        follower = np.exp(-p / 0.1) / np.exp(-p / 0.1).sum(1, keepdims=True)
        expected["one at random"].append(verdicts.mean())
        expected["RLHF (best of N)"].append(verdicts[best].mean())
        expected["SLHF Leader"].append(leader @ verdicts)
        expected["SLHF Follower"].append(leader @ follower @ verdicts)
    for method, values in expected.items():
        row = row_of(result["selection"], candidates=candidates, method=method)
        assert row["mean"] == pytest.approx(np.mean(values)), method


def test_the_result_is_json_and_nobody_is_asked_about_a_text_and_itself(everything):
    _, judge, result = everything
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert all(y != other for _, y, other in judge.asked)


def test_an_interrupted_examination_goes_on_and_repeats_no_answer(model, adapters, tmp_path, monkeypatch, everything):
    exam, _, whole = everything
    mine = replace(exam, folder=tmp_path)
    honest, calls = evaluation.improve, []

    def dies(*arguments):
        if len(calls) == 4:
            raise JudgeError("gone")
        calls.append(honest(*arguments))
        return calls[-1]

    monkeypatch.setattr(evaluation, "improve", dies)
    with pytest.raises(JudgeError):
        examine(mine, TextJudge())
    times = {path: path.stat().st_mtime_ns for path in written(tmp_path)}
    assert len(times) == 4 + 4 + 4
    monkeypatch.setattr(evaluation, "improve", honest)
    assert examine(mine, TextJudge()) == whole
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    for name in ("refine", "improve", "resample"):
        monkeypatch.setattr(evaluation, name, None)
    assert examine(mine, TextJudge()) == whole


def test_answers_are_sampled_in_parts_of_bounded_tokens_and_each_part_is_kept(
    model, adapters, tmp_path, monkeypatch, everything
):
    """The same answers, whatever the parts; one that dies goes on after the last part that it kept."""
    exam, _, whole = everything
    mine, rows, honest = replace(exam, folder=tmp_path), [], evaluation.resample

    def counting(policy, generator, prompts, count, *rest):
        rows.append(len(prompts))
        if len(rows) == 4:
            raise JudgeError("out of memory")
        return honest(policy, generator, prompts, count, *rest)

    monkeypatch.setattr(evaluation, "TOKENS_AT_ONCE", 70)
    monkeypatch.setattr(evaluation, "resample", counting)
    with pytest.raises(JudgeError):
        examine(mine, TextJudge())
    assert len([path for path in written(tmp_path) if ".parts" in str(path)]) == 3
    assert examine(mine, TextJudge()) == whole
    assert max(rows) < len(PROMPTS)
    assert sum(rows[:3] + rows[4:]) == 4 * len(PROMPTS)  # each contestant, each prompt once
    assert not [path for path in tmp_path.rglob("*") if ".parts" in str(path)]


@pytest.mark.parametrize("tokens", [1, 10, 25, 1000])
def test_parts_hold_every_row_once_within_the_bound(tokens):
    lengths = [3, 9, 1, 1, 12, 2, 2, 2]
    parts = evaluation.parts_of(lengths, tokens)
    assert [i for part in parts for i in range(len(lengths))[part]] == list(range(len(lengths)))
    assert all(len(lengths[part]) == 1 or max(lengths[part]) * len(lengths[part]) <= tokens for part in parts)
    assert len(parts) == {1: 8, 10: 5, 25: 4, 1000: 1}[tokens]


def test_no_two_answers_share_a_file_whatever_the_titles(model, tmp_path, monkeypatch):
    titles = [
        "a",
        "b",
        "a samples",
        "a improves b",
        "improves a",
        "by a",
        "rounds",
        ".",
        "..",
        "/",
        "%2F",
        "a/b",
        "a%b",
    ]
    settings = EvaluationConfig(samples=2, leader_follower=True)
    exam = Examination([Contestant(title, title, model) for title in titles], PROMPTS, settings, 0, tmp_path / "kept")
    fresh = itertools.count()
    monkeypatch.setattr(evaluation.Speaker, "_policy", (exam.contestants[0].load(), None))
    for name in ("refine", "resample", "improve"):
        monkeypatch.setattr(evaluation, name, lambda *_, **__: [str(next(fresh))])
    found = []
    for one in exam.contestants:
        speaker = evaluation.Speaker(one, exam)
        found += [
            *speaker.rounds(),
            *speaker.samples([["first"]])[-1:],
            *(speaker.improve(t, ["x"])[0] for t in titles),
        ]
    assert len(set(found)) == len(found) == len(titles) * (2 + len(titles))
    assert written(tmp_path) == written(tmp_path / "kept")


def test_two_players_of_one_name_are_refused(model, tmp_path):
    twice = [Contestant("SLHF", "a", model, None, True), Contestant("SLHF Leader", "b", model)]
    with pytest.raises(ConfigError, match="'SLHF Leader'"):
        Examination(twice, PROMPTS, EvaluationConfig(), 0, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"samples": 1}, "samples"), ({"tau": 0.0}, "tau"), ({"leader_follower_prompts": 3}, "leader_follower: true")],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(**settings)
