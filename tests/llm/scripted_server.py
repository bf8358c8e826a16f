"""A small OpenAI-compatible server in a thread: it has an opinion on every pair, and fails as it is told."""

from __future__ import annotations

import hashlib
import json
import math
import socket
import threading
import time
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BIAS = 0.4
"""How much it likes first places, in nats."""
PROMPT_TOKENS, COMPLETION_TOKENS = 30, 2


def opinion(prompt, first, second):
    """Its probability that the reply shown first is better."""
    return 1 / (1 + math.exp(quality(prompt, second) - quality(prompt, first) - BIAS))


def quality(prompt, reply):
    digest = hashlib.sha256(f"{prompt}|{reply}".encode()).digest()
    return digest[0] / 64 - 2


def preference(prompt, a, b, verdict):
    """What a judge that asks in both orders must make of it, and whether the orders disagree."""
    first, second = opinion(prompt, a, b), 1 - opinion(prompt, b, a)
    if verdict == "text":
        first, second = float(first > 0.5), float(second >= 0.5)
    return (first + second) / 2, (first - 0.5) * (second - 0.5) < 0


def completion(p, body):
    """A whole answer in the protocol's form, with more fields than anyone reads."""
    text = "A" if p > 0.5 else "B"
    choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "finish_reason": "stop"}
    if body.get("logprobs"):
        shares = {"A": 0.7 * p, " A": 0.2 * p, "B": 0.9 * (1 - p), "The": 0.06, "I": 0.04}
        top = [{"token": token, "logprob": math.log(share), "bytes": [65]} for token, share in shares.items()]
        choice |= {"finish_reason": "length", "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": 32}
    return {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}


def undecided(answer):
    """The same answer without a verdict."""
    choice = answer["choices"][0]
    choice["message"]["content"] = "I cannot choose between A and B"
    for position in (choice.get("logprobs") or {}).get("content", []):
        position["top_logprobs"] = [{"token": "I", "logprob": -0.01}, {"token": "Both", "logprob": -4.6}]
    return answer


def without(answer, *path):
    """The same answer without the field at ``path``."""
    *parents, last = path
    place = answer
    for key in parents:
        place = place[key]
    del place[last]
    return answer


FAULTS = {
    "500": lambda answer: (500, {}, {"error": {"message": "out of memory"}}),
    "503": lambda answer: (503, {}, {"error": {"message": "Loading model"}}),
    "429": lambda answer: (429, {"Retry-After": "0"}, {"error": {"message": "too fast"}}),
    "429 with a date": lambda answer: (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, {}),
    "not json": lambda answer: (200, {}, "<html>gateway</html>"),
    "no choices": lambda answer: (200, {}, without(answer, "choices")),
    "empty choices": lambda answer: (200, {}, answer | {"choices": []}),
    "no message": lambda answer: (200, {}, without(answer, "choices", 0, "message")),
    "a list": lambda answer: (200, {}, [answer]),
    "nonsense": lambda answer: (200, {}, undecided(answer)),
    "hang up": lambda answer: None,
    "half an answer": lambda answer: (200, {"Content-Length": "100000"}, answer),
}
"""What may pass, by name: from the answer that was due to status, headers and body."""


class ScriptedServer:
    """Serves at ``url`` while started; a template "{prompt}|{a}|{b}" tells it what it is asked."""

    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.key = None  # the one that it asks for
        self.lock = threading.Lock()
        self.faults = defaultdict(list)  # by question: the faults to come, as names or functions
        self.always = None  # a fault for every question
        self.billed, self.arrivals = Counter(), defaultdict(list)
        self.active = self.peak = 0
        self.crowd = 1  # answer only when so many requests are here
        self.gathered = threading.Event()
        self.dies_after = math.inf  # so many answers
        self.start()

    def start(self):
        """Listen."""
        self.http = Listener(("127.0.0.1", self.port), Handler)
        self.http.script = self
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        """Refuse connections from now on."""
        self.http.shutdown()
        self.http.server_close()

    @property
    def requests(self):
        return sum(map(len, self.arrivals.values()))


class Listener(ThreadingHTTPServer):
    request_queue_size = 128


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        script = self.server.script
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"]
        with script.lock:
            script.arrivals[question].append(time.monotonic())
            script.active += 1
            script.peak = max(script.peak, script.active)
            if script.active >= script.crowd:
                script.gathered.set()
            fault = script.faults[question].pop(0) if script.faults[question] else script.always
            fault = FAULTS.get(fault, fault)
            dead = sum(script.billed.values()) >= script.dies_after
            if not (fault or dead):
                script.billed[question] += 1
        if script.crowd > 1:
            script.gathered.wait(5)
            time.sleep(0.02)
        answer = completion(opinion(*question.split("|")[:3]), body)
        reply = (200, {}, answer) if fault is None else fault(answer)
        if script.key and self.headers.get("Authorization") != f"Bearer {script.key}":
            reply = 401, {}, {"error": {"message": f"Incorrect API key {self.headers.get('Authorization')}"}}
        with script.lock:
            script.active -= 1
        if reply is None or dead:
            self.close_connection = True
        else:
            self.send(*reply)

    def send(self, status, headers, body):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = "Content-Length" in headers  # which is a lie

    def log_message(self, *args):
        pass
