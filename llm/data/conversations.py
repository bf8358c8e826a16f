"""Conversations in the forms in which data sets write them, read by one rule for prompts and preferences.

A text is a transcript, as Anthropic's HH data write them, if it starts with "\\n\\nHuman:" (or with "Human:", if
"\\n\\nAssistant:" follows); else it is what one side says. Messages are objects with "role" and "content", or with
"from" and "value".
"""

from __future__ import annotations

import re
from typing import Any

from llm.data.sources import Message, Table

HH_START = re.compile(r"\s*\n\n(Human|Assistant):|\s*Human:.*\n\nAssistant:", re.DOTALL)
"""How a transcript of Anthropic's HH data starts."""
HH_MARKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
"""Before each turn of it."""
HELPSTEER_MARKER = re.compile(r"\n<extra_id_1>(User|Assistant)\n")
"""Before each turn but the first of a prompt of HelpSteer2, which starts with the user's."""
ROLES = {
    "system": "system",
    **dict.fromkeys(("user", "human", "Human", "User"), "user"),
    **dict.fromkeys(("assistant", "gpt", "Assistant"), "assistant"),
}
"""What data sets call those who speak."""
OPENINGS = ("prompt", "instruction", "question", "messages", "conversation", "conversations")
"""Columns that hold what is said before the answer; of several the first in this order."""
WHOLE = ("messages", "conversation", "conversations")
"""Of them those that may end with an answer, which is then not part of it."""
SYSTEMS = ("system", "system_prompt")
"""Columns of texts that hold a system message."""
UNREAD = ("input", "context", "history", "tools", "functions", "documents", "image", "images")
"""Columns that can change what a prompt means, and that nothing here can pass on to a model."""
TRANSCRIPT = r'is not a transcript "\n\nHuman: ...\n\nAssistant: ..."'
MESSAGES = 'must be a list of messages, objects with texts "role" and "content", not'


class LeftOut(Exception):
    """A row that is as it should be and of no use here; the text is the reason, as a ``Tally`` counts it."""


def transcript(text: str) -> list[Message] | None:
    """The turns of a transcript in HH's format; None if it is not one."""
    return _turns(HH_MARKER.split(text.strip())[1:]) if HH_START.match(text) else None


def _turns(pieces: list[str]) -> list[Message]:
    return [Message(role=ROLES[who], content=said.strip()) for who, said in zip(pieces[::2], pieces[1::2], strict=True)]


class Conversations:
    """What is said in each row of a table, before an answer and with it.

    Attributes:
        unread: how many rows have a value in each column of ``UNREAD``.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        compared = table.has("context", "response1", "response2")
        self.column = "context" if compared else next(filter(table.has, OPENINGS), None)
        self._values: dict[str, list[Any]] = {}
        used = (self.column, "input" if self.column == "instruction" else None)
        others = [name for name in filter(table.has, UNREAD) if name not in used]
        self.unread = {name: sum(map(bool, self.values(name))) for name in others}

    def values(self, column: str) -> list[Any]:
        """A column, read once."""
        if column not in self._values:
            self._values[column] = self.table.values(column)
        return self._values[column]

    def opening(self, row: int) -> list[Message]:
        """What is said before the answer; the user or the system starts, the user ends.

        Raises:
            InvalidData: the table has no such column, or the row cannot be read.
            LeftOut: the row holds more than texts.
        """
        if self.column is None:
            raise self.table.lacks(f'a column {", ".join(map(repr, OPENINGS))} or "chosen"'.replace("'", '"'))
        value = self.values(self.column)[row]
        if isinstance(value, str) and self.column not in WHOLE:
            return self._after_system(row, _said_before(value + self._input(row)))
        turns = self._messages(row, self.column, value)
        if turns and turns[-1]["role"] == "assistant" and self.column in WHOLE:
            turns.pop()
        if not turns or turns[-1]["role"] != "user":
            raise self.table.malformed(row, self.column, "must end with the user's turn")
        return self._after_system(row, turns)

    def answered(self, row: int, column: str) -> list[Message]:
        """The conversation that ends with the answer in ``column``.

        A transcript, and messages that start with the user's or the system's turn, are whole conversations. Anything
        else, a text, a message or several, comes after the opening.

        Raises:
            InvalidData, LeftOut: as in :meth:`opening`.
        """
        value = self.values(column)[row]
        if isinstance(value, dict):
            value = [value]
        if isinstance(value, str):
            turns = transcript(value) or [Message(role="assistant", content=value)]
        else:
            turns = self._messages(row, column, value)
        if turns and turns[0]["role"] != "assistant":
            return self._after_system(row, turns)
        if self.column is None:
            raise self.table.malformed(row, column, f'{TRANSCRIPT} (without one, a column "prompt" is needed)')
        before = self.values(self.column)[row]
        if isinstance(value, str) and isinstance(before, str) and (opened := transcript(before)):
            # the transcript may break off within the answer, and the answer hold more turns
            marked = opened[-1]["role"] == "assistant" or value.startswith("\n\nAssistant:")
            return self._after_system(row, transcript(before + ("" if marked else "\n\nAssistant: ") + value) or [])
        return [*self.opening(row), *turns]

    def _input(self, row: int) -> str:
        """What an instruction in Alpaca's format is about, after a blank line."""
        if self.column != "instruction" or not self.table.has("input"):
            return ""
        text = self._text(row, "input").strip()
        return f"\n\n{text}" if text else ""

    def _after_system(self, row: int, turns: list[Message]) -> list[Message]:
        """The turns with the system message of the row before them, if it has one."""
        texts = dict.fromkeys(self._text(row, name).strip() for name in filter(self.table.has, SYSTEMS))
        if turns and turns[0]["role"] == "system":
            texts[turns[0]["content"].strip()] = None
            turns = turns[1:]
        found = [text for text in texts if text]
        if len(found) > 1:
            raise LeftOut("with two different system messages")
        return [*(Message(role="system", content=text) for text in found), *turns]

    def _text(self, row: int, column: str) -> str:
        """A text, "" where the row has none."""
        value = self.values(column)[row]
        if value is not None and not isinstance(value, str):
            raise self.table.malformed(row, column, f"must be a text, not {value!r:.60}")
        return value or ""

    def _messages(self, row: int, column: str, value: Any) -> list[Message]:
        if not isinstance(value, list):
            problem = MESSAGES if column in WHOLE else "must be a text or a list of messages, not"
            raise self.table.malformed(row, column, f"{problem} {value!r:.60}")
        turns = []
        for turn in value:
            if not isinstance(turn, dict):
                raise self.table.malformed(row, column, f"{MESSAGES} {value!r:.60}")
            role = turn.get("role") or turn.get("from")
            content = turn.get("value") if turn.get("content") is None else turn["content"]
            empty = content is None and ("content" in turn or "value" in turn)
            if empty or turn.get("tool_calls") or turn.get("function_call"):
                raise LeftOut("with tool calls or a message without text")
            if isinstance(content, list | dict):
                raise LeftOut("with content in parts")
            if not isinstance(role, str) or not isinstance(content, str):
                raise self.table.malformed(row, column, f"{MESSAGES} {value!r:.60}")
            if role not in ROLES:
                raise LeftOut("with turns of other roles than system, user and assistant")
            turns.append(Message(role=ROLES[role], content=content))
        return turns


def _said_before(text: str) -> list[Message]:
    """The turns of a text that comes before an answer: a transcript, a prompt of HelpSteer2, or what the user says."""
    if turns := transcript(text):
        if turns[-1] == Message(role="assistant", content=""):  # the answer's mark
            turns.pop()
        return turns
    if HELPSTEER_MARKER.search(text):
        return _turns(["User", *HELPSTEER_MARKER.split(text)])
    return [Message(role="user", content=text)]
