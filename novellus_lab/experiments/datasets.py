"""The datasets that come with this package."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.numbers import last_number
from novellus_lab.experiments.workload import Item, Workload
from novellus_lab.providers.replay_data import recordings

if TYPE_CHECKING:
    from collections.abc import Callable


def _gsm8k() -> Workload:
    """Grade-school maths, with the right number where one of two recorded models found it.

    Where neither did (`expected` is None) their wrong numbers are known, and stand in
    `about["wrong"]`: leaving such questions out would flatter every model. `about["recorded"]` is
    RouteLLM's own verdict on the two, which takes $20.00 for another answer than 20.
    """
    items = []
    for number, (prompt, answers) in enumerate(recordings().items()):
        told = {model: last_number(answer.content) for model, answer in answers.items()}
        right = [told[model] for model, answer in answers.items() if answer.correct]
        wrong = sorted({str(told[m]) for m, a in answers.items() if not a.correct})
        items.append(
            Item(
                f"gsm8k-{number}",
                ({"role": "user", "content": prompt},),
                str(right[0]) if right and right[0] is not None else None,
                about={
                    "wrong": wrong,
                    "recorded": {f"replay/{model}": a.correct for model, a in answers.items()},
                },
            )
        )
    return Workload(
        "gsm8k",
        tuple(items),
        "GSM8K as in RouteLLM's evaluation (lm-sys/RouteLLM)",
        "Apache-2.0",
    )


DATASETS: dict[str, Callable[[], Workload]] = {"gsm8k": _gsm8k}


@cache
def built_in(name: str) -> Workload:
    """Return a dataset of this package.

    Raises:
        InvalidRequestError: there is none of that name.
    """
    if name not in DATASETS:
        raise InvalidRequestError(f"there is no dataset {name!r}; there are {', '.join(DATASETS)}")
    return DATASETS[name]()
