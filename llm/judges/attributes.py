"""The embedded judge: six measurable attributes of a text vote, in the spirit of HelpSteer2's five attributes.

p(a > b) is the share of attributes on which a beats b, ties counting one half (arXiv 2512.16626, Section 5).
A majority over attributes need not be transitive, which is the point. The attributes are chosen so that
degenerate text does not win: a sentence that does not end says nothing to three of the six, fragments and repetition
lose on substance, run-on text on completeness, concision and fluency, word salad on fluency, evasive answers on
relevance. Substance and concision leave a range of lengths between which neither has a say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from llm import embedded
from llm.judges.meter import Meter
from llm.judges.sequences import check_lengths, context_length
from llm.logprobs import token_logprobs
from llm.microbatch import by_length
from llm.precision import Dtype, resolve

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
SENTENCES = re.compile(r".*[.!?][\"'”’)\]*]*(?=\s|$)", re.DOTALL)
"""As much of a text as ends in the end of a sentence."""
OPENING = "<|im_start|>assistant\n"
"""How SmolLM2's chat format begins an assistant's turn."""
ENOUGH_WORDS, WORDS_ALLOWED = 12, 18
ENCODER_TOKENS = 256
"""The sentence encoder was trained on texts up to here; relevance is that of a longer text's beginning."""
TOKENS_AT_A_TIME = 2**14
"""Most tokens, padding included, of one forward pass; one text at least."""
ROUNDING = 1e-5
"""How far two equal attributes may be apart: one text, read in batches of other lengths, differs in its last digits."""


class AttributeJudge:
    """Relevance, fluency, positivity, substance, completeness and concision vote on a pair of answers.

    - relevance: cosine similarity of prompt and finished sentences under all-MiniLM-L6-v2 (of each the first 256
      tokens);
    - fluency: log-likelihood of the text as a whole assistant's turn, its end included, under the frozen base
      model, per distinct word (per token, repetition would look fluent: its tokens are easy to guess);
    - positivity: VADER's compound score of the finished sentences, each word said once (Hutto & Gilbert 2014);
    - substance: distinct words in finished sentences, at most 12;
    - completeness: 1 if the text ends a sentence, else 0;
    - concision: minus the number of words beyond 18.
    """

    feature_names = ("relevance", "fluency", "positivity", "substance", "completeness", "concision")

    def __init__(self, device: str = "cpu", remember: bool = False, dtype: Dtype = "auto") -> None:
        """The judge on a device, its language model in ``dtype`` (see ``llm.precision``).

        ``remember`` keeps the attributes of every text, for round robins that show the same texts again. Not for
        training: fluency's last digit depends on which texts are read together, and a resumed run does not remember
        what an uninterrupted one does.
        """
        self.device, self.remember, self.meter = device, remember, Meter()
        encoder, model = embedded.sentence_encoder_path(), embedded.model_path()
        weights = getattr(torch, resolve(dtype, device))
        self._encoder_tokenizer = AutoTokenizer.from_pretrained(encoder)
        self._encoder = AutoModel.from_pretrained(encoder).to(device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=weights).to(device).eval()
        self._sentiment = SentimentIntensityAnalyzer()
        self._known: dict[tuple[str, str], np.ndarray] = {}

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        """See :class:`llm.judges.Judge`."""
        with self.meter.comparing(len(prompts)):
            scores = self.features([*prompts, *prompts], [*a, *b])
            ours, theirs = scores[: len(prompts)], scores[len(prompts) :]
            difference = ours - theirs
            votes = np.where(np.abs(difference) <= ROUNDING, 0.5, difference > 0)
            self.meter.votes(self.feature_names, votes)
            return votes.mean(-1)

    def features(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """The attributes, float64, shape (batch, 6). Each distinct (prompt, answer) is read once.

        Raises:
            JudgeError: an answer is longer than the language model's context.
        """
        rows = list(zip(prompts, answers, strict=True))
        known = self._known if self.remember else {}
        new = [row for row in dict.fromkeys(rows) if row not in known]
        if new:
            known.update(zip(new, self._read([x for x, _ in new], [y for _, y in new]), strict=True))
        return np.stack([known[row] for row in rows])

    def drain_metrics(self) -> dict[str, float]:
        """See :class:`llm.judges.MeteredJudge`; ``agreement_NAME`` says how often an attribute is with the majority."""
        return self.meter.drain()

    def _read(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        sentences = [finished_sentences(y) for y in answers]
        columns = [
            (self._embed(prompts) * self._embed(sentences)).sum(-1),
            self._log_likelihood(answers) / [max(1, len(distinct_words(y))) for y in answers],
            np.array([self._sentiment.polarity_scores(" ".join(distinct_words(y)))["compound"] for y in sentences]),
            np.array([float(min(len(distinct_words(y)), ENOUGH_WORDS)) for y in sentences]),
            np.array([float(y != "" and y == whole) for y, whole in zip(sentences, answers, strict=True)]),
            np.array([-max(0.0, len(WORD.findall(y)) - WORDS_ALLOWED) for y in answers]),
        ]
        return np.stack(columns, -1).astype(np.float64)

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        """Mean-pooled unit vectors, as the model was trained to be used."""
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        ids = self._encoder_tokenizer(list(distinct), truncation=True, max_length=ENCODER_TOKENS)["input_ids"]
        vectors = self._in_parts(ids, self._encode)
        return vectors[[distinct[text] for text in texts]]

    def _log_likelihood(self, texts: Sequence[str]) -> np.ndarray:
        """Sum of log p(token | tokens before it) over the whole text and the end-of-turn token after it."""
        turns = [OPENING + text + self._tokenizer.eos_token for text in texts]
        ids = self._tokenizer(turns)["input_ids"]
        check_lengths(texts, ids, context_length(self._model.config, self._tokenizer))
        return self._in_parts(ids, self._score)

    @torch.no_grad()
    def _in_parts(self, ids: Sequence[list[int]], read: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
        """``read(ids, mask)``, both (b, T) and padded on the right, for all texts, float64; in bounded parts."""
        parts = by_length(list(map(len, ids)), TOKENS_AT_A_TIME)
        found = []
        for part in parts:
            rows = [torch.tensor(ids[i]) for i in part]
            padded = pad_sequence(rows, batch_first=True)
            mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            found.append(read(padded.to(self.device), mask.to(self.device)).double().cpu().numpy())
        return np.concatenate(found)[np.argsort(np.concatenate(parts))]

    def _encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden, real = self._encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask.unsqueeze(-1)
        return torch.nn.functional.normalize((hidden * real).sum(1) / real.sum(1), dim=-1)

    def _score(self, ids: Tensor, mask: Tensor) -> Tensor:
        read = self._model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
        hidden = read.last_hidden_state[:, :-1]
        head, scored = self._model.get_output_embeddings(), mask[:, 1:].bool()
        scored[:, : len(self._tokenizer(OPENING)["input_ids"]) - 1] = False  # the opening is given
        logp = torch.zeros(scored.shape, device=ids.device)
        logp[scored] = token_logprobs(hidden[scored], head.weight, head.bias, ids[:, 1:][scored], 1.0)
        return logp.sum(1)


def finished_sentences(text: str) -> str:
    """The text without a last sentence that was cut off; empty if no sentence ends."""
    found = SENTENCES.match(text)
    return found.group() if found else ""


def distinct_words(text: str) -> list[str]:
    """The words of a text in lower case, each once, in the order of their first appearance."""
    return list(dict.fromkeys(word.lower() for word in WORD.findall(text)))
