"""Conversations in the ways that data sets write them, as turns of prompts and responses."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pref_dist.findings import Fault

# The turns of one side; None where the file has a null.
Texts = list[str | None]

USERS = frozenset({"user", "human", "prompter"})
ASSISTANTS = frozenset({"assistant", "gpt", "model", "bot", "chatbot"})
# Python's own limit counts the callers too: what it lets through would depend on who reads.
MAX_NESTING = 100
# HH-RLHF writes whole dialogues as one text.
DIALOGUE_MARKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]?")
OPENING_MARKER = re.compile(r"(?:\n\n)?(Human|Assistant):")


class Conversation(NamedTuple):
    """One side: equally many prompts and responses, and what is wrong with it.

    starts_with_answer: nobody has asked; what stands in the first prompt then is a system message, if anything.
    """

    prompts: Texts
    responses: Texts
    faults: tuple[Fault, ...] = ()
    has_non_text: bool = False
    starts_with_answer: bool = False


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
    """Return the value of a JSON text, else None and why there is none."""
    too_deep = f"JSON that is nested more than {MAX_NESTING} levels deep"
    try:
        value = json.loads(text, object_pairs_hook=build_object)
    except RecursionError:
        return None, too_deep
    except ValueError as error:
        return None, f"no JSON ({error})"
    # Most texts have too few brackets to be looked at.
    may_be_deep = text.count("[") + text.count("{") > MAX_NESTING
    return (None, too_deep) if may_be_deep and is_nested_deeper(value, MAX_NESTING) else (value, None)


def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; Python's own reader would drop all but the last of equal keys. Raises ValueError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"key {shorten(next(name for name in counts if counts[name] > 1))!r} stands twice")
    return found


def is_nested_deeper(value: Any, num_levels: int) -> bool:
    """Return whether lists and objects of a JSON value stand more than so many levels deep in each other."""
    level = [value] if isinstance(value, (list, dict)) else []
    for _ in range(num_levels):
        parts = (part for node in level for part in (node.values() if isinstance(node, dict) else node))
        level = [part for part in parts if isinstance(part, (list, dict))]
    return bool(level)


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
    spoken = [message for message in messages if message.role != "system"]
    return Conversation(
        prompts,
        responses,
        has_non_text=any(message.has_non_text for message in messages),
        starts_with_answer=bool(spoken) and spoken[0].role in ASSISTANTS,
    )


def join_or_append(prompts: Texts, responses: Texts, text: str | None) -> None:
    """Add a response that follows a response, or that nobody asked for."""
    if responses:
        responses[-1] = join_texts(responses[-1], text)
    else:
        prompts.append("")
        responses.append(text)


def join_texts(first: str | None, second: str | None) -> str | None:
    return join_all([first, second]) or first or second


def join_all(texts: Sequence[str | None]) -> str:
    return "\n\n".join(text for text in texts if text)


def parse_dialogue(prompt: Any, cell: Any, name: str) -> Conversation:
    """Return the turns of a `chosen` or `rejected` cell: messages, a dialogue in one text, or an answer to `prompt`."""
    opening = parse_opening(prompt)
    if opening is not None and opening.faults:
        return opening
    if not isinstance(cell, str) or looks_like_messages(cell):
        answer = parse_conversation(cell, name)
    elif OPENING_MARKER.match(cell) and (not prompt or cell.startswith("\n\n")):
        answer = split_dialogue(cell)
    elif opening is not None:
        answer = Conversation([""], [cell], starts_with_answer=True)
    else:
        return broken(
            f"{name}: neither messages nor a dialogue (Human: ... Assistant: ...), and there is no prompt column"
        )
    if answer.faults or opening is None or not answer.starts_with_answer:
        return answer
    system = [answer.prompts[0]] if answer.prompts[0] else []
    return answer._replace(
        prompts=[*opening.prompts[:-1], join_all([*system, opening.prompts[-1]]), *answer.prompts[1:]],
        responses=[
            *opening.responses[:-1],
            join_texts(opening.responses[-1], answer.responses[0]),  # a prompt may begin the answer
            *answer.responses[1:],
        ],
    )


def parse_opening(prompt: Any) -> Conversation | None:
    """Return the turns of a prompt column, of which the last one waits for its answer; None without one."""
    if prompt is None:
        return None
    if isinstance(prompt, str) and OPENING_MARKER.match(prompt):
        return split_dialogue(prompt)
    if isinstance(prompt, str) and not looks_like_messages(prompt):
        return Conversation([prompt], [None])
    return parse_conversation(prompt, "prompt")


def looks_like_messages(text: str) -> bool:
    """Return whether a text is JSON of messages; an answer may be JSON, too, but not with roles."""
    if not text.lstrip().startswith("[{"):
        return False
    value, problem = parse_json(text)
    return problem is None and all(isinstance(item, dict) and ("role" in item or "from" in item) for item in value)


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
