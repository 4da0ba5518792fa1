"""Finds the answers of a chat in the text that a tokenizer's chat template makes of it. `chat_tokens` calls this.

A template that marks answers with ``{% generation %}`` says itself where they are. Of any other template, each answer
is located by what stands before and after it:

- It begins where the chat up to it ends, rendered with the prompt for an answer, as the model sees it when it answers.
- It ends where the text ends that comes after a stand-in, put into its place: so it does not matter whether the
  template strips or changes the answer, as Qwen3's removes the thinking of all answers but the last. What ends an
  answer, such as ``<|im_end|>`` and a line break, is part of it.

Both must fit the text of the whole chat; otherwise, the template cannot be used without marks, and that is an error.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from sweeper.data.chats import ASSISTANT, Message
from sweeper.data.content import shorten
from sweeper.errors import DataError, first_line

__all__ = ["AnswerFinder", "Range", "Rendered"]

Range = tuple[int, int]
"""Characters ``[start, end)`` of a text."""
Rendered = tuple[str, Sequence[Range]]
"""The text of a chat, and where its wanted answers are."""

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_STAND_IN = "AnswerOfTheAssistant"
"""A text that templates leave as it is: no blanks to strip, nothing that looks like a tag."""


class AnswerFinder:
    """Renders chats with one tokenizer's template.

    Args:
        tokenizer: A tokenizer of transformers with a chat template.
        name: Name of the dataset, for messages.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer, self._name = tokenizer, name

    def find(self, messages: Sequence[Message], tools: Sequence[Any] | None, wanted: Sequence[int]) -> Rendered:
        """Return the text of a chat, and where answers are in it.

        Args:
            messages: The chat.
            tools: The tools that its template describes.
            wanted: Indices of the answers.

        Raises:
            DataError: The template refuses the chat, or does not keep its answers apart.
        """
        plain = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
        if _MARK.search(self._template(tools)):
            return self._marked(plain, tools, wanted)
        text = self._render(plain, tools)
        return text, [self._locate(text, plain, tools, index) for index in wanted]

    @functools.cached_property
    def ending(self) -> str:
        """What the template puts after an answer that ends a chat."""
        chat = [{"role": "user", "content": "Question"}, {"role": ASSISTANT, "content": "Answer"}]
        return self._around(chat, None, 1)[1]

    def _template(self, tools: Sequence[Any] | None) -> str:
        found: str = self._tokenizer.get_chat_template(tools=tools)
        return found

    def _marked(self, messages: Sequence[Message], tools: Sequence[Any] | None, wanted: Sequence[int]) -> Rendered:
        from transformers.utils.chat_template_utils import render_jinja_template

        template = self._template(tools)
        (text,), (ranges,) = self._rendering(
            messages,
            lambda: render_jinja_template(
                conversations=[list(messages)],
                tools=list(tools) if tools else None,
                chat_template=template,
                return_assistant_tokens_mask=True,
                **self._tokenizer.special_tokens_map,
            ),
        )
        answers = [index for index, message in enumerate(messages) if message["role"] == ASSISTANT]
        if list(wanted) == answers:
            return text, ranges
        if len(ranges) != len(answers):
            raise DataError(
                f"dataset {self._name}: the model's chat template marks {len(ranges)} parts of a chat with "
                f"{len(answers)} answers, so it is not clear which is which. Set task.loss_on=all, or change the "
                "template so that it marks each answer once."
            )
        return text, [span for index, span in zip(answers, ranges, strict=True) if index in wanted]

    def _locate(self, text: str, messages: Sequence[Message], tools: Sequence[Any] | None, index: int) -> Range:
        before, after = self._around(messages, tools, index)
        start = self._start(text, messages[:index], tools, before)
        end = len(text) - len(after)
        # Calls of tools stand between the text of an answer and its end.
        tail = after.find(self.ending) if messages[index].get("tool_calls") else 0
        if start is None or not start <= end or not text.endswith(after) or not after.startswith(self.ending, tail):
            raise DataError(
                f"dataset {self._name}: the model's chat template changes a chat when it goes on, so answer "
                f"{index + 1} of a chat cannot be found in its text. Mark the answers in the template with "
                "{% generation %} and {% endgeneration %}, as `trl` does, or set task.loss_on=last."
            )
        return start, end + tail + len(self.ending)

    def _start(self, text: str, messages: Sequence[Message], tools: Sequence[Any] | None, before: str) -> int | None:
        """Return where an answer begins that comes after some messages; None if the text does not show it.

        Args:
            text: The whole chat.
            messages: What comes before the answer.
            tools: The tools.
            before: The text before the stand-in.
        """
        if messages:
            prompt = self._render(messages, tools, prompt=True)
            # A template without a prompt for answers may put the name of the role before each, which is no part of it.
            asks = prompt != self._render(messages, tools) or not before[len(prompt) :].strip()
            if asks and text.startswith(prompt):
                return len(prompt)
        return len(before) if text.startswith(before) else None

    def _around(self, messages: Sequence[Message], tools: Sequence[Any] | None, index: int) -> tuple[str, str]:
        """Return the text before and after the content of an answer."""
        stand_in, others = _STAND_IN, repr([messages, tools])
        while stand_in in others:
            stand_in += "Again"
        with_stand_in = [*messages]
        with_stand_in[index] = {**messages[index], "content": stand_in}
        before, *after = self._render(with_stand_in, tools).split(stand_in)
        if len(after) != 1:
            raise DataError(
                f"dataset {self._name}: the model's chat template shows an answer {len(after)} times instead of once. "
                "Choose a model with another template."
            )
        return before, after[0]

    def _render(self, messages: Sequence[Message], tools: Sequence[Any] | None, *, prompt: bool = False) -> str:
        def render() -> str:
            text = self._tokenizer.apply_chat_template(
                list(messages), tools=tools, tokenize=False, add_generation_prompt=prompt
            )
            return str(text)

        rendered: str = self._rendering(messages, render)
        return rendered

    def _rendering(self, messages: Sequence[Message], render: Callable[[], Any]) -> Any:
        try:
            return render()
        except Exception as error:  # a template can raise anything
            raise DataError(
                f"dataset {self._name}: the model's chat template rejects the chat {shorten(list(messages))}: "
                f"{first_line(error)} Correct the row, or choose a model whose template takes it."
            ) from error
