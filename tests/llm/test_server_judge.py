"""The server judge against a server that fails: the preferences are the true ones, and nothing is asked twice."""

import asyncio
import math
import multiprocessing
import os
import signal
import sqlite3
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.config import load_sweep
from experiments.run import HERE
from llm import finite
from llm.config import TrainConfig
from llm.judges import ask
from llm.judges.answer_store import AnswerStore
from llm.judges.config import ServerJudgeConfig, identity
from llm.judges.loading import load_judge
from llm.judges.server import (
    Candidate,
    Choice,
    Failed,
    ServerJudge,
    letter_probability,
    retry_after,
    written_letter,
)
from llm.train import train
from slhf.algorithms import StackelbergGDA
from slhf.errors import ConfigError, InvalidParameter, JudgeError, MissingResource
from slhf.runs import Run
from tests.llm.killing import build_model, judging
from tests.llm.scripted_server import COMPLETION_TOKENS, FAULTS, PROMPT_TOKENS, ScriptedServer, preference

PROMPTS = ["p", "p", "q", "r{a}"]
A = ["one", "four", "two", "{b} {prompt}"]
B = ["three", "two", "four", "five"]
KEY = "sk-not-to-be-seen-anywhere"
RETRIES = 2


@pytest.fixture
def server():
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture
def config(server, tmp_path):
    return ServerJudgeConfig(
        url=server.url,
        model="tiny",
        template="{prompt}|{a}|{b}",
        first_wait=0.001,
        retries=RETRIES,
        failure_budget=0,
        concurrency=3,
        cache=str(tmp_path / "answers.sqlite"),
    )


def questions(prompts=PROMPTS, a=A, b=B):
    return [f"{x}|{y}|{z}" for x, y, z in [*zip(prompts, a, b, strict=True), *zip(prompts, b, a, strict=True)]]


def expected(verdict="logprobs", prompts=PROMPTS, a=A, b=B):
    return [preference(x, y, z, verdict)[0] for x, y, z in zip(prompts, a, b, strict=True)]


@pytest.mark.parametrize("verdict", ["logprobs", "text"])
def test_it_says_what_the_server_thinks_and_what_that_took(server, config, verdict):
    config = replace(config, verdict=verdict, prompt_price=2.0, completion_price=10.0)
    judge = ServerJudge(config)
    p = ask(judge, PROMPTS, A, B)
    np.testing.assert_allclose(p, expected(verdict), atol=1e-12)
    assert len(set(p)) > 2  # the case is not trivial: text verdicts of both orders agree and disagree
    metrics = judge.drain_metrics()
    disagreement = np.mean([preference(*texts, verdict)[1] for texts in zip(PROMPTS, A, B, strict=True)])
    assert metrics["order_disagreement"] == pytest.approx(disagreement)
    if verdict == "logprobs":
        assert metrics["letter_mass"] == pytest.approx(0.9)
    assert 0 < metrics.pop("latency") <= metrics.pop("latency_p95")
    n = len(questions())
    assert (metrics["comparisons"], metrics["requests"], metrics["cache_hits"]) == (len(A), n, 0)
    assert (metrics["prompt_tokens"], metrics["completion_tokens"]) == (n * PROMPT_TOKENS, n * COMPLETION_TOKENS)
    assert metrics["cost"] == pytest.approx(n * (2 * PROMPT_TOKENS + 10 * COMPLETION_TOKENS) / 1e6)
    assert "retries" not in metrics
    assert "failures" not in metrics
    assert judge.drain_metrics() == {}

    swapped = ask(ServerJudge(config), PROMPTS, B, A)  # the same questions, all of them answered before
    np.testing.assert_allclose(swapped, 1 - p, atol=1e-12)
    assert set(server.billed.values()) == {1}


def test_equal_questions_are_one_and_equal_replies_tie(server, config):
    p = ask(ServerJudge(config), ["p"] * 5, ["x", "x", "y", "x", "x"], ["y", "y", "x", "x", "y"])
    assert server.requests == 3
    np.testing.assert_allclose(p, [p[0], p[0], 1 - p[0], 0.5, p[0]])
    assert ask(ServerJudge(config), [], [], []).shape == (0,)


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    verdict=st.sampled_from(["logprobs", "text"]),
    schedule=st.lists(st.lists(st.sampled_from(sorted(FAULTS)), max_size=2 * RETRIES + 1), min_size=8, max_size=8),
    concurrency=st.integers(1, 8),
)
def test_whatever_passes_changes_nothing(tmp_path_factory, verdict, schedule, concurrency):
    server = ScriptedServer()
    server.faults |= dict(zip(questions(), map(list, schedule), strict=True))
    exhausted = sum(len(faults) // (RETRIES + 1) for faults in schedule)  # how often a question's tries are used up
    judge = ServerJudge(
        ServerJudgeConfig(
            url=server.url,
            model="tiny",
            verdict=verdict,
            template="{prompt}|{a}|{b}",
            first_wait=0.0001,
            retries=RETRIES,
            failure_budget=exhausted,
            concurrency=concurrency,
            cache=str(tmp_path_factory.mktemp("answers") / "answers.sqlite"),
        )
    )
    np.testing.assert_allclose(ask(judge, PROMPTS, A, B), expected(verdict), atol=1e-12)
    server.stop()
    faults = sum(map(len, schedule))
    metrics = judge.drain_metrics()
    assert dict(server.billed) == dict.fromkeys(questions(), 1)
    assert metrics["requests"] == server.requests == 8 + faults
    assert (metrics.get("failures", 0), metrics.get("retries", 0)) == (exhausted, faults - exhausted)


@pytest.mark.parametrize("verdict", ["logprobs", "text"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("500", "HTTP 500: .*out of memory"),
        ("not json", r"malformed answer \(the answer: .*<html>gateway"),
        ("no choices", r"malformed answer \(choices: Field required\)"),
        ("no message", r"malformed answer \(choices.0.message: Field required\)"),
        ("nonsense", "'I cannot choose between A and B'|'I' is the likeliest; raise judge.top_logprobs"),
        ("hang up", "ProtocolError|ReadError"),
        ("half an answer", "ProtocolError: .*incomplete|peer closed"),
    ],
)
def test_what_does_not_pass_ends_the_run_within_its_budget(server, config, verdict, fault, message):
    server.always = fault
    judge = ServerJudge(replace(config, verdict=verdict, failure_budget=3, concurrency=1))
    with pytest.raises(JudgeError, match=message) as caught:
        ask(judge, PROMPTS, A, B)
    for part in (f"The judge at {server.url} (model tiny)", "failure_budget = 3", "same command again", config.cache):
        assert part in str(caught.value)
    metrics = judge.drain_metrics()
    assert metrics["failures"] == 4
    assert server.requests == 4 * (RETRIES + 1)
    if fault == "nonsense":  # paid for all the same
        assert metrics["prompt_tokens"] == server.requests * PROMPT_TOKENS


def test_the_budget_is_the_runs_and_a_question_is_put_back(server, config):
    judge = ServerJudge(replace(config, failure_budget=1, concurrency=1))
    server.faults[questions()[0]] = ["500"] * (RETRIES + 1)
    np.testing.assert_allclose(ask(judge, PROMPTS, A, B), expected())
    assert server.arrivals[questions()[0]][-1] == max(map(max, server.arrivals.values()))
    server.faults["p|one|nine"] = ["500"] * (RETRIES + 1)
    with pytest.raises(JudgeError, match="failure_budget = 1"):
        ask(judge, ["p"], ["one"], ["nine"])


def test_no_connection_and_a_late_answer_are_failures(server, config):
    server.crowd = 100  # requests are waited for, more than come
    with pytest.raises(JudgeError, match=r"no answer within 0\.05 s"):
        ask(ServerJudge(replace(config, timeout_seconds=0.05, concurrency=1)), PROMPTS, A, B)
    server.stop()
    with pytest.raises(JudgeError, match="ConnectError"):
        ask(ServerJudge(config), PROMPTS, A, B)
    server.crowd = 1
    server.start()
    np.testing.assert_allclose(ask(ServerJudge(config), PROMPTS, A, B), expected())


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((404, {}, {"error": "no such model"}), r"refused the request \(HTTP 404\): .*no such model.* judge\.model"),
        ((400, {}, "too long " * 100), r"HTTP 400\): (too long )+.*\.\.\. Check"),
        ((301, {"Location": "/elsewhere"}, ""), "HTTP 301"),
        ((403, {}, "sk-no***ere"), r"refused the API key \(HTTP 403\), which was none; name its variable: api_key_env"),
        ((429, {"Retry-After": "3600"}, ""), r"asks to wait 3600 s, more than judge\.longest_wait = 60"),
    ],
)
def test_what_will_not_pass_ends_the_run_at_once(server, config, reply, message):
    server.always = lambda answer: reply
    with pytest.raises(JudgeError, match=message):
        ask(ServerJudge(replace(config, failure_budget=9)), PROMPTS, A, B)
    assert server.requests <= config.concurrency
    assert max(map(len, server.arrivals.values())) == 1


def test_no_logprobs_are_no_text_verdict(server, config):
    def plain(answer):
        answer["choices"][0]["logprobs"] = None
        return 200, {}, answer

    server.always = plain
    with pytest.raises(JudgeError, match=r"without logprobs\. Set judge\.verdict=text"):
        ask(ServerJudge(config), PROMPTS, A, B)
    assert ask(ServerJudge(replace(config, verdict="text")), PROMPTS, A, B).tolist() == expected("text")


def test_answers_on_their_way_are_kept_when_the_run_ends(server, config):
    """Four questions meet at the server; one is refused for good, the others' answers may come later."""
    four = replace(config, concurrency=4)
    server.crowd = 4
    refused = questions()[1]
    server.faults[refused] = [lambda answer: (400, {}, "")]
    with pytest.raises(JudgeError, match="HTTP 400"):
        ask(ServerJudge(four), PROMPTS, A, B)
    answered = server.billed.total()
    assert answered >= 3
    server.crowd = 1
    judge = ServerJudge(four)
    np.testing.assert_allclose(ask(judge, PROMPTS, A, B), expected())
    assert judge.drain_metrics()["cache_hits"] == answered
    assert dict(server.billed) == dict.fromkeys(questions(), 1)


def test_no_more_requests_at_a_time_than_allowed(server, config):
    server.crowd = config.concurrency
    ask(ServerJudge(config), PROMPTS, A, B)
    assert server.peak == config.concurrency == 3


def test_retry_after_is_waited_for(server, config):
    server.faults[questions()[0]] = [lambda answer: (429, {"Retry-After": "0.3"}, "")]
    ask(ServerJudge(config), PROMPTS, A, B)
    first, second = server.arrivals[questions()[0]]
    assert second - first >= 0.3


def test_headers_that_ask_to_wait():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < retry_after(soon) <= 100
    waits = [retry_after(header) for header in (None, "7", "0.5", "-3", "nan", "Wed, 21 Oct 2015 07:28:00 GMT", "?")]
    assert waits == [0, 7, 0.5, 0, 0, 0, 0]


CHANGES = [
    {"url": "/other"},
    {"model": "other"},
    {"temperature": 0.5},
    {"temperature": None},
    {"template": "{prompt}|{a}|{b}|"},
    {"verdict": "text"},
    {"top_logprobs": 5},
    {"extra": {"seed": 1}},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_question_is_not_answered_from_the_disk(server, config, change):
    ask(ServerJudge(config), ["p"], ["one"], ["two"])
    change = {"url": server.url + change["url"]} if "url" in change else change
    judge = ServerJudge(replace(config, **change))
    ask(judge, ["p"], ["one"], ["two"])
    assert server.requests == 4
    assert judge.drain_metrics()["cache_hits"] == 0


def test_what_only_says_how_to_ask_asks_nothing_again(server, config):
    p = ask(ServerJudge(config), PROMPTS, A, B)
    other = replace(config, concurrency=1, timeout_seconds=1.0, retries=0, failure_budget=5, prompt_price=3.0)
    judge = ServerJudge(other)
    assert identity(other) == identity(config) != identity(replace(config, temperature=0.5))
    assert ask(judge, PROMPTS, A, B).tolist() == p.tolist()
    assert server.requests == judge.drain_metrics()["cache_hits"] == len(questions())


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_killed_process_loses_no_more_than_it_was_waiting_for(server, config, concurrency):
    """SIGKILL at the sixth request: of the five before it, all but those beside it were kept."""
    config = replace(config, concurrency=concurrency)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.llm.killing"])
    process = context.Process(target=judging, args=(config, PROMPTS, A, B), daemon=True)

    def kill(answer):
        os.kill(process.pid, signal.SIGKILL)

    server.faults[questions()[5]] = [kill]
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    judge = ServerJudge(config)
    np.testing.assert_allclose(ask(judge, PROMPTS, A, B), expected())
    assert judge.drain_metrics()["cache_hits"] >= 6 - concurrency
    assert sum(server.billed.values()) <= len(questions()) + concurrency - 1
    assert max(server.billed.values()) <= 2


def test_two_processes_keep_the_first_answer(tmp_path):
    with AnswerStore(tmp_path / "store", "url") as ours, AnswerStore(tmp_path / "store", "url") as theirs:
        assert theirs.keep("request", "first") == "first"
        assert ours.keep("request", "second") == "first"
        assert ours.find(["request", "another"]) == {"request": "first"}


def test_what_cannot_be_kept_is_not_asked(server, config, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.write_text("no database, though long enough to be one" * 100)
    for path in (damaged, tmp_path, tmp_path / "damaged" / "answers"):
        with pytest.raises(JudgeError, match=f"cannot be kept in {path} .* name another one as judge.cache"):
            ask(ServerJudge(replace(config, cache=str(path))), PROMPTS, A, B)
    assert server.requests == 0


def test_a_disk_that_fills_up_ends_the_run(server, config, monkeypatch):
    connect = sqlite3.connect

    def small(*args, **kwargs):
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 6")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    long = ["p" * 3000] * 4
    distinct = len(set(questions(long)))
    with pytest.raises(JudgeError, match=r"database or disk is full.* Free its disk"):
        ask(ServerJudge(replace(config, concurrency=1)), long, A, B)
    monkeypatch.undo()
    assert 1 < server.requests < distinct
    ask(ServerJudge(config), long, A, B)
    assert server.requests == distinct + 1  # one answer could not be kept


def test_the_key_goes_to_the_server_and_nowhere_else(server, config, tmp_path, monkeypatch):
    server.key = KEY
    config = replace(config, api_key_env="A_KEY", verdict="text")
    monkeypatch.setenv("A_KEY", KEY)
    judge = ServerJudge(config)
    server.always = lambda answer: (500, {}, f"you sent Bearer {KEY}")
    with pytest.raises(JudgeError, match=r"you sent Bearer \[key\]") as caught:
        ask(judge, PROMPTS, A, B)
    texts = [str(caught.value), repr(judge)]

    def repeating(answer):
        answer["choices"][0]["message"]["content"] = f"Bearer {KEY}\nA"
        return 200, {}, answer

    server.always = repeating
    judge = ServerJudge(config)
    assert ask(judge, PROMPTS, A, B).tolist() == [0.5] * 4
    Run.open(tmp_path / "runs", "x", {"judge": asdict(config)}).log({"step": 0, **judge.drain_metrics()})
    server.always = None
    monkeypatch.setenv("A_KEY", "another-key-not-to-be-seen")
    with pytest.raises(JudgeError, match="which was the one in the environment variable A_KEY") as caught:
        ask(ServerJudge(config), ["p"], ["six"], ["seven"])
    texts.append(str(caught.value))
    texts += [file.read_bytes().decode("latin1") for file in tmp_path.rglob("*") if file.is_file()]
    assert len(texts) == 6
    for text in texts:
        assert "not-to-be-seen" not in text


@pytest.mark.parametrize("verdict", ["logprobs", "text"])
@pytest.mark.parametrize("key", ["token", "choices", "content"])
def test_a_key_that_is_a_word_of_the_format_changes_no_answer(server, config, monkeypatch, verdict, key):
    server.key = key
    monkeypatch.setenv("A_KEY", key)
    p = ask(ServerJudge(replace(config, api_key_env="A_KEY", verdict=verdict)), PROMPTS, A, B)
    np.testing.assert_allclose(p, expected(verdict), atol=1e-9)


@pytest.mark.parametrize(("value", "message"), [(None, "is not set"), ("", "is not set"), ("sk-x\n", "holds blanks")])
def test_a_key_that_cannot_be_one(config, monkeypatch, value, message):
    monkeypatch.delenv("A_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("A_KEY", value)
    with pytest.raises(MissingResource, match=f"environment variable A_KEY {message}") as caught:
        ServerJudge(replace(config, api_key_env="A_KEY"))
    assert "sk-x" not in str(caught.value)


def test_it_works_where_an_event_loop_runs(server, config):
    async def cell():
        return ask(ServerJudge(config), PROMPTS, A, B)

    np.testing.assert_allclose(asyncio.run(cell()), expected())


def trained(path):
    """What a run leaves behind, but for times and what the judge went through."""
    run = Run(path)
    rows = [
        {k: v for k, v in row.items() if not ("second" in k or "memory" in k or k.startswith("judge_"))}
        for row in run.metrics()
    ]
    return (
        rows,
        run.metrics("samples.jsonl"),
        (path / "checkpoint-000006/adapter/adapter_model.safetensors").read_bytes(),
    )


def test_a_run_whose_server_died_goes_on_to_the_bit(server, config, tmp_path):
    model = build_model(tmp_path / "model")
    spec, settings = StackelbergGDA(0.01), TrainConfig(steps=6, batch_size=4, checkpoint_every=2)
    runs = [Run.open(tmp_path, name, {}) for name in ("whole", "broken")]
    whole, broken = (replace(config, cache=str(run.path / "answers.sqlite")) for run in runs)
    train(spec, ServerJudge(whole), [finite.PROMPT], runs[0], model, settings)
    first = server.billed.total()
    server.dies_after = first + 7
    with pytest.raises(JudgeError, match="same command again"):
        train(spec, ServerJudge(broken), [finite.PROMPT], runs[1], model, settings)
    server.stop()
    with pytest.raises(JudgeError, match="ConnectError"):
        train(spec, ServerJudge(broken), [finite.PROMPT], runs[1], model, settings)
    server.dies_after = math.inf
    server.start()
    train(spec, ServerJudge(broken), [finite.PROMPT], runs[1], model, settings)
    assert trained(runs[1].path) == trained(runs[0].path)
    assert set(server.billed.values()) == {2}  # once for each of the runs, which keep their answers apart
    assert first > 7


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("A", "A"),
        (" b.\n", "B"),
        ("**B**", "B"),
        ("[[A]]", "A"),
        ("Final answer: B.", "B"),
        ("<think>\nB is shorter.\n</think>\n\nVerdict: **A**", "A"),
        ("(Reply A)", "A"),
        ("", None),
        (None, None),
        ("C", None),
        ("A or B", None),
        ("A and B are equally good", None),
        ("I prefer A", None),
        ("AB", None),
        ("A\nHowever, it is close.", None),
        ("An answer", None),
    ],
)
def test_what_counts_as_a_written_verdict(reply, letter):
    choice = Choice.model_validate({"message": {"content": reply}, "finish_reason": "stop"})
    if letter is None:
        with pytest.raises(Failed, match="does not end in a line that is A or B"):
            written_letter(choice)
    else:
        assert written_letter(choice) == letter
        with pytest.raises(Failed, match=r"cut off; raise judge\.max_tokens"):
            written_letter(choice.model_copy(update={"finish_reason": "length"}))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(-12, 3), min_size=2, max_size=8), st.integers(1, 8))
def test_letter_probabilities(logits, shown):
    """Against the whole distribution: exact when all is shown, else off by at most .05, or refused."""
    tokens = ["A", "B", "The", "C", "a", "Both", " A", "\u2581B"][: len(logits)]
    logp = np.array(logits) - np.logaddexp.reduce(logits)
    mass = [np.exp(logp[[i for i, t in enumerate(tokens) if t.strip(" \u2581") == letter]]).sum() for letter in "AB"]
    p = mass[0] / sum(mass)
    top = sorted(zip(logp, tokens, strict=True), reverse=True)[:shown]
    candidates = [Candidate(token=token, logprob=min(value, 0)) for value, token in top]
    letters = {token.strip(" \u2581") for _, token in top} & {"A", "B"}
    try:
        found, total = letter_probability(candidates)
    except Failed:
        assert len(letters) < 2
        return
    assert total <= 1 + 1e-9
    if len(top) == len(tokens):
        assert found == pytest.approx(p, abs=1e-12)
    elif len(tokens) <= 6:  # one spelling of each letter
        assert abs(found - p) <= 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "localhost:8000/v1"}, "judge.url must look like"),
        ({"url": "http://user:sk-x@host/v1"}, "without a key"),
        ({"url": "http://host/v1?key=sk-x"}, "without a key"),
        ({"url": "http://judge.example/v1", "api_key_env": "A_KEY"}, "the API key would cross the network unencrypted"),
        ({"url": "http://10.0.0.7:8000/v1", "api_key_env": "A_KEY"}, "unencrypted.*through a tunnel to localhost"),
        ({"extra": {"api_key": "sk-x"}}, r"judge\.extra names api_key: it is written into manifests"),
        ({"extra": {"headers": {"X-Auth-Token": "sk-x"}}}, r"names headers\.X-Auth-Token"),
        (
            {"extra": {"tools": [{"accessToken": "sk-x"}], "Authorization": "sk-x"}},
            r"tools\.accessToken, Authorization",
        ),
        ({"template": "{prompt} {a}"}, r"must have the fields \{prompt\}, \{a\} and \{b\}"),
        ({"concurrency": 0}, "concurrency = 0"),
        ({"retries": -1}, "retries = -1"),
        ({"timeout_seconds": 0}, "timeout_seconds = 0"),
        ({"first_wait": 100.0}, "longest_wait = 60.0: must be at least 100"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(config, change, message):
    with pytest.raises(InvalidParameter, match=message) as caught:
        replace(config, **change)
    assert "sk-x" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "gpu.localhost"])
def test_a_key_may_go_unencrypted_to_this_machine_alone(config, host):
    assert replace(config, url=f"http://{host}:8000/v1", api_key_env="A_KEY").api_key_env == "A_KEY"
    assert replace(config, url="https://judge.example/v1", api_key_env="A_KEY")
    assert replace(config, url="http://judge.example/v1")  # without a key


def test_what_only_sounds_like_a_secret_is_sent(config):
    schema = {"properties": {"key": {"type": "string"}, "token": {"type": "number"}}}
    extra = {"max_completion_tokens": 9, "stop_token_ids": [1], "prompt_cache_key": "mine", "guided_json": schema}
    assert replace(config, extra=extra).extra == extra


def test_a_sweep_names_it(config):
    quickstart = HERE / "sweeps" / "quickstart.yaml"
    chosen = ["judge.kind=server", "judge.url=http://localhost:8000/v1", "judge.model=m", "judge.extra={top_p: 0.9}"]
    (sweep,) = load_sweep(quickstart, [*chosen, "judge.temperature=null", "judge.verdict=text"])
    assert sweep.judge == ServerJudgeConfig(
        url="http://localhost:8000/v1", model="m", extra={"top_p": 0.9}, temperature=None, verdict="text"
    )
    assert {sweep.judge} == {replace(sweep.judge)}  # hashable
    assert isinstance(load_judge(sweep.judge, "cpu"), ServerJudge)
    with pytest.raises(ConfigError, match=r"judge\.url is missing"):
        load_sweep(quickstart, ["judge.kind=server", "judge.model=m"])
    with pytest.raises(ConfigError, match=r"'judge\.verdit'; did you mean judge\.verdict"):
        load_sweep(quickstart, ["judge.kind=server", "judge.verdit=text"])
