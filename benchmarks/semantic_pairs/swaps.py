"""Pairs from templates: a question asked in two ways, and the same with one thing swapped.

Labels are sound by construction. Deterministic: the same pairs on every machine.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKED = (
    ("How do I {}?", "How can I {}?"),
    ("How do I {}?", "What is the best way to {}?"),
    ("How do I {}?", "Can you tell me how to {}?"),
    ("How can I {}?", "Please explain how to {}."),
    ("How to {}", "How do you {}?"),
    ("What are the steps to {}?", "How do I {}?"),
    ("What's the way to {}?", "how can i {}"),
    ("Tell me how to {}.", "How would I {}?"),
)
"""Two ways to ask for a way."""

TASKS = (
    ("convert {} kilometres to miles", ("5", "12", "50", "130")),
    ("change the password of my {} account", ("Amazon", "Dropbox", "Twitter", "PayPal")),
    ("cook rice for {} people", ("two", "four", "six", "ten")),
    ("write a {} page essay about climate change", ("2", "3", "5", "10")),
    ("travel from {0} to {1}", (("Rome", "Milan"), ("Milan", "Rome"), ("Rome", "Naples"))),
    ("translate a letter from {0} into {1}", (("German", "English"), ("English", "German"))),
    ("{} the firewall on Windows 11", ("enable", "disable")),
    ("{} a column in a pandas DataFrame", ("add", "remove", "rename")),
    ("{} the brightness of my screen", ("increase", "decrease")),
    ("grow tomatoes {} a greenhouse", ("with", "without")),
    ("book a flight on {}", ("Monday", "Friday", "Sunday")),
    ("file my taxes before {}", ("March", "April", "October")),
    ("save {} a month", ("$50", "$500", "€50")),
    ("read a {} file in R", ("CSV", "JSON", "Parquet")),
    ("call `{}` in C++", ("std::sort", "std::find", "std::copy")),
    ("upgrade from Python {0} to Python {1}", (("3.9", "3.12"), ("3.12", "3.13"), ("3.9", "3.11"))),
    ("run {} kilometres", ("5", "10", "42")),
    ("lose {} kg in a month", ("2", "5", "10")),
    ("fix the error '{}'", ("Permission denied", "Connection refused", "Disk full")),
    ("select the {} row of a table in SQL", ("first", "last", "second")),
    ("invest {} euros", ("1,000", "10,000", "100,000")),
    ("get a visa for {}", ("India", "Brazil", "Vietnam", "Kenya")),
    ("remove {} stains from a shirt", ("coffee", "blood", "grass", "ink")),
    ("{} a file over SSH", ("upload", "download")),
    ("{} my email address on GitHub", ("show", "hide")),
    ("learn to play the {}", ("guitar", "piano", "violin", "drums")),
    ("train for a marathon in {}", ("12 weeks", "6 weeks", "12 months")),
    ("use `git {}`", ("rebase", "merge", "stash")),
    ("open port {} on Ubuntu", ("80", "443", "8080")),
    ("take a screenshot on {}", ("macOS", "Windows", "Android", "Linux")),
)
"""A thing to do, and what may be put in its place: each makes it another thing."""

FACTS = (
    (("What is the capital of {}?", "Which city is {}'s capital?", "Name the capital of {}."),
     ("Peru", "Chile", "Norway", "Ghana", "Nepal", "Mali", "Malawi")),
    (("When was {} born?", "What is the birth date of {}?", "On what date was {} born?"),
     ("Albert Einstein", "Marie Curie", "Isaac Newton", "Ada Lovelace")),
    (("How tall is {}?", "What is the height of {}?"),
     ("Mount Everest", "the Eiffel Tower", "Mont Blanc", "the Empire State Building")),
    (("How many people live in {}?", "What is the population of {}?", "What's {}'s population?"),
     ("Spain", "Portugal", "Sweden", "Swaziland", "Switzerland")),
    (("What is {}% of 240?", "How much is {}% of 240?", "Calculate {} percent of 240."),
     ("5", "15", "25", "50")),
    (("What is 17 {} 4?", "Calculate 17 {} 4."), ("+", "-", "*", "/")),
    (("Who wrote {}?", "Who is the author of {}?", "Which author wrote {}?"),
     ("1984", "Animal Farm", "Brave New World", "Ulysses", "Emma")),
    (("What does {} mean in medicine?", "What is the meaning of {} in medicine?"),
     ("hypertension", "hypotension", "tachycardia", "bradycardia")),
    (("Is {0} bigger than {1}?", "Is {0} larger than {1}?"),
     (("Jupiter", "Saturn"), ("Saturn", "Jupiter"), ("Mars", "Venus"))),
    (("Which is better for a beginner, {0} or {1}?", "For a beginner, is {0} or {1} better?"),
     (("Rust", "Go"), ("Rust", "Python"), ("Java", "Go"))),
    (("What is the weather in {0} {1}?", "How is the weather in {0} {1}?"),
     (("Oslo", "today"), ("Oslo", "tomorrow"), ("Lima", "today"))),
    (("Explain the difference between {0} and {1}.", "How do {0} and {1} differ?",
      "What is the difference between {1} and {0}?"),
     (("HTTP", "HTTPS"), ("HTTP", "FTP"), ("SSH", "FTP"))),
    (("Why do {} migrate?", "What is the reason that {} migrate?", "For what reason do {} migrate?"),
     ("birds", "whales", "butterflies", "salmon")),
    (("What is the boiling point of {}?", "At what temperature does {} boil?"),
     ("water", "ethanol", "mercury", "nitrogen")),
    (("Which foods {} people with diabetes eat?", "What foods {} diabetics eat?"),
     ("should", "shouldn't")),
    (("What did the {0} say about inflation {1}?", "What has the {0} said about inflation {1}?"),
     (("Fed", "in 2022"), ("Fed", "in 2023"), ("ECB", "in 2022"))),
)  # fmt: skip
"""Several ways to ask for a fact, and what may be put in its place."""

BROUGHT = (
    "Summarise this: {}", "Translate the following text to French: {}", "Fix the grammar: {}",
    "Classify the sentiment of this review:\n{}", "Explain this code:\n{}",
)  # fmt: skip
PASSAGES = (
    "The meeting was moved to Tuesday because the room was taken.",
    "The meeting was moved to Thursday because the room was taken.",
    "The food was great and the service was quick.",
    "The food was great but the service was slow.",
    "for i in range(10):\n    print(i)",
    "for i in range(11):\n    print(i)",
)

OTHER_LANGUAGES = (
    ("Wie hoch ist der Eiffelturm?", "Wie alt ist der Eiffelturm?"),
    ("Was ist die Hauptstadt von Peru?", "Was ist die Hauptstadt von Chile?"),
    ("Wie aktiviere ich das Konto?", "Wie deaktiviere ich das Konto?"),
    ("Quelle est la capitale de la France ?", "Quelle est la capitale de l'Italie ?"),
    ("Comment ouvrir un compte ?", "Comment fermer un compte ?"),
    ("¿Cómo se llama la capital de España?", "¿Cómo se llama la capital de Francia?"),
    ("¿Cuánto cuesta un vuelo a Madrid?", "¿Cuánto cuesta un vuelo a Lima?"),
    ("法国的首都是哪里？", "德国的首都是哪里？"),
    ("如何打开文件？", "如何关闭文件？"),
    ("Как открыть файл?", "Как закрыть файл?"),
    ("日本の首都はどこですか？", "韓国の首都はどこですか？"),
    ("What does 😂 mean?", "What does 😭 mean?"),
)
"""Near, and not the same."""


def pairs() -> Iterator[tuple[str, str, str, bool]]:
    """Yield (group, question, other question, whether both ask the same)."""
    draw = random.Random(20261124)
    for task, fillings in TASKS:
        filled = [task.format(*f) if isinstance(f, tuple) else task.format(f) for f in fillings]
        for thing in filled:
            for ways in draw.sample(ASKED, 3):
                yield task, ways[0].format(thing), ways[1].format(thing), True
        for _ in range(3 * len(filled)):
            one, other = draw.sample(filled, 2)
            ways = draw.choice(ASKED)
            second = ways[0] if draw.random() < 0.5 else ways[1]
            yield task, ways[0].format(one), second.format(other), False
    for ways, fillings in FACTS:
        fills = [f if isinstance(f, tuple) else (f,) for f in fillings]
        for fill in fills:
            for i, way in enumerate(ways):
                for other_way in ways[i + 1 :]:
                    yield ways[0], _fill(way, fill), _fill(other_way, fill), True
        for _ in range(3 * len(fills)):
            one, other = draw.sample(fills, 2)
            yield ways[0], _fill(ways[0], one), _fill(draw.choice(ways), other), False
    for frame in BROUGHT:
        for i, passage in enumerate(PASSAGES):
            yield frame, frame.format(passage), frame.format(PASSAGES[i ^ 1]), False
    for one, other in OTHER_LANGUAGES:
        yield one, one, other, False


def _fill(way: str, fill: tuple[str, ...]) -> str:
    return way.format(*fill)
