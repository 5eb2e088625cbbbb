"""What a tokenizer's own chat template writes before and after the message of a user (`data.template: chat`)."""

from typing import Any, NamedTuple

# Two characters for private use around a word: no template writes them by itself.
PLACEHOLDER = "\ue000the-message\ue001"
# Some templates tell the model what day it is. Rows must be the same tokens on every day, so it is always the one
# that Llama's templates name where they cannot know it.
SAME_DAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro +%}"


class ChatTexts(NamedTuple):
    """A rendered conversation around its one message, special tokens (also the one that opens a text) included."""

    before: str
    after: str  # up to where the assistant would begin to speak


def read_chat_texts(tokenizer: Any) -> ChatTexts | None:
    """Return what stands around a user's message in the chat template of a transformers tokenizer.

    None if there is no template, or none that shows a single user's message once and as it is.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        template = tokenizer.get_chat_template()
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": PLACEHOLDER}],
            chat_template=SAME_DAY + template if "strftime_now" in template else template,
            add_generation_prompt=True,
            tokenize=False,
        )
    except Exception:  # a template is a program of its own, which raises what it likes
        return None
    parts = str(rendered).split(PLACEHOLDER)
    return ChatTexts(*parts) if len(parts) == 2 else None
