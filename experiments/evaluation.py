"""The examination: held-out answers of every policy, and what the judge makes of them.

The parts that a sweep can ask for beside the round robin: the Leader x Follower table, compute parity, cycles and
choices among samples, length control. Answers are kept in ``answers/`` as they are sampled, so that an interrupted
evaluation goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from experiments import answer_games, side_by_side
from experiments.config import EvaluationConfig, LanguageModelSweep
from llm import checkpoint
from llm.chat import Chat
from llm.config import ModelConfig, load_policy
from llm.data import load_prompts
from llm.data.prompts import identity as prompt_identity
from llm.evaluate import compare, round_robin
from llm.generation import Generator
from llm.judges import FeatureJudge, Judge, ask_features, drain
from llm.judges.bias import length_bias, words
from llm.judges.config import identity
from llm.lengths import Player, fitting
from llm.plain_generator import sampler
from llm.policy import Policy, default_device
from llm.precision import settled
from llm.refine import improve, refine, resample
from slhf.algorithms import StackelbergGDA
from slhf.errors import ConfigError, RunError
from slhf.intervals import estimate, opposite
from slhf.runs import Run, derive_seed, remove_directory, write_json

if TYPE_CHECKING:
    from experiments.language_models import TrainedRun, Workplace

TOKENS_AT_ONCE = 2**16
"""Most tokens of conversations, as long as they may become, that are sampled together; one prompt at least. Their
cache is 8.6 GB for a model of 8 billion parameters in bfloat16, and 3 GB for the embedded one in float32."""
BASE = "Base"
"""How a sweep's untrained model is called in tables."""


@dataclass(frozen=True)
class Contestant:
    """A policy that takes part."""

    title: str
    """Its name in tables."""
    kind: str
    """What it is a variant of: from each kind the first one's samples are looked at for cycles."""
    model: ModelConfig
    """How it is sampled. With ``lora: null`` it is the named model as it is."""
    adapter: Path | None = None
    """Directory of the trained adapter; with ``lora: null`` of any adapter, to be merged."""
    trained_follower: bool = False
    """Whether it was trained to improve answers, so that its own refinement is followed."""

    @property
    def first(self) -> str:
        """The name of its first answers."""
        return f"{self.title} Leader" if self.trained_follower else self.title

    @property
    def second(self) -> str:
        """The name of its improvements."""
        return f"{self.title} Follower" if self.trained_follower else f"{self.title} as Follower"

    def settled(self, record: Path) -> Contestant:
        """The same with its weights' format as ``record`` says, see ``llm.precision.settled``."""
        return replace(self, model=settled(self.model, self.title, record, default_device()))

    def load(self) -> Policy:
        """The policy."""
        if self.model.lora is not None:
            return load_policy(self.model, self.adapter, 0, default_device())
        model = self.model
        return Policy.as_is(model.name, self.adapter, model.temperature, model.dtype, default_device())


@dataclass(frozen=True)
class Examination:
    """Who is asked what, and how it is judged. The first contestant is the one that others are held against."""

    contestants: Sequence[Contestant]
    prompts: list[str]
    settings: EvaluationConfig
    seed: int
    folder: Path
    """Where answers are kept."""

    def __post_init__(self) -> None:
        names = [name for one in self.contestants for name in (one.first, one.second)]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ConfigError(f"Two contestants would both be called {double[0]!r} in tables; give one another title.")

    @property
    def base(self) -> Contestant:
        """The first contestant."""
        return self.contestants[0]

    @property
    def refining(self) -> list[Contestant]:
        """Those whose answers are followed through all rounds: the base and trained Followers."""
        return [one for one in self.contestants if one.trained_follower or one is self.base]

    @property
    def sampled(self) -> list[Contestant]:
        """The first of each kind."""
        return list({one.kind: one for one in reversed(self.contestants)}.values())[::-1]

    def rounds_of(self, one: Contestant) -> int:
        """How many rounds of answers it gives."""
        return self.settings.rounds if one in self.refining else 1

    def samples_of(self, one: Contestant) -> int:
        """How many independent answers per prompt it gives."""
        for_parity = self.settings.rounds if self.settings.parity and one in self.refining else 0
        for_cycles = self.settings.samples or 0 if one in self.sampled else 0
        return max(for_parity, for_cycles)

    def estimate(self, values: np.ndarray) -> dict[str, Any]:
        """Mean and interval over prompts."""
        return estimate(values, self.settings.resamples, self.seed)


@dataclass
class Answers:
    """What the contestants said, by title."""

    rounds: dict[str, list[list[str]]]
    """Rounds of refinement, one list of texts per round; the first only for those that do not refine."""
    samples: dict[str, list[list[str]]]
    """Independent answers. For all but the base the first sample is the first round's answer."""
    improved: dict[tuple[str, str], list[str]]
    """Replies by (titles of) Leader and Follower."""


def evaluate(runs: list[TrainedRun], sweep: LanguageModelSweep, workplace: Workplace) -> dict[str, Any]:
    """The examination of a sweep's policies and its base model, read back if it is finished."""
    config = {
        "runs": {trained.title: trained.run.path.name for trained in runs},
        "model": asdict(sweep.model),
        "judge": identity(sweep.judge),
        "prompts": prompt_identity(sweep.prompts),
        "evaluation": asdict(sweep.evaluation),
    }
    evaluation = Run.open(workplace.root, "evaluation", config)
    if not evaluation.finished:
        contestants = [
            one.settled(evaluation.manifest) for one in (Contestant(BASE, "base", sweep.model), *map(contestant, runs))
        ]
        judge = workplace.judge(settled(sweep.judge, "judge", evaluation.manifest, default_device()), remember=True)
        prompts, folder = held_out_prompts(sweep), evaluation.path / "answers"
        examination = Examination(contestants, prompts, sweep.evaluation, sweep.seed, folder)
        evaluation.finish(examine(examination, judge))
    return evaluation.result()


def contestant(trained: TrainedRun) -> Contestant:
    """A finished run's policy.

    Raises:
        RunError: its checkpoint is gone.
    """
    saved = checkpoint.latest(trained.run.path)
    if saved is None:
        raise RunError(f"{trained.run.path} is finished but holds no checkpoint; move it away to train again.")
    return trained_contestant(trained.title, trained.spec.name, trained.sweep.model, saved)


def trained_contestant(title: str, algorithm: str, model: ModelConfig, saved: Path) -> Contestant:
    """The policy of a checkpoint of a run of that algorithm."""
    follows, weights = algorithm == StackelbergGDA.name, saved / "adapter"
    if model.lora is None:  # all weights were trained, and the directory holds a whole model
        own = "float32" if model.dtype == "auto" else model.dtype  # as they were trained
        return Contestant(title, algorithm, replace(model, name=str(weights), dtype=own), None, follows)
    return Contestant(title, algorithm, model, weights, follows)


def held_out_prompts(sweep: LanguageModelSweep) -> list[str]:
    """The first so many held-out prompts that fit into the model's context, as the sweep says."""
    prompts, count = load_prompts(sweep.prompts, "heldout"), sweep.evaluation.prompts
    prompts = [prompts[i] for i in fitting(prompts, [Player.named(sweep.model)])]
    if len(prompts) < count:
        raise ConfigError(f"evaluation.prompts = {count}, but only {len(prompts)} prompts are held out.")
    return prompts[:count]


def examine(exam: Examination, judge: Judge) -> dict[str, Any]:
    """Sample all answers that are not there yet, then judge them; the result is plain JSON.

    Keys: ``prompts``, ``answers`` (by player), ``win_rates``, ``verdicts``, ``refinement``, ``attributes``; where the
    settings ask for it ``length_control`` with ``length_bias``, ``leader_follower``, ``parity``, ``cycles`` with
    ``concepts`` and ``selection``; for a judge that keeps metrics ``judge``: those of this session.
    """
    drain(judge)
    answers = sample_answers(exam)
    players, settings = players_of(exam, answers), exam.settings
    base = answers.rounds[exam.base.title][0]
    rates = round_robin(judge, exam.prompts, players, settings.resamples, exam.seed)
    result = {
        "prompts": exam.prompts,
        "answers": players,
        "win_rates": [rate.to_json() for rate in rates],
        "verdicts": {
            name: compare(judge, exam.prompts, texts, base).tolist()
            for name, texts in players.items()
            if name != exam.base.title
        },
        "refinement": refinement_curves(exam, answers, judge),
        "attributes": mean_features(judge, exam.prompts, players),
    }
    if settings.length_control:
        result |= length_controlled(exam, players, judge)
    if settings.leader_follower:
        result["leader_follower"] = leader_follower_table(exam, answers, judge)
    if settings.parity:
        result["parity"] = parity(exam, answers, judge)
    if settings.samples is not None:
        result |= games_among_samples(exam, answers, judge)
    metrics = drain(judge)
    return result | {"judge": metrics} if metrics else result


class Speaker:
    """A contestant at work: its answers, sampled unless they are kept; the policy is loaded when first needed."""

    def __init__(self, contestant: Contestant, exam: Examination) -> None:
        self.who, self.exam = contestant, exam

    @cached_property
    def _policy(self) -> tuple[Policy, Generator]:
        policy = self.who.load()
        return policy, sampler(policy)

    @property
    def kept(self) -> bool:
        """Whether all answers that depend on nobody else are there."""
        folders = ["rounds"] + ["samples"] * (self.exam.samples_of(self.who) > 1)
        return all(self._place(folder, self.who.title).exists() for folder in folders)

    def rounds(self) -> list[list[str]]:
        """Its first answers and, of those that refine, all rounds."""
        count = self.exam.rounds_of(self.who)
        # Another seed for each player: with shared draws a policy would be compared with its own random numbers.
        seed = derive_seed(self.exam.seed, "evaluation", self.who.title)

        def longest(chat: Chat, i: int) -> int:
            prompt = self.exam.prompts[i]
            return len(chat.prompt(prompt) if count == 1 else chat.follower_prompt(prompt, [0] * self._longest))

        def make(part: slice) -> list[list[str]]:
            return refine(*self._policy, self.exam.prompts[part], count, self._longest, seed, first_row=part.start)

        return self._kept("rounds", self.who.title, len(self.exam.prompts), longest, make)

    def samples(self, rounds: list[list[str]]) -> list[list[str]]:
        """Independent answers; its first ones are among them unless the others are held against those."""
        count, drawn = self.exam.samples_of(self.who), [] if self.who is self.exam.base else rounds[:1]
        fresh = count - len(drawn)
        if fresh <= 0:
            return drawn[:count]
        seed = derive_seed(self.exam.seed, "samples", self.who.title)

        def longest(chat: Chat, i: int) -> int:
            return len(chat.prompt(self.exam.prompts[i]))

        def make(part: slice) -> list[list[str]]:
            return resample(*self._policy, self.exam.prompts[part], fresh, self._longest, seed, part.start)

        return drawn + self._kept("samples", self.who.title, len(self.exam.prompts), longest, make, fresh)

    def improve(self, leader: str, texts: list[str]) -> list[str]:
        """Its replies to another contestant's first answers to the first so many prompts."""
        seed, prompts = derive_seed(self.exam.seed, "improve", leader, self.who.title), self.exam.prompts[: len(texts)]
        folder = f"improved/by {file_name(self.who.title)}"

        def longest(chat: Chat, i: int) -> int:
            return len(chat.follower_prompt(prompts[i], chat.given(texts[i])))

        def make(part: slice) -> list[str]:
            return improve(*self._policy, prompts[part], texts[part], self._longest, seed, part.start)

        return self._kept(folder, leader, len(prompts), longest, make)

    @property
    def _longest(self) -> int:
        return self.who.model.max_new_tokens

    def _place(self, folder: str, title: str) -> Path:
        return self.exam.folder / folder / f"{file_name(title)}.json"

    def _kept(
        self,
        folder: str,
        title: str,
        count: int,
        longest: Callable[[Chat, int], int],
        make: Callable[[slice], Any],
        copies: int = 1,
    ) -> Any:
        """What is kept under that title, else what ``make`` says of ``count`` prompts, a part of them at a time.

        Each part is kept as it is made, so that a restart goes on after the last one. ``longest`` gives the tokens that
        prompt i comes to before its last answer, and ``copies`` how often it is sampled.
        """
        path = self._place(folder, title)
        if not path.exists():
            chat, found = self._policy[0].chat, []
            lengths = [longest(chat, i) + self._longest for i in range(count)]
            for part in parts_of(lengths, TOKENS_AT_ONCE // copies):
                kept = path.with_suffix(".parts") / f"{part.start}-{part.stop}.json"
                if not kept.exists():
                    write_json(kept, make(part))
                found.append(json.loads(kept.read_text(encoding="utf-8")))
            write_json(path, joined(found))
        remove_directory(path.with_suffix(".parts"))
        return json.loads(path.read_text(encoding="utf-8"))


def parts_of(lengths: Sequence[int], tokens: int) -> list[slice]:
    """Consecutive rows in parts of at most so many tokens, padding included, or of a single row."""
    bounds, longest = [0], 0
    for i, length in enumerate(lengths):
        longest = max(longest, length)
        if i > bounds[-1] and longest * (i + 1 - bounds[-1]) > tokens:
            bounds, longest = [*bounds, i], length
    return [slice(start, stop) for start, stop in pairwise([*bounds, len(lengths)])]


def joined(parts: list[list[Any]]) -> list[Any]:
    """Lists of texts one after the other; of lists of such lists, each."""
    if isinstance(parts[0][0], str):
        return [text for part in parts for text in part]
    return [joined(list(lists)) for lists in zip(*parts, strict=True)]


def file_name(title: str) -> str:
    """A title as a name without slashes, another one for each title."""
    return title.replace("%", "%25").replace("/", "%2F")


def own_answers(one: Contestant, exam: Examination) -> None:
    """Have a contestant's rounds and samples kept, in a process beside others."""
    speaker = Speaker(one, exam)
    speaker.samples(speaker.rounds())


def sample_side_by_side(exam: Examination) -> None:
    """Have several contestants answer at the same time where that is faster and memory holds them; else do nothing."""
    todo = sorted((one for one in exam.contestants if not Speaker(one, exam).kept), key=exam.rounds_of, reverse=True)
    processes = side_by_side.at_once([one.model.name for one in todo])
    if processes > 1:
        side_by_side.run(
            [partial(own_answers, one, exam) for one in todo],
            processes,
            "answers",
            "policies",
            len(todo),
            lambda: sum(Speaker(one, exam).kept for one in todo),
        )


def sample_answers(exam: Examination) -> Answers:
    """All answers that the examination needs."""
    sample_side_by_side(exam)
    answers = Answers({}, {}, {})
    for one in tqdm(exam.contestants, desc="evaluation", unit="policy"):
        speaker = Speaker(one, exam)
        answers.rounds[one.title] = speaker.rounds()
        answers.samples[one.title] = speaker.samples(answers.rounds[one.title])
    if exam.settings.leader_follower:
        with tqdm(desc="improvements", total=len(exam.contestants) ** 2, unit="pair") as bar:
            for leader, follower, texts in improvements(exam, answers.rounds):
                answers.improved[leader, follower] = texts
                bar.update()
    return answers


def improvements(exam: Examination, rounds: dict[str, list[list[str]]]) -> Iterator[tuple[str, str, list[str]]]:
    """Leader, Follower, and its replies to the Leader's first answers, for all pairs of contestants.

    To its own answers the second round is the reply, where there is one.
    """
    count = exam.settings.leader_follower_prompts
    for follower in exam.contestants:
        speaker = Speaker(follower, exam)
        for leader, (first, *later) in rounds.items():
            own = leader == follower.title and later
            yield leader, follower.title, later[0][:count] if own else speaker.improve(leader, first[:count])


def players_of(exam: Examination, answers: Answers) -> dict[str, list[str]]:
    """The texts of the round robin by player: first answers, and second ones of those that refine."""
    players = {}
    for one in exam.contestants:
        first, *later = answers.rounds[one.title]
        players[one.first] = first
        if later:
            players[one.second] = later[0]
    return players


def mean_features(judge: Judge, prompts: list[str], players: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """The mean of each of the judge's features over a player's answers; empty for a judge without features."""
    if not isinstance(judge, FeatureJudge):
        return {}
    return {
        name: dict(zip(judge.feature_names, ask_features(judge, prompts, texts).mean(0).tolist(), strict=True))
        for name, texts in players.items()
    }


def refinement_curves(exam: Examination, answers: Answers, judge: Judge) -> list[dict[str, Any]]:
    """How each round of those that refine fares against the base's first answers."""
    base = answers.rounds[exam.base.title][0]
    return [
        {"policy": one.title, "round": number, **exam.estimate(compare(judge, exam.prompts, texts, base))}
        for one in exam.refining
        for number, texts in enumerate(answers.rounds[one.title], 1)
        if texts is not base
    ]


def length_controlled(exam: Examination, players: dict[str, list[str]], judge: Judge) -> dict[str, Any]:
    """``length_control``: win rates at equal lengths; ``length_bias``: slopes (see ``llm.judges.bias``).

    A pair whose answers are equally long on every prompt has its plain win rate, and no slope.
    """
    control, bias = [], []
    for row, column in combinations(players, 2):
        p = compare(judge, exam.prompts, players[row], players[column])
        ours, theirs = words(players[row]), words(players[column])
        if (ours == theirs).all():
            found = exam.estimate(p)
        else:
            fit = length_bias(p, ours, theirs, exam.settings.resamples, exam.seed)
            found = {"mean": fit.win_rate, "low": fit.win_rate_low, "high": fit.win_rate_high, "n": fit.n}
            slope = {"slope": fit.slope, "low": fit.slope_low, "high": fit.slope_high, "n": fit.n}
            bias += [{"row": row, "column": column, **slope}, {"row": column, "column": row, **slope}]
        control += [{"row": row, "column": column, **found}, {"row": column, "column": row, **opposite(found)}]
    return {"length_control": control, "length_bias": bias}


def leader_follower_table(exam: Examination, answers: Answers, judge: Judge) -> list[dict[str, Any]]:
    """How often each Follower's reply is preferred to the first answer that it saw (arXiv 2512.16626)."""
    by_title = {one.title: one for one in exam.contestants}
    rows = []
    for (leader, follower), replies in answers.improved.items():
        seen = answers.rounds[leader][0][: len(replies)]
        p = compare(judge, exam.prompts[: len(replies)], replies, seen)
        rows.append({"leader": by_title[leader].first, "follower": by_title[follower].second, **exam.estimate(p)})
    return rows


def against_base(exam: Examination, answers: Answers, judge: Judge, samples: list[list[str]]) -> np.ndarray:
    """(n, N): the preference for each of N samples over the base's first answer."""
    base = answers.rounds[exam.base.title][0]
    return np.stack([compare(judge, exam.prompts, texts, base) for texts in samples], -1)


def parity(exam: Examination, answers: Answers, judge: Judge) -> list[dict[str, Any]]:
    """What N generations buy, N = 1, ..., ``rounds``, against the base's first answers.

    - refinement: the N-th round's answer;
    - best of N: of N independent answers the one with the greatest mean preference over the others, ties sharing the
      choice. The judge that chooses is the judge that then says how good the choice is, so this is optimistic;
    - resampling: one of N independent answers at random (their mean).

    The base's samples are none of its first answers, against which they are held. A Leader's first sample is its first
    answer, so that its methods agree at N = 1.
    """
    rows = []
    for one in exam.refining:
        samples = answers.samples[one.title][: exam.settings.rounds]
        refined = against_base(exam, answers, judge, answers.rounds[one.title])
        sampled = against_base(exam, answers, judge, samples)
        games = answer_games.judged(judge, exam.prompts, samples)
        for n in range(1, exam.settings.rounds + 1):
            best = answer_games.best_of(answer_games.among(games, range(n)))
            methods = {
                "refinement": refined[:, n - 1],
                "best of n": (best * sampled[:, :n]).sum(-1),
                "resampling": sampled[:, :n].mean(-1),
            }
            rows += [
                {"policy": one.title, "method": method, "generations": n, **exam.estimate(values)}
                for method, values in methods.items()
            ]
    return rows


def games_among_samples(exam: Examination, answers: Answers, judge: Judge) -> dict[str, Any]:
    """``cycles``, ``concepts`` and ``selection``: what ``experiments.answer_games`` says of the samples.

    Selection is from one player's samples and from everyone's ("all"); the base's first answers, against which the
    choice is held, are not among them. The judge chooses and then says how good the choice is: this is optimistic.
    """
    settings = exam.settings
    pool = {one.first: answers.samples[one.title][: settings.samples] for one in exam.sampled}
    everything = [texts for samples in pool.values() for texts in samples]
    games, same = answer_games.judged(judge, exam.prompts, everything), answer_games.clones(everything)
    cycles = answer_games.cycle_statistics(games, same, settings.resamples, exam.seed)
    chosen = answer_games.choices(games, settings.tau)
    verdicts = against_base(exam, answers, judge, everything)
    selection = selection_rows(exam, "all", chosen, verdicts)
    for number, (name, samples) in enumerate(pool.items()):
        mine = range(number * len(samples), (number + 1) * len(samples))
        own = answer_games.choices(answer_games.among(games, mine), settings.tau)
        selection += selection_rows(exam, name, own, verdicts[:, mine])
    return {
        "cycles": {"prompts": len(exam.prompts), "players": list(pool), **cycles, "tau": settings.tau},
        "concepts": answer_games.agreements(chosen, same),
        "selection": selection,
    }


def selection_rows(
    exam: Examination, candidates: str, chosen: dict[str, np.ndarray], verdicts: np.ndarray
) -> list[dict[str, Any]]:
    """The expected verdict (n,) of each method's choice among (n, N) candidates."""
    return [
        {"candidates": candidates, "method": method, **exam.estimate((policy * verdicts).sum(-1))}
        for method, policy in chosen.items()
    ]
