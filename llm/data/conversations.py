"""Conversations in the forms in which data sets write them."""

from __future__ import annotations

import re

from llm.data.sources import Message, Table

HH_MARKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
"""Before each turn of a transcript of Anthropic's HH data."""
HELPSTEER_MARKER = re.compile(r"\n<extra_id_1>(User|Assistant)\n")
"""Before each turn but the first of a prompt of HelpSteer2, which starts with the user's."""
ROLES = {"Human": "user", "User": "user", "Assistant": "assistant"}
TRANSCRIPT = r'is not a transcript "\n\nHuman: ...\n\nAssistant: ..."'


def transcript(text: str) -> list[Message] | None:
    """The turns of a transcript in HH's format; None if it is not one."""
    before, *pieces = HH_MARKER.split(text)
    return None if before.strip() or not pieces else _turns(pieces)


def helpsteer_prompt(text: str) -> list[Message]:
    """The turns of a prompt of HelpSteer2."""
    return _turns(["User", *HELPSTEER_MARKER.split(text)])


def _turns(pieces: list[str]) -> list[Message]:
    return [Message(role=ROLES[who], content=said.strip()) for who, said in zip(pieces[::2], pieces[1::2], strict=True)]


def answered(table: Table, column: str) -> list[list[Message]]:
    """The conversations that end with the answer in ``column``, "chosen" or "rejected".

    The column holds whole conversations as messages; or messages or a text to be read after the column "prompt",
    which holds messages, a text or the beginning of a transcript; or, without "prompt", transcripts. Beside a text
    "prompt", messages that start with a user's or the system's turn are whole conversations.

    Raises:
        InvalidData: a row cannot be read.
    """
    if table.holds_messages(column):
        answers = table.messages(column)
        if not table.holds_messages("prompt"):
            return _after_texts(table, answers)
        return [[*prompt, *answer] for prompt, answer in zip(table.messages("prompt"), answers, strict=True)]
    texts = table.texts(column)
    prompts = table.texts("prompt") if table.has("prompt") else [""] * len(texts)
    found = []
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        if prompt and not HH_MARKER.match(prompt):
            found.append([Message(role="user", content=prompt), Message(role="assistant", content=text)])
        elif turns := transcript(prompt + text):
            found.append(turns)
        else:
            raise table.malformed(row, column, f'{TRANSCRIPT} (without one, a text "prompt" is needed)')
    return found


def _after_texts(table: Table, answers: list[list[Message]]) -> list[list[Message]]:
    """Messages that start with an answer put after the text in the column "prompt", if there is one; others alone."""
    answer_first = [bool(turns) and turns[0]["role"] not in ("user", "system") for turns in answers]
    if not table.has("prompt") or not any(answer_first):
        return answers
    found = []
    for prompt, turns, put in zip(table.texts("prompt"), answers, answer_first, strict=True):
        before = transcript(prompt) or [Message(role="user", content=prompt)]
        if before[-1] == Message(role="assistant", content=""):  # the answer's mark, at the end of a transcript
            before.pop()
        found.append([*before, *turns] if put else turns)
    return found
