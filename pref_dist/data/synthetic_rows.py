"""A synthetic preference set whose true probabilities, and so its Bayes-optimal log loss, are known.

The model that draws a row (all draws independent unless said otherwise):

1. A row has 1, 2 or 3 turns (`TURN_SHARES`). All turns of a row stay in one of ten domains of facts
   (`synthetic_facts`). A turn asks for one attribute of one subject, and in some rows for a format:
   one sentence, or background besides the answer (`FORMAT_SHARES`). No prompt stands in both parts:
   it is drawn again until its hash gives it to the row's part (`part_of`).
2. The two responses to a turn are of a pair of `Kind`s (`PAIR_SHARES`); a coin says which of the two
   sides is A, the same for all turns of a row. A response tells the fact that was asked for, another
   fact about the subject, the right attribute of another subject, a fact of another domain, it
   refuses, or it is empty. To a fact, sentences that state none are added (`REMARK_SHARES`), so that
   a few responses are several hundred tokens long (`LONG_SHARE`).
3. A response is worth `WORTH[kind]`, less `FORMAT_PENALTY` where the asked format was not kept.
   The worth of a row's response is the mean over its turns.
4. With d = worth(A) - worth(B), the label is drawn from Rao and Kupper's extension of the
   Bradley-Terry model to ties (JASA 62, 1967, pp. 194-204), in logistic form with threshold t:
   P(A) = sigmoid(d - t), P(B) = sigmoid(-d - t), P(tie) = 1 - P(A) - P(B).

Kind, format and so d can be read off the text, hence no model of the text can expect a lower log
loss than the mean entropy of these probabilities. Neither side is favoured (the coin),
and a sentence that is right for one prompt is wrong for another: only a reader that compares a
response with its prompt can tell who wins.
"""

import math
import random
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple, TypeVar

from pref_dist.data.folds import group_of
from pref_dist.data.synthetic_facts import DOMAINS, Domain
from pref_dist.data.synthetic_phrases import (
    BACKGROUND_REQUESTS,
    BRIEF_REQUESTS,
    PROMPT_OPENERS,
    REFUSALS,
    REMARKS,
    RESPONSE_OPENERS,
)

T = TypeVar("T")
Part = Literal["train", "test"]


class Kind(StrEnum):
    """How a response relates to what was asked."""

    ANSWER = "answer"
    OTHER_ATTRIBUTE = "other attribute"
    OTHER_SUBJECT = "other subject"
    OTHER_DOMAIN = "other domain"
    REFUSAL = "refusal"
    EMPTY = "empty"


class Format(StrEnum):
    """What a prompt asks of the form of the answer."""

    FREE = "free"
    BRIEF = "brief"
    BACKGROUND = "background"


# Of the turns: the kinds of the two responses, in either order.
PAIR_SHARES = {
    (Kind.ANSWER, Kind.ANSWER): 0.20,
    (Kind.ANSWER, Kind.OTHER_ATTRIBUTE): 0.05,
    (Kind.ANSWER, Kind.OTHER_SUBJECT): 0.08,
    (Kind.ANSWER, Kind.OTHER_DOMAIN): 0.52,
    (Kind.OTHER_DOMAIN, Kind.OTHER_DOMAIN): 0.04,
    (Kind.OTHER_DOMAIN, Kind.OTHER_SUBJECT): 0.02,
    (Kind.ANSWER, Kind.REFUSAL): 0.04,
    (Kind.OTHER_DOMAIN, Kind.REFUSAL): 0.02,
    (Kind.ANSWER, Kind.EMPTY): 0.03,
}
# In logits.
WORTH = {
    Kind.ANSWER: 6.0,
    Kind.OTHER_ATTRIBUTE: 2.0,
    Kind.OTHER_SUBJECT: 0.0,
    Kind.OTHER_DOMAIN: 0.0,
    Kind.REFUSAL: 0.0,
    Kind.EMPTY: -1.0,
}
FORMAT_SHARES = {Format.FREE: 0.8, Format.BRIEF: 0.1, Format.BACKGROUND: 0.1}
FORMAT_PENALTY = 1.0
TIE_THRESHOLD = 2.5
TURN_SHARES = {1: 0.85, 2: 0.13, 3: 0.02}
REMARK_SHARES = {0: 0.8, 1: 0.15, 2: 0.04, 4: 0.01}
PROMPT_OPENER_SHARE = 0.25
RESPONSE_OPENER_SHARE = 0.12
LONG_SHARE = 0.004  # of responses: 20 to 50 remarks
MODEL_NAMES = ("atlas-7b", "birch-13b", "cedar-70b", "delta-mini", "ember-large")


class Question(NamedTuple):
    """What one turn asks for."""

    domain: Domain
    subject: str
    attribute: int
    format: Format


class Response(NamedTuple):
    """One turn of one response: its text (None: an empty turn) and its worth in logits."""

    text: str | None
    worth: float


class SyntheticRow(NamedTuple):
    """One row with its true probabilities of A, B and tie; `winner` is the index of the drawn one."""

    id: str
    models: tuple[str, str]
    prompts: tuple[str, ...]
    responses_a: tuple[str | None, ...]
    responses_b: tuple[str | None, ...]
    probabilities: tuple[float, float, float]
    winner: int


def draw_rows(part: Part, num_rows: int, seed: int) -> list[SyntheticRow]:
    """Draw the rows of one part.

    Only `Random.random` is used, because Python promises its sequence across versions, and not
    that of `choice` or `shuffle`.
    """
    rng = random.Random(f"pref_dist.data.synthetic {seed} {part}")
    return [draw_row(rng, part, f"{part}-{seed}-{index:06d}") for index in range(num_rows)]


def draw_row(rng: random.Random, part: Part, row_id: str) -> SyntheticRow:
    questions, prompts = draw_prompts(rng, part)
    side_a, side_b = draw_sides(rng, questions)
    probabilities = label_probabilities(mean_worth(side_a) - mean_worth(side_b))
    return SyntheticRow(
        id=row_id,
        models=(pick(rng, MODEL_NAMES), pick(rng, MODEL_NAMES)),
        prompts=prompts,
        responses_a=tuple(response.text for response in side_a),
        responses_b=tuple(response.text for response in side_b),
        probabilities=probabilities,
        winner=draw_by_shares(rng, dict(enumerate(probabilities))),
    )


def draw_prompts(rng: random.Random, part: Part) -> tuple[list[Question], tuple[str, ...]]:
    while True:
        questions = draw_questions(rng)
        prompts = tuple(draw_prompt(rng, question) for question in questions)
        if part_of(prompts) == part:
            return questions, prompts


def part_of(prompts: Sequence[str]) -> Part:
    """Return which part may have a row's prompts: one in four of all that there are belongs to test."""
    return "test" if group_of(prompts) % 4 == 0 else "train"


def draw_questions(rng: random.Random) -> list[Question]:
    domain = pick(rng, DOMAINS)
    return [
        Question(
            domain,
            subject=pick(rng, tuple(domain.facts)),
            attribute=pick(rng, range(len(domain.questions))),
            format=draw_by_shares(rng, FORMAT_SHARES),
        )
        for _ in range(draw_by_shares(rng, TURN_SHARES))
    ]


def draw_prompt(rng: random.Random, question: Question) -> str:
    opener = pick(rng, PROMPT_OPENERS) if rng.random() < PROMPT_OPENER_SHARE else ""
    asked = pick(rng, question.domain.questions[question.attribute]).format(s=question.subject)
    requests = {Format.BRIEF: BRIEF_REQUESTS, Format.BACKGROUND: BACKGROUND_REQUESTS}.get(question.format, ("",))
    return join_sentences([opener, asked, pick(rng, requests)])


def draw_sides(rng: random.Random, questions: Sequence[Question]) -> tuple[list[Response], list[Response]]:
    """Draw the responses of A and B: a pair of kinds a turn, and one coin a row for which side is A."""
    sides: tuple[list[Response], list[Response]] = ([], [])
    for question in questions:
        kinds = draw_by_shares(rng, PAIR_SHARES)
        for side, kind in zip(sides, kinds, strict=True):
            side.append(draw_response(rng, question, kind))
    return sides if rng.random() < 0.5 else (sides[1], sides[0])


def draw_response(rng: random.Random, question: Question, kind: Kind) -> Response:
    if kind == Kind.EMPTY:
        return Response(None, WORTH[kind])
    if kind == Kind.REFUSAL:
        return Response(pick(rng, REFUSALS), WORTH[kind])
    domain, subject, attribute = draw_fact(rng, question, kind)
    fact = pick(rng, domain.answers[attribute]).format(s=subject, v=domain.facts[subject][attribute])
    opener = pick(rng, RESPONSE_OPENERS) if rng.random() < RESPONSE_OPENER_SHARE else ""
    remarks = draw_remarks(rng, domain)
    return Response(join_sentences([opener, fact, *remarks]), WORTH[kind] - format_penalty(question, len(remarks)))


def draw_fact(rng: random.Random, question: Question, kind: Kind) -> tuple[Domain, str, int]:
    """Return domain, subject and attribute of the fact that a response of this kind tells."""
    domain, subject, attribute, _ = question
    if kind == Kind.OTHER_ATTRIBUTE:
        return domain, subject, pick_other(rng, range(len(domain.questions)), attribute)
    if kind == Kind.OTHER_SUBJECT:
        return domain, pick_other(rng, tuple(domain.facts), subject), attribute
    if kind == Kind.OTHER_DOMAIN:
        domain = pick_other(rng, DOMAINS, domain)
        return domain, pick(rng, tuple(domain.facts)), pick(rng, range(len(domain.questions)))
    return domain, subject, attribute


def draw_remarks(rng: random.Random, domain: Domain) -> list[str]:
    is_long = rng.random() < LONG_SHARE
    num_remarks = 20 + int(rng.random() * 31) if is_long else draw_by_shares(rng, REMARK_SHARES)
    return [pick(rng, domain.notes if rng.random() < 0.3 else REMARKS) for _ in range(num_remarks)]


def format_penalty(question: Question, num_remarks: int) -> float:
    unkept = {Format.FREE: False, Format.BRIEF: num_remarks > 0, Format.BACKGROUND: num_remarks == 0}
    return FORMAT_PENALTY if unkept[question.format] else 0.0


def mean_worth(responses: Sequence[Response]) -> float:
    return sum(response.worth for response in responses) / len(responses)


def label_probabilities(difference: float) -> tuple[float, float, float]:
    """P(A), P(B), P(tie) for worth(A) - worth(B) in logits (Rao and Kupper, see the module)."""
    prob_a = 1.0 / (1.0 + math.exp(TIE_THRESHOLD - difference))
    prob_b = 1.0 / (1.0 + math.exp(TIE_THRESHOLD + difference))
    return prob_a, prob_b, 1.0 - prob_a - prob_b


def pick(rng: random.Random, items: Sequence[T]) -> T:
    return items[int(rng.random() * len(items))]


def pick_other(rng: random.Random, items: Sequence[T], excluded: T) -> T:
    return pick(rng, [item for item in items if item != excluded])


def draw_by_shares(rng: random.Random, shares: Mapping[T, float]) -> T:
    """Return one of the keys, each with its share; the shares sum to 1."""
    point = rng.random()
    for item, share in shares.items():
        point -= share
        if point < 0:
            return item
    return item  # the shares sum to a rounding error below 1


def join_sentences(sentences: Sequence[str]) -> str:
    """Join the sentences that aren't empty and give each a capital."""
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences if sentence)
