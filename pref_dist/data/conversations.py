"""Conversations in the ways that data sets write them, as turns of prompts and responses."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pref_dist.findings import Fault

# The turns of one side; None where the file has a null.
Texts = list[str | None]

USERS = frozenset({"user", "human", "prompter"})
ASSISTANTS = frozenset({"assistant", "gpt", "model", "bot", "chatbot"})
# HH-RLHF writes whole dialogues as one text.
DIALOGUE_MARKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]?")


class Conversation(NamedTuple):
    """One side: equally many prompts and responses, and what is wrong with it."""

    prompts: Texts
    responses: Texts
    faults: tuple[Fault, ...] = ()
    has_non_text: bool = False


class Message(NamedTuple):
    role: str
    text: str | None
    has_non_text: bool


def parse_json_turns(cell: Any) -> tuple[Texts | None, str | None]:
    """Return the turns of a cell that is a list of texts, or JSON of one; else None, and why it isn't."""
    value = cell
    if isinstance(cell, str):
        value, problem = parse_json(cell)
        if problem is not None:
            return None, problem
    if not isinstance(value, list):
        return None, f"{'JSON, but ' * isinstance(cell, str)}{type(value).__name__} where a list of strings should be"
    wrong = next((item for item in value if item is not None and not isinstance(item, str)), None)
    if wrong is not None:
        return None, f"a list, but with {type(wrong).__name__} where a string should be"
    return value, None


def parse_json(text: str) -> tuple[Any, str | None]:
    try:
        return json.loads(text), None
    except (ValueError, RecursionError) as error:
        return None, f"no JSON ({error})"


def parse_conversation(cell: Any, name: str) -> Conversation:
    """Return the turns of a list of messages, or JSON of one; `name` is the column, for faults.

    A system message stands before the first prompt; messages of one side that follow one another
    are one turn; a prompt that nobody answered has a null response.
    """
    value = cell
    if isinstance(cell, str):
        value, problem = parse_json(cell)
        if problem is not None:
            return broken(f"{name}: {problem}: {shorten(cell)!r}")
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return broken(f"{name}: no list of messages: {shorten(str(cell))!r}")
    messages = [parse_message(item) for item in value]
    problem = next((message for message in messages if isinstance(message, str)), None)
    if problem is not None:
        return broken(f"{name}: {problem}")
    return join_messages([message for message in messages if isinstance(message, Message)])


def broken(detail: str) -> Conversation:
    return Conversation([], [], (Fault("bad_conversation", detail),))


def parse_message(item: Any) -> Message | str:
    """Return a message, or what is wrong with it."""
    if not isinstance(item, Mapping):
        return f"{type(item).__name__} where a message should be"
    role = str(item.get("role", item.get("from", ""))).strip().lower()
    if role not in USERS | ASSISTANTS | {"system"}:
        return f"a message by {shorten(role)!r} (known: user, assistant, system)"
    content = item.get("content", item.get("value"))
    if content is None or isinstance(content, str):
        return Message(role, content, False)
    if not isinstance(content, Sequence):
        return f"a message whose content is {type(content).__name__}"
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    texts = [part for part in parts if isinstance(part, str) and part]
    has_non_text = any(holds_non_text(part) for part in content)
    return Message(role, "\n".join(texts), has_non_text)


def holds_non_text(part: Any) -> bool:
    """Return whether a part of a message is an image, a file or a call, and not a text."""
    if not isinstance(part, Mapping):
        return not isinstance(part, str)
    return part.get("type", "text") != "text" or part.get("image") is not None


def join_messages(messages: Sequence[Message]) -> Conversation:
    prompts: Texts = []
    responses: Texts = []
    for message in messages:
        if message.role in ASSISTANTS:
            if len(responses) == len(prompts):
                join_or_append(prompts, responses, message.text)
            else:
                responses.append(message.text)
        elif len(prompts) > len(responses):
            prompts[-1] = join_texts(prompts[-1], message.text)
        else:
            prompts.append(message.text)
    responses += [None] * (len(prompts) - len(responses))
    return Conversation(prompts, responses, (), any(message.has_non_text for message in messages))


def join_or_append(prompts: Texts, responses: Texts, text: str | None) -> None:
    """Add a response that follows a response, or that nobody asked for."""
    if responses:
        responses[-1] = join_texts(responses[-1], text)
    else:
        prompts.append("")
        responses.append(text)


def join_texts(first: str | None, second: str | None) -> str | None:
    return "\n\n".join(text for text in (first, second) if text) or first or second


def parse_dialogue(prompt: Any, cell: Any, name: str) -> Conversation:
    """Return the turns of a `chosen` or `rejected` cell: messages, a dialogue in one text, or an answer to `prompt`."""
    if isinstance(cell, str) and not looks_like_messages(cell):
        return parse_text(prompt, cell, name)
    conversation = parse_conversation(cell, name)
    if conversation.faults or conversation.prompts[0] != "" or prompt is None:
        return conversation
    # The messages hold the answer alone.
    is_text = isinstance(prompt, str) and not looks_like_messages(prompt)
    opening = Conversation([prompt], [None]) if is_text else parse_conversation(prompt, "prompt")
    if opening.faults:
        return opening
    return conversation._replace(
        prompts=[*opening.prompts, *conversation.prompts[1:]],
        responses=[*opening.responses[:-1], *conversation.responses],
    )


def looks_like_messages(text: str) -> bool:
    return text.lstrip().startswith("[{")


def parse_text(prompt: Any, text: str, name: str) -> Conversation:
    if isinstance(prompt, str) and not DIALOGUE_MARKER.match(text):
        if DIALOGUE_MARKER.match(prompt):
            return split_dialogue(prompt.rstrip() + " " * prompt.rstrip().endswith(":") + text)
        return Conversation([prompt], [text])
    if DIALOGUE_MARKER.match(text):
        return split_dialogue(text)
    return broken(f"{name}: neither messages nor a dialogue (Human: ... Assistant: ...), and there is no prompt column")


def split_dialogue(text: str) -> Conversation:
    """Split a dialogue in one text at its `Human:` and `Assistant:` markers."""
    _, *parts = DIALOGUE_MARKER.split(text)
    roles, texts = parts[0::2], parts[1::2]
    messages = [
        Message({"Human": "user", "Assistant": "assistant"}[role], content.strip(), False)
        for role, content in zip(roles, texts, strict=True)
    ]
    return join_messages(messages)


def shorten(text: str, num_characters: int = 60) -> str:
    return text if len(text) <= num_characters else text[: num_characters - 3] + "..."
