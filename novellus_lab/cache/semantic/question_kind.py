"""What kind of answer a question wants: a way, a reason, a time, yes or no … or a task to be done.

English patterns over a question's words, in lower case, contractions written out. An unknown form has
the empty kind, which goes with every other.
"""

from __future__ import annotations

import re

_POLITE = re.compile(
    r"^(?:(?:hi|hello|hey|dear|ok|okay|so|well|and|but|please|kindly|thanks|there|sir|assistant|"
    r"quick question|quickly|briefly|just|now) )+"
    r"|(?: (?:please|thanks|thank you|thx|in short|in brief|briefly))+$"
)
_REQUEST = re.compile(
    r"^(?:(?:can|could|would|will) you (?:please |kindly |maybe |possibly )?"
    r"(?:help me (?:to )?(?=understand|find|write|fix|learn)|(?=tell|explain|describe|give|show|write|"
    r"list|name|summari[sz]e|translate|define|calculate|compute|compose|create|make me|suggest|"
    r"recommend|generate|compare|convert|provide|outline|teach|solve|help))"
    r"|i (?:would like|want|need|wish|d like|would love) "
    r"(?:to know|to understand|to learn|to find out|you to)(?: about)? "
    r"(?=how|what|why|when|where|who|which|if|whether|tell|explain|give|write|list)"
    r"|(?:do you know|can you tell me|please tell me|tell me|let me know|i wonder|i am wondering|"
    r"i was wondering|may i ask|can i ask|show me|explain to me|explain|describe|any idea|teach me) "
    r"(?=how|what|why|when|where|who|which|if|whether|the way))"
)

_PERSON = "(?:i|you|we|one|someone|somebody|a person|people)"
_KINDS: tuple[tuple[str, str], ...] = (
    (
        "howto",
        rf"how to|how (?:can|could|should|would|might|must|shall)|how (?:do|does|did) {_PERSON}"
        r"|(?:what is|what are|which is|what would be|tell me|show me|give me|is there|are there|i need)"
        r" (?:the |a |an |any |some |my )?(?:\w+ ){0,2}?"
        r"(?:ways?|methods?|steps?|process|procedure|command|trick|approach|technique|instructions?|"
        r"code|syntax) (?:to|of|for|in order to|that|which|i can|i could|with which)"
        r"|steps (?:to|for)|ways? to|what (?:must|should|can|could|do|does) (?:i|you|we|one|someone)"
        r"(?: need to)?(?: have to)? do (?:to|in order to)|i (?:want|need|would like|am trying|try) to ",
    ),
    (
        "why",
        r"why|how come|what (?:is |are |was |were )?(?:the )?(?:reasons?|causes?)"
        r"|what (?:causes|caused|makes|made|led to|leads to)|for what reason",
    ),
    (
        "when",
        r"when|(?:at |in |on |since |until |by )?(?:what|which) "
        r"(?:time|year|date|day|month|century|season)"
        r"|what is the (?:best |right |ideal )?(?:time|date|day|month|season) ",
    ),
    ("where", r"where|(?:in|at|to|from) (?:what|which) (?:place|country|city|location)"),
    (
        "who",
        r"who|whom|whose|by whom|(?:what|which) (?:person|artist|author|man|woman|scientist|actor)",
    ),
    ("howmany", r"how many|what (?:is |was )?(?:the )?number of|number of|count of"),
    ("howlong", r"how long|for how long|what is the duration"),
    ("howoften", r"how (?:often|frequently|regularly)|at what (?:interval|frequency)"),
    ("howfar", r"how far|what is the distance"),
    ("howold", r"how old|what is the age"),
    ("howmuch", r"how much|what is the (?:price|cost|amount)|what does .* cost"),
    (
        "degree",
        r"how (?:big|large|tall|high|deep|fast|hot|cold|heavy|wide|strong|hard|bad|good|small|thick|loud)",
    ),
    (
        "yesno",
        r"(?:is|are|am|was|were|do|does|did|can|could|will|would|should|has|have|had|may|might|must|"
        r"shall|isn't|aren't)(?: not)? (?!you (?:please|tell|explain|write|give|help))|is it |am i ",
    ),
    (
        "what",
        r"(?:what (?:is|are|was|were)|describe|explain|tell me(?: more)? about) "
        r"(?:the|some|good|best|common|my|your|his|her|its|their|our|typical|possible)|"
        r"what (?:is|are|was|were) (?:.{1,40})(?: made of| used for| known for| called)$",
    ),
    ("whatdo", r"what (?:do|does|did|should|can|could|must|will|would) (?:i|you|we|one|they|my)"),
    (
        "define",
        r"what (?:an? |the )?(?:\w+ ){1,4}(?:is|are|means)$|what (?:is|are|was|were|s)|what do(?:es)? (?:.{1,60}) (?:mean|stand for)|define|definition of|"
        r"tell me(?: more)? about|tell me|explain|describe|"
        r"give me (?:an? )?(?:introduction|overview|explanation)"
        r"|introduction to|overview of|an? (?:introduction|overview)",
    ),
    ("how", r"how|in what way"),
    ("which", r"(?:in |at |on |to |from |of |with |by |for )?(?:what|which)"),
)
_KIND = re.compile("|".join(f"(?P<{kind}>(?:{pattern})\\b)" for kind, pattern in _KINDS))
_LATER_KIND = re.compile(
    r"\b(?:(?P<howto>how (?:do|can|could|should|to)|what (?:should|can|do|must) (?:i|one|you) do)"
    r"|(?P<who>by whom)|(?P<why>why|for what reason)|(?P<when>in what year|since when|when$)"
    r"|(?P<where>where$))\b"
)
"""For statements that end in a question: "I lost my key, what should I do?"."""

_TASKS = {
    "write": "write", "compose": "write", "draft": "write", "create": "write", "generate": "write",
    "summarize": "summarize", "summarise": "summarize", "translate": "translate", "list": "list",
    "name": "list", "enumerate": "list", "calculate": "calculate", "compute": "calculate",
    "compare": "compare", "rewrite": "rewrite", "rephrase": "rewrite", "paraphrase": "rewrite",
    "classify": "classify", "extract": "extract", "fix": "fix", "debug": "fix", "correct": "fix",
    "analyze": "analyze", "analyse": "analyze", "convert": "convert", "solve": "solve",
    "prove": "prove", "review": "review", "criticize": "review", "optimize": "optimize",
    "refactor": "optimize", "implement": "implement", "simplify": "simplify", "expand": "expand",
    "shorten": "shorten", "proofread": "proofread", "suggest": "suggest", "recommend": "suggest",
}  # fmt: skip
_SAYING = tuple(
    f"how {do} {who} say " for do in ("do", "would", "can") for who in ("you", "i", "we")
)
_LOOKED_AT_WORDS = 40

TASKS = frozenset(_TASKS.values())
"""Kinds that are things to do rather than to answer."""

HARD_KINDS = frozenset(
    [
        "why",
        "when",
        "where",
        "who",
        "how",
        "howto",
        "howmany",
        "howmuch",
        "howoften",
        "howfar",
        "howold",
        "howlong",
        "degree",
        "yesno",
    ]
)
"""Kinds of question whose answers are never one another's, but for neighbours."""

NEAR_KINDS = frozenset(
    frozenset(pair.split())
    for pair in [
        "howmany howlong",
        "howmany howoften",
        "howmany howfar",
        "howmany howold",
        "howlong howoften",
        "howmany howmuch",
        "howlong when",
        "how howto",
        "howmuch degree",
        "howlong degree",
        "howfar degree",
        "howold degree",
        "howmuch howlong",
        "howmany degree",
    ]
)
"""Those neighbours: "how many minutes" may be "how long"."""

_MOODS = (
    (
        "must",
        re.compile(
            r"(?:must|should|shall|ought)\b|(?:do|does|did) .{1,40}\b(?:have|need) to\b"
            r"|(?:am|are|is) .{1,30}\b(?:supposed|required|obliged|necessary|mandatory)\b"
        ),
    ),
    (
        "can",
        re.compile(
            r"(?:can|could|may|might)\b|(?:am|are|is) .{1,30}\b(?:able|allowed|possible|permitted)\b"
        ),
    ),
    ("will", re.compile(r"(?:will|would)\b")),
)


def kind_of(words: list[str]) -> str:
    """Return the kind of a question, or of task; empty where its form is unknown."""
    line = _POLITE.sub("", " ".join(words[:_LOOKED_AT_WORDS]))
    for _ in range(2):  # "could you please tell me how …"
        asked = _REQUEST.sub("", line, count=1)
        if asked == line:
            break
        line = _POLITE.sub("", asked.lstrip())
    task = _task(line)
    if task is not None:
        return task
    match = _KIND.match(line) or _LATER_KIND.search(line)
    return (match.lastgroup or "") if match is not None else ""


def mood_of(words: list[str]) -> str:
    """Return what a yes-or-no question asks for: what can, must or will be; or empty."""
    line = " ".join(words[:20])
    return next((mood for mood, pattern in _MOODS if pattern.match(line)), "")


def _task(line: str) -> str | None:
    if line.startswith(_SAYING):
        return "translate"
    if line.startswith(("i need a ", "i want a ")):
        return "write"
    first, _, rest = line.partition(" ")
    if first in ("give", "show", "tell", "make") and rest.startswith("me "):
        nouns = rest[3:].split()[:3]
        if "list" in nouns:
            return "list"
        if "summary" in nouns:
            return "summarize"
        if first in ("give", "make") and nouns[:1] and nouns[0] in ("a", "an"):
            about = {"introduction", "overview", "explanation", "example", "idea", "list"}
            return None if about & set(nouns) else "write"
    return _TASKS.get(first)
