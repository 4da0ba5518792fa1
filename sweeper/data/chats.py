"""Makes chats of the forms that people store them in: a list of messages, each with role and content.

Known forms are TRL's and OpenAI's (role and content), ShareGPT's (from and value), lists of turns that are lists of
messages, and conversations of two people, of whom the second is taken for the assistant. `prompts` calls this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.config.settings import DatasetSettings
from sweeper.data.content import shorten
from sweeper.data.tables import check_text
from sweeper.errors import DataError

__all__ = ["ASSISTANT", "Message", "chat_json", "has_loss", "messages_of", "to_last_answer", "without_answer"]

Message = dict[str, Any]
"""Role and content, and what else templates use; ``weight`` 0 says that an answer is not learnt, as for OpenAI."""

ASSISTANT = "assistant"
_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys((ASSISTANT, "gpt", "chatgpt", "bot", "model"), ASSISTANT),
    **{name: name for name in ("system", "developer", "tool", "function", "ipython")},
    "observation": "tool",
}
"""Roles by the names that data give them."""
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value")
_KEPT = ("name", "reasoning_content", "thinking", "tool_calls", "tool_call_id", "weight")
"""Further keys of a message: those that chat templates read, and the weight."""
_TWO = 2


def messages_of(where: str, value: object, settings: DatasetSettings, *, column: str) -> list[Message]:
    """Return the messages of a row, checked.

    Args:
        where: Place of the row.
        value: Content of the column: a list of messages, or of turns that are lists of messages; or either as JSON.
        settings: The keys of a message.
        column: Name of the column.

    Raises:
        DataError: It is not a chat.
    """
    if isinstance(value, str):  # CSV has no lists
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list) or not value:
        raise _not_a_chat(where, value, column)
    flat = [message for turn in value for message in (turn if isinstance(turn, list) else [turn])]
    found = [_message(where, message, settings, column) for message in flat]
    if not any(message["role"] in _ROLES for message in found):
        found = _between_two(where, found, column)
    return [{**message, "role": _ROLES.get(message["role"], message["role"])} for message in found]


def has_loss(message: Message) -> bool:
    """Whether a message is an answer that is learnt."""
    return bool(message["role"] == ASSISTANT and message.get("weight", 1))


def without_answer(messages: Sequence[Message]) -> str:
    """Return why a chat has nothing to learn; empty if it has."""
    answers = [message for number, message in enumerate(messages) if number and has_loss(message)]
    if not answers:
        return f"has no message of the role '{ASSISTANT}' after another message, so there is no answer to learn"
    if any(not message["content"].strip() and not message.get("tool_calls") for message in answers):
        return "has an empty completion"
    return ""


def to_last_answer(messages: Sequence[Message]) -> list[Message]:
    """Return a chat without what comes after the last answer that is learnt."""
    last = max(number for number, message in enumerate(messages) if has_loss(message))
    return list(messages[: last + 1])


def chat_json(messages: Sequence[Message], tools: object = None) -> str:
    """Return a chat and the tools it may call, as they are stored."""
    chat: dict[str, Any] = {"messages": list(messages)}
    return json.dumps(chat | ({"tools": tools} if tools else {}), ensure_ascii=False)


def _message(where: str, message: object, settings: DatasetSettings, column: str) -> Message:
    if not isinstance(message, Mapping):
        raise _not_a_chat(where, message, column)
    role = message.get(_key(message, settings.role, _ROLE_KEYS))
    content = _content(message.get(_key(message, settings.content, _CONTENT_KEYS)), message)
    if not isinstance(role, str) or not isinstance(content, str):
        raise _not_a_chat(where, message, column)
    # A table of messages has every key in each of them, most of them without a value.
    further = {key: message[key] for key in _KEPT if message.get(key) is not None}
    return {"role": role, "content": check_text(where, content), **further}


def _key(message: Mapping[str, Any], asked: str, known: Sequence[str]) -> str:
    return asked or next((key for key in known if key in message), known[0])


def _content(content: object, message: Mapping[str, Any]) -> object:
    """Return a message's text: what calls tools may have none, and text may come in parts."""
    if content is None and message.get("tool_calls"):
        return ""
    if not isinstance(content, list):
        return content
    parts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content]
    return "".join(map(str, parts)) if parts and all(isinstance(part, str) for part in parts) else None


def _between_two(where: str, messages: Sequence[Message], column: str) -> list[Message]:
    """Return a conversation of two people as a chat, with consecutive messages of one of them in one."""
    people = list(dict.fromkeys(message["role"] for message in messages))
    if len(people) > _TWO:
        names = ", ".join(map(repr, people[:4]))
        raise DataError(
            f"{where}: column '{column}' has {len(people)} speakers ({names}, ...), none of them called user or "
            f"assistant. Name their roles in the data, or remove the row."
        )
    turns: list[Message] = []
    for message in messages:
        role = ("user", ASSISTANT)[people.index(message["role"])]
        if not message["content"].strip():
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n" + message["content"]
        else:
            turns.append({**message, "role": role})
    return turns


def _not_a_chat(where: str, value: object, column: str) -> DataError:
    return DataError(
        f"{where}: column '{column}' must hold a list of messages, each with role and content (or from and value) as "
        f"text, but is {shorten(value)}. Correct the row."
    )
