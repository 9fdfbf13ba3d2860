"""The circuit breaker keeps calls from models that are down, and from no others."""

from __future__ import annotations

import threading
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from novellus_lab.errors import (
    AuthenticationError,
    BadRequestError,
    ContentFilteredError,
    ContextWindowExceededError,
    DeadlineExceededError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
from novellus_lab.routing.breaker import BreakerPolicy, CircuitBreaker

M = "gpt-4o"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def breaker(clock: Clock, **policy: float) -> CircuitBreaker:
    return CircuitBreaker(BreakerPolicy(**{"jitter": 0.0, **policy}), clock=clock, random=Random(0))


def call(b: CircuitBreaker, error: BaseException | None = None, model: str = M, **more: float):
    ticket = b.enter(model)
    assert ticket is not None
    if error is None:
        b.on_success(model, ticket)
    else:
        b.on_failure(model, ticket, error, **more)


def down() -> ProviderError:
    return ProviderUnavailableError("503", status_code=503)


def test_a_model_that_nobody_called_is_open_to_all(clock):
    b = breaker(clock)
    assert b.allows(M) is None
    assert b.wait_s(M) == 0
    assert b.state() == {}


def test_failures_in_a_row_open_it_and_other_models_go_on(clock):
    b = breaker(clock)
    for _ in range(4):
        call(b, down())
    assert b.allows(M) is None
    call(b, down())
    assert "circuit open" in b.allows(M)
    assert "ProviderUnavailableError" in b.allows(M)
    assert b.enter(M) is None
    assert b.wait_s(M) == 5
    assert b.allows("other") is None


def test_a_share_of_failures_opens_it_once_there_are_enough_calls(clock):
    b = breaker(clock, consecutive_failures=1_000)
    for _ in range(4):
        call(b)
        call(b, down())
    assert b.allows(M) is None  # half of them failed, and they are but eight
    call(b)
    assert b.allows(M) is None
    call(b, down())
    assert b.allows(M) is not None


def test_a_few_failures_among_many_calls_leave_it_closed(clock):
    b = breaker(clock)
    for number in range(400):
        call(b, down() if number % 3 == 0 else None)
    assert b.allows(M) is None
    assert b.state()[M].failure_share == pytest.approx(1 / 3, abs=0.01)


def test_old_calls_lose_their_weight(clock):
    b = breaker(clock, consecutive_failures=1_000, half_life_s=30)
    for _ in range(100):
        call(b)
    clock.now += 30 * 10  # a tenth of a call is left of them
    for number in range(10):
        assert b.allows(M) is None, number
        call(b, down())
    assert b.allows(M) is not None


def test_probes_after_the_cooldown_close_it_when_all_succeed(clock):
    b = breaker(clock, probes=2)
    for _ in range(5):
        call(b, down())
    clock.now += 4.99
    assert b.allows(M) is not None
    clock.now += 0.02
    assert b.allows(M) is None
    assert b.state()[M].state == "half_open"
    first, second = b.enter(M), b.enter(M)
    assert first is not None
    assert second is not None
    assert "probing" in b.allows(M)
    assert b.enter(M) is None
    b.on_success(M, first)
    assert b.state()[M].state == "half_open"
    b.on_success(M, second)
    assert b.state()[M].state == "closed"
    assert b.allows(M) is None


def test_a_probe_that_fails_doubles_the_cooldown_up_to_its_most(clock):
    b = breaker(clock, max_cooldown_s=30)
    for _ in range(5):
        call(b, down())
    waits = [b.wait_s(M)]
    for _ in range(4):
        clock.now += b.wait_s(M)
        call(b, down())
        waits.append(b.wait_s(M))
    assert waits == [5, 10, 20, 30, 30]
    clock.now += 30
    call(b)
    call(b)
    for _ in range(5):
        call(b, down())
    assert b.wait_s(M) == 5  # once closed it starts anew


def test_one_probe_that_fails_outweighs_one_that_succeeds(clock):
    b = breaker(clock)
    for _ in range(5):
        call(b, down())
    clock.now += 5
    first, second = b.enter(M), b.enter(M)
    b.on_success(M, first)
    b.on_failure(M, second, down())
    assert b.state()[M].state == "open"


def test_calls_from_before_are_heard_no_more(clock):
    b = breaker(clock)
    early = [b.enter(M) for _ in range(7)]
    for ticket in early[:5]:
        b.on_failure(M, ticket, down())
    assert b.state()[M].state == "open"
    b.on_success(M, early[5])
    assert b.state()[M].state == "open"
    clock.now += 5
    b.on_failure(M, early[6], down())
    assert b.state()[M].state == "half_open"
    assert b.wait_s(M) == 0


def test_an_abandoned_probe_gives_its_place_to_another(clock):
    b = breaker(clock, probes=1)
    for _ in range(5):
        call(b, down())
    clock.now += 5
    ticket = b.enter(M)
    assert b.enter(M) is None
    b.on_abandoned(M, ticket)
    call(b)
    assert b.state()[M].state == "closed"


def test_a_probe_that_is_never_heard_of_does_not_block_for_ever(clock):
    b = breaker(clock, probes=1, probe_timeout_s=120)
    for _ in range(5):
        call(b, down())
    clock.now += 5
    assert b.enter(M) is not None
    clock.now += 119
    assert b.enter(M) is None
    clock.now += 2
    assert b.allows(M) is None
    call(b)
    assert b.state()[M].state == "closed"


@pytest.mark.parametrize(
    "error",
    [
        BadRequestError("malformed", status_code=400),
        ContextWindowExceededError("too long", status_code=400),
        ContentFilteredError("no", status_code=400),
    ],
)
def test_a_refused_request_shows_that_somebody_is_there(clock, error):
    b = breaker(clock, probes=1)
    for _ in range(50):
        call(b, error)
    assert b.allows(M) is None
    for _ in range(5):
        call(b, down())
    clock.now += 5
    call(b, error)
    assert b.state()[M].state == "closed"


def test_what_is_not_the_providers_fault_counts_for_nothing(clock):
    ours = RateLimitError("our own limit", retry_after_s=9)
    ours.never_sent = True
    b = breaker(clock)
    for error in (ours, KeyboardInterrupt(), ProviderError("the adapter failed"), ValueError()):
        for _ in range(20):
            call(b, error)
    assert b.allows(M) is None
    assert b.state()[M].calls == 0


def test_a_refused_key_opens_it_at_once_and_for_long(clock):
    b = breaker(clock)
    call(b, AuthenticationError("401", status_code=401))
    assert "key" in b.allows(M)
    assert b.wait_s(M) == 300
    clock.now += 300
    call(b, AuthenticationError("401", status_code=401))
    assert b.wait_s(M) == 600
    for _ in range(10):
        clock.now += b.wait_s(M)
        call(b, AuthenticationError("401", status_code=401))
    assert b.wait_s(M) == 3_600
    b.reset(M)
    assert b.allows(M) is None


def test_a_rate_limit_cools_for_as_long_as_was_asked_and_is_no_failure(clock):
    b = breaker(clock)
    for _ in range(3):
        call(b)
    inside = b.enter(M)
    call(b, RateLimitError("429", retry_after_s=7))
    assert "rate limited" in b.allows(M)
    assert b.state()[M].state == "cooling"
    b.on_success(M, inside)
    assert b.wait_s(M) == 7
    clock.now += 7
    assert b.allows(M) is None
    assert b.state()[M].state == "closed"
    assert b.state()[M].consecutive_failures == 0


def test_rate_limits_without_a_word_double_until_an_answer_and_a_burst_counts_once(clock):
    b = breaker(clock)
    waits = []
    for _ in range(4):
        burst = [b.enter(M) for _ in range(10)]
        for ticket in burst:
            b.on_failure(M, ticket, RateLimitError("429"))
        waits.append(b.wait_s(M))
        clock.now += b.wait_s(M)
    assert waits == [5, 10, 20, 40]
    call(b)
    call(b, RateLimitError("429"))
    assert b.wait_s(M) == 5


def test_retry_after_is_honoured_up_to_a_bound(clock):
    b = breaker(clock)
    call(b, RateLimitError("429", retry_after_s=86_400))
    assert b.wait_s(M) == 3_600
    for _ in range(5):
        call(b, ProviderUnavailableError("503", status_code=503, retry_after_s=60), "other")
    assert b.wait_s("other") == 60


def test_a_deadline_counts_only_if_the_model_had_its_time(clock):
    b = breaker(clock)
    for _ in range(20):
        call(b, DeadlineExceededError("late"), waited_s=0.2)
        call(b, DeadlineExceededError("late"))
    assert b.allows(M) is None
    for _ in range(5):
        call(b, DeadlineExceededError("late"), waited_s=30)
    assert b.allows(M) is not None


def test_a_caller_may_insist_and_its_outcome_counts(clock):
    b = breaker(clock, probes=1)
    for _ in range(5):
        call(b, down())
    ticket = b.enter(M, force=True)
    assert ticket is not None
    b.on_success(M, ticket)
    assert b.state()[M].state == "closed"


def test_jitter_draws_the_time_open_out_and_never_shortens_it(clock):
    waits = set()
    for seed in range(50):
        b = CircuitBreaker(BreakerPolicy(jitter=0.2), clock=clock, random=Random(seed))
        for _ in range(5):
            call(b, ProviderTimeoutError("late"))
        waits.add(b.wait_s(M))
    assert len(waits) > 40
    assert min(waits) >= 5
    assert max(waits) <= 6


def test_threads_count_every_call(clock):
    b = breaker(clock, half_life_s=1e12)

    def work() -> None:
        for _ in range(2_000):
            call(b)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert b.state()[M].calls == pytest.approx(8_000)


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: no more probes than allowed, and no model lost for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.b = breaker(self.clock, probes=2, min_calls=3)
        self.open: list[tuple[int, str]] = []

    @rule()
    def enter(self) -> None:
        why = self.b.allows(M)
        state = self.b.state().get(M)
        ticket = self.b.enter(M)
        assert (ticket is None) == (why is not None)
        if ticket is not None:
            self.open.append((ticket, "closed" if state is None else state.state))

    @precondition(lambda self: self.open)
    @rule(
        data=st.data(),
        error=st.sampled_from([None, None, down(), RateLimitError("429", retry_after_s=3),
                               AuthenticationError("401"), BadRequestError("400"), "left"]),
    )  # fmt: skip
    def end(self, data, error) -> None:
        ticket, _ = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if error is None:
            self.b.on_success(M, ticket)
        elif error == "left":
            self.b.on_abandoned(M, ticket)
        else:
            self.b.on_failure(M, ticket, error)

    @rule(seconds=st.sampled_from([0.1, 3, 5, 40]))
    def wait(self, seconds) -> None:
        self.clock.now += seconds

    @invariant()
    def few_probes(self) -> None:
        if M in self.b.state() and self.b.state()[M].state == "half_open":
            epoch = self.b._circuits[M].epoch
            assert sum(ticket == epoch for ticket, _ in self.open) <= 2

    def teardown(self) -> None:
        for ticket, _ in self.open:
            self.b.on_abandoned(M, ticket)
        self.clock.now += 1e6
        for _ in range(2):
            call(self.b)
        assert self.b.allows(M) is None
        assert not self.b.state() or self.b.state()[M].state == "closed"


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
