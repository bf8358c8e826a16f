"""A judge behind any OpenAI-compatible server: a hosted model, vLLM, llama.cpp and others, through chat completions.

What may pass (no connection, time-outs, HTTP 408, 409, 425, 429 and 5xx, answers that are not JSON, lack a field or
hold no verdict) is tried again, then put back to the end of the queue and held against the failure budget; what will
not pass (a refused key, an unknown model) ends the run at once. No preference is ever made up. Each answer is on the
disk before anything else can happen to it, so however the run ends, starting it again asks only what was not answered.
A server may still charge for an answer that never arrived.

The client is httpx2, which ``huggingface_hub`` brings along: the retries of the ``openai`` package know neither
the budget nor the store, and beyond them we need one POST.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from pydantic import BaseModel, Field, ValidationError

from llm.embedded import cache_directory
from llm.judges.answer_store import AnswerStore
from llm.judges.config import ServerJudgeConfig
from llm.judges.two_orders import Shown, TwoOrderJudge
from slhf.errors import JudgeError, MissingResource

PASSING = (408, 409, 425, 429)
"""Statuses that may pass, with 5xx."""
UNSEEN = 0.05
"""How far p may be off because one letter is missing from the candidates; more is no verdict."""
VERDICT = re.compile(r"\W*(?:(?:final|answer|choice|verdict|reply|response)\b\W*)*([AB])\W*", re.IGNORECASE)
"""A line that holds a verdict and nothing else: "B", "**B.**", "Final answer: [[B]]"."""
EXCERPT = 200
"""Characters of a server's answer that an error message shows."""


class Candidate(BaseModel):
    """What the first token might have been."""

    token: str
    logprob: float = Field(le=0.01, allow_inf_nan=False)


class Position(BaseModel):
    """One token of the answer."""

    top_logprobs: list[Candidate]


class Logprobs(BaseModel):
    """Candidates for every token of the answer."""

    content: list[Position] | None = None


class ReplyMessage(BaseModel):
    """What the model wrote."""

    content: str | None = None


class Choice(BaseModel):
    """The model's answer."""

    message: ReplyMessage
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Usage(BaseModel):
    """What is paid for."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Answer(BaseModel):
    """The part of a chat completion that a verdict needs; what is kept on the disk."""

    choices: list[Choice] = Field(min_length=1)
    usage: Usage | None = None


class Failed(Exception):
    """A request failed in a way that may pass; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class ServerJudge(TwoOrderJudge):
    """Asks a language model on a server which of two answers is better.

    Metrics beside those of the two orders: ``requests`` sent, ``retries`` among them, ``failures`` (questions that
    failed with all their retries), ``cache_hits`` (answers known from the disk), ``prompt_tokens`` and
    ``completion_tokens`` as the server counted them, also of answers without a verdict, their ``cost``; ``latency``,
    the mean time of an answered request in seconds, with ``latency_p95``; and with verdict "logprobs" ``letter_mass``,
    the mean of p("A") + p("B") at the first token.
    """

    def __init__(self, config: ServerJudgeConfig, remember: bool = False) -> None:
        """Sends nothing yet. ``remember`` saves looking on the disk for what this judge has asked.

        Raises:
            MissingResource: the environment variable with the API key is not set, or cannot be a key.
        """
        super().__init__(remember)
        self.config = config
        self.path = cache_directory() / "judge_answers.sqlite" if config.cache is None else Path(config.cache)
        self._key = read_key(config.api_key_env)
        self._jitter = random.Random()  # of its own: waiting leaves the run's randomness alone
        self._failures = 0
        self._latencies: list[float] = []

    def first_wins(self, rows: Sequence[Shown]) -> np.ndarray:
        """See :class:`TwoOrderJudge`."""
        requests = [self._request(*row) for row in rows]
        answers = run(self._answers(requests))
        verdicts = np.array([self._verdict(answers[request]) for request in requests])
        if self.config.verdict == "logprobs":
            self.meter.average("letter_mass", verdicts[:, 1])
        return verdicts[:, 0]

    def drain_metrics(self) -> dict[str, float]:
        """See :class:`llm.judges.MeteredJudge`."""
        found = super().drain_metrics()
        if self._latencies:
            p95 = np.quantile(self._latencies, 0.95)
            found |= {"latency": float(np.mean(self._latencies)), "latency_p95": float(p95)}
        self._latencies = []
        return found

    def _request(self, prompt: str, first: str, second: str) -> str:
        """The body of the request: everything on which the answer depends, but for the url."""
        config = self.config
        question = config.template.format(prompt=prompt, a=first, b=second)
        body: dict[str, Any] = {"model": config.model, "messages": [{"role": "user", "content": question}]}
        if config.temperature is not None:
            body["temperature"] = config.temperature
        if config.verdict == "logprobs":
            body |= {"max_tokens": 1, "logprobs": True, "top_logprobs": config.top_logprobs}
        elif config.max_tokens is not None:
            body["max_tokens"] = config.max_tokens
        return json.dumps(body | config.extra, sort_keys=True)

    def _verdict(self, answer: Answer) -> tuple[float, float]:
        """p("A"), and the probability of a letter at all (1 for a written one)."""
        if self.config.verdict == "text":
            return (1.0 if written_letter(answer.choices[0]) == "A" else 0.0), 1.0
        logprobs = answer.choices[0].logprobs
        if logprobs is None or not logprobs.content or not logprobs.content[0].top_logprobs:
            raise JudgeError(
                f"{self._where()} answered without logprobs. Set judge.verdict=text, or ask a server or model that "
                "returns them."
            )
        return letter_probability(logprobs.content[0].top_logprobs)

    async def _answers(self, requests: Sequence[str]) -> dict[str, Answer]:
        """The answer to each of the distinct requests, from the disk or from the server.

        After an error no request is begun, but those on their way are waited for: they will be paid for.
        """
        with AnswerStore(self.path, self.config.url) as store:
            answers = {request: Answer.model_validate_json(text) for request, text in store.find(requests).items()}
            waiting = deque(request for request in requests if request not in answers)
            self.meter.count("cache_hits", len(answers))
            stop, errors = asyncio.Event(), []

            async def work(client: httpx2.AsyncClient) -> None:
                while waiting and not stop.is_set():
                    request = waiting.popleft()
                    try:
                        answer = await self._ask(client, request, stop)
                        answers[request] = Answer.model_validate_json(store.keep(request, answer.model_dump_json()))
                    except Failed as failure:
                        waiting.append(request)
                        if not stop.is_set() and (error := self._given_up(failure)):
                            errors.append(error)
                            stop.set()
                    except JudgeError as error:
                        errors.append(error)
                        stop.set()

            if waiting:
                workers = min(self.config.concurrency, len(waiting))
                async with self._client(workers) as client:
                    await asyncio.gather(*(work(client) for _ in range(workers)))
        if errors:
            raise errors[0]
        return answers

    def _client(self, connections: int) -> httpx2.AsyncClient:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        return httpx2.AsyncClient(headers=headers, limits=limits, timeout=None)  # `_send` limits the whole of a try

    async def _ask(self, client: httpx2.AsyncClient, request: str, stop: asyncio.Event) -> Answer:
        """One question with its retries, cut short when the run is about to end.

        Raises:
            Failed: every try did.
            JudgeError: another try would be in vain.
        """
        for retry in range(self.config.retries + 1):
            try:
                return await self._send(client, request)
            except Failed as failure:
                if retry == self.config.retries:
                    raise
                pause = min(self.config.longest_wait, self.config.first_wait * 2**retry)
                wait = failure.wait + pause * self._jitter.uniform(0.5, 1)  # not all at once
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait)
                break
            self.meter.count("retries")
        raise Failed("stopped")

    async def _send(self, client: httpx2.AsyncClient, request: str) -> Answer:
        """One try, which counts; what comes back holds a verdict."""
        self.meter.count("requests")
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self.config.timeout_seconds):
                response = await client.post(f"{self.config.url.rstrip('/')}/chat/completions", content=request)
        except TimeoutError:
            raise Failed(f"no answer within {self.config.timeout_seconds:g} s") from None
        except httpx2.RequestError as error:
            raise Failed(f"{type(error).__name__}: {error}") from error
        if response.status_code != 200:
            raise self._refusal(response)
        try:
            answer = Answer.model_validate_json(response.text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the answer"
            raise Failed(f"malformed answer ({where}: {first['msg']}): {self._shown(response)}") from None
        for choice in answer.choices:  # written to the disk and into messages
            choice.message.content = self._redacted(choice.message.content or "")
        self._latencies.append(time.perf_counter() - start)
        usage = answer.usage or Usage()
        self.meter.count("prompt_tokens", usage.prompt_tokens)
        self.meter.count("completion_tokens", usage.completion_tokens)
        prices = self.config.prompt_price, self.config.completion_price
        self.meter.count("cost", (usage.prompt_tokens * prices[0] + usage.completion_tokens * prices[1]) / 1e6)
        self._verdict(answer)
        return answer

    def _redacted(self, text: str) -> str:
        """A server may show us our own key."""
        return text.replace(self._key, "[key]") if self._key else text

    def _shown(self, response: httpx2.Response) -> str:
        """The beginning of what came back, for messages."""
        return excerpt(self._redacted(response.text))

    def _refusal(self, response: httpx2.Response) -> Failed | JudgeError:
        """What an HTTP status other than 200 means."""
        status = response.status_code
        if status in PASSING or status >= 500:
            wait = retry_after(response.headers.get("Retry-After"))
            if wait <= self.config.longest_wait:
                return Failed(f"HTTP {status}: {self._shown(response)}", wait)
            return JudgeError(
                f"{self._where()} answered HTTP {status} and asks to wait {wait:.0f} s, more than judge.longest_wait = "
                f"{self.config.longest_wait:g}. Start the same command again then; it goes on where it stopped."
            )
        if status in (401, 403):  # whose text may show part of the key
            name = self.config.api_key_env
            held = f"the one in the environment variable {name}" if name else "none; name its variable: api_key_env"
            return JudgeError(f"{self._where()} refused the API key (HTTP {status}), which was {held}.")
        return JudgeError(
            f"{self._where()} refused the request (HTTP {status}): {self._shown(response)} "
            "Check judge.url, judge.model and the sampling settings."
        )

    def _given_up(self, failure: Failed) -> JudgeError | None:
        """Count a question that failed with all its retries; the error, once the budget is spent."""
        self._failures += 1
        self.meter.count("failures")
        if self._failures <= self.config.failure_budget:
            return None
        return JudgeError(
            f"{self._where()} left {self._failures} questions unanswered, each after {self.config.retries} retries; "
            f"judge.failure_budget = {self.config.failure_budget} allows no more. The last failure: {failure}. "
            "See whether the server runs and answers; then start the same command again: it goes on where it stopped. "
            f"What was answered is kept in {self.path}."
        )

    def _where(self) -> str:
        return f"The judge at {self.config.url} (model {self.config.model})"


def read_key(variable: str | None) -> str | None:
    """The API key in an environment variable.

    Raises:
        MissingResource: it is not set or cannot be sent; the message does not show it.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise MissingResource(
            f"judge.api_key_env: the environment variable {variable} "
            f"{'holds blanks or characters that no key has' if key else 'is not set'}. `export {variable}=...` first."
        )
    return key


def written_letter(choice: Choice) -> str:
    """ "A" or "B", from the last line of a reply.

    Raises:
        Failed: the reply was cut off, or that line holds more than a verdict.
    """
    text = (choice.message.content or "").strip()
    if choice.finish_reason == "length":
        raise Failed(f"the reply was cut off; raise judge.max_tokens: {excerpt(text)!r}")
    found = VERDICT.fullmatch(text.rpartition("\n")[2])
    if found is None:
        raise Failed(f"the reply does not end in a line that is A or B: {excerpt(text)!r}")
    return found[1].upper()


def letter_probability(candidates: Sequence[Candidate]) -> tuple[float, float]:
    """P("A") / (P("A") + P("B")) and P("A") + P("B") from the candidates for the first token.

    Tokens that differ by blanks around the letter count together. A letter that is not among the candidates has at most
    the smallest probability among them; it is taken as zero where that moves the result by less than ``UNSEEN``.

    Raises:
        Failed: neither letter is among them, or one is missing that might matter.
    """
    mass = {"A": 0.0, "B": 0.0}
    for candidate in candidates:
        letter = candidate.token.strip(" \n\t▁Ġ")  # the last two are how tokenizers write a blank
        if letter in mass:
            mass[letter] += math.exp(candidate.logprob)
    total = sum(mass.values())
    unseen = math.exp(min(candidate.logprob for candidate in candidates))
    if min(mass.values()) == 0 and unseen >= UNSEEN * (total + unseen):
        likeliest = max(candidates, key=lambda candidate: candidate.logprob)
        raise Failed(
            f"A and B are not both among the {len(candidates)} candidates for the first token, of which "
            f"{likeliest.token!r} is the likeliest; raise judge.top_logprobs or ask for the letter alone in "
            "judge.template"
        )
    return mass["A"] / total, total


def retry_after(header: str | None) -> float:
    """The seconds that a header Retry-After asks for, as a number or a date (RFC 9110); 0 without one."""
    if header is None:
        return 0.0
    try:
        wait = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return 0.0  # not a wait that anyone could honour
        wait = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, wait)


def excerpt(text: str) -> str:
    """The beginning of a server's answer, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else line[:EXCERPT] + "..."


def run(work: Coroutine[Any, Any, dict[str, Answer]]) -> dict[str, Answer]:
    """The result of a coroutine, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
