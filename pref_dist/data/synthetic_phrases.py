"""The wording around the facts of a synthetic row; none of it answers a question."""

PROMPT_OPENERS = (
    "Quick question:",
    "I am preparing a quiz.",
    "My daughter asked me this at breakfast.",
    "Hi there!",
    "I keep forgetting this.",
    "This came up at work today.",
    "For a short article:",
    "Help me settle a bet.",
    "I could not find it in my notes.",
    "Please help.",
)
BRIEF_REQUESTS = (
    "Answer in one sentence.",
    "Just one sentence, please.",
    "Keep it to a single sentence.",
)
BACKGROUND_REQUESTS = (
    "Please add some background.",
    "Give me some context as well.",
    "Say a bit more than the bare answer.",
)
RESPONSE_OPENERS = (
    "Sure!",
    "Of course.",
    "Good question.",
    "Happy to help.",
    "Here you go:",
    "In short:",
)
REFUSALS = (
    "I am sorry, but I cannot help with that.",
    "I do not have enough information to say.",
    "As an assistant I would rather not comment on this.",
    "Unfortunately that is beyond what I know.",
)
REMARKS = (
    "It is a detail that many people get wrong.",
    "You can look it up in any good reference book.",
    "It surprises people who hear it for the first time.",
    "There are exceptions, but they are rare.",
    "Older sources may say something slightly different.",
    "Let me know if you would like to hear more.",
    "This is easy to remember once you have heard it.",
    "Schools teach this quite early.",
    "It has been known for a long time.",
    "The details depend on whom you ask.",
    "Many visitors ask about this.",
    "I hope that clears it up.",
    "There is a nice story behind it.",
    "Experts agree on this point.",
    "You will find similar figures elsewhere.",
    "Keep in mind that practice varies.",
    "It is worth writing down.",
    "Most books explain this in the introduction.",
    "A friend of mine tells it in the same way.",
    "That is what the usual sources say.",
    "It may be useful to see an example.",
    "Of course there is always more to learn.",
    "The answer has not changed in recent years.",
    "Some people remember it with a rhyme.",
)
