"""Critics: a model here with the adapter that is asked for, and an endpoint that misbehaves."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from chat_server import Reply, Server, completion, running
from fedrai.constitution.critics import PER_TOKEN, CriticAnswers, LocalCritic, RemoteCritic
from fedrai.endpoint import PATIENCE, Access
from fedrai.errors import ConstitutionError
from fedrai.model import LanguageModel
from fedrai.model.generate import Sampling, generate
from fedrai.records import Message

CANARY = "canary-4c20"  # a text that no error may quote


def talks(*texts: str) -> list[tuple[Message, ...]]:
    return [(Message("user", text),) for text in texts]


def ask(critic, *texts: str, **settings: Any) -> CriticAnswers:
    hooks = {name: settings.pop(name) for name in ("on_batch",) if name in settings}
    limit = settings.pop("max_new_tokens", 8)
    sampling = Sampling(**{"seed": 5} | settings)
    return critic.answer(talks(*texts), limit, sampling, **hooks)


# --- a model here ---------------------------------------------------------------------------------


@pytest.fixture
def model(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    tiny.load_adapter(adapter(tiny, 1))
    monkeypatch.setattr(tiny.chat, "decode", lambda ids: " ".join(map(str, ids)))
    return tiny


def adapter(model: LanguageModel, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(p.shape, generator=generator) for n, p in model.parameters.items()}


def direct(model: LanguageModel, *texts: str) -> tuple[str, ...]:
    return generate(model, talks(*texts), max_new_tokens=8, batch_size=2).answers


def test_a_local_critic_answers_as_the_model_with_its_adapter(model):
    texts, other = ("How far?", "Why is that so?", "x"), adapter(model, 2)
    own = direct(model, *texts)
    assert ask(LocalCritic(model, 2), *texts).answers == own
    with model.using(None):
        bare = direct(model, *texts)
    assert ask(LocalCritic(model, 2, lambda: model.using(None)), *texts).answers == bare
    assert ask(LocalCritic(model, 2), *texts).answers == own  # it is on again
    with_other = ask(LocalCritic(model, 2, lambda: model.using(other)), *texts).answers
    assert ask(LocalCritic(model, 2), *texts).answers == own  # and the model has its own again
    model.load_adapter(other)
    assert direct(model, *texts) == with_other
    assert len({own, bare, with_other}) == 3


def test_an_interrupt_restores_the_adapter(model):
    before, other = model.adapter(), adapter(model, 2)

    def stop(_done: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(LocalCritic(model, 1, lambda: model.using(other)), "a", "b", on_batch=stop)
    assert all(torch.equal(before[name], part) for name, part in model.adapter().items())


def test_only_conversations_that_fit_the_context_are_answered(model):
    critic = LocalCritic(model, 4)  # a context of 256 tokens, of which 8 are for the answer
    overhead = len(model.chat.prompt_ids(talks("")[0]))
    fits, too_long = "x" * (248 - overhead), "x" * (249 - overhead)
    texts = ask(critic, too_long, "How far?", fits)
    assert texts.answers[0] is None
    assert texts.answers[1:] == direct(model, "How far?", fits)
    assert texts.problems == {"longer than the context": 1}
    assert ask(critic, too_long).answers == (None,)
    assert ask(critic).answers == ()


def test_costs_are_those_of_the_generation(model):
    result = generate(model, talks("a", "bc"), max_new_tokens=8, batch_size=2)
    texts = ask(LocalCritic(model, 2), "a", "bc")
    assert texts.tokens == result.prompt_tokens + result.new_tokens
    assert texts.operations == result.operations > 0


# --- an endpoint ----------------------------------------------------------------------------------


def text(said: str, tokens: int = 7) -> Reply:
    return 200, completion(said, tokens)


def echo(body: dict[str, Any]) -> Reply:
    return text("To " + body["messages"][-1]["content"])


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server(echo)) as server:
        yield server


def remote(server: Server | str, **settings: Any) -> RemoteCritic:
    url = server if isinstance(server, str) else server.url
    given: dict[str, Any] = {"backoff": 0.01, "retries": 2, "timeout": 10} | settings
    return RemoteCritic(Access(url, **given), "org/Big")


def test_the_request_of_a_chat(server):
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    texts = remote(server).answer(
        [turns, turns], 40, Sampling(temperature=0.7, top_p=0.9, seed=2**31 - 1)
    )
    assert texts == CriticAnswers(("To c", "To c"), 14, 0.0, {})
    first, second = sorted(server.bodies, key=lambda body: -body["seed"])
    assert first == {
        "model": "org/Big", "max_tokens": 40, "temperature": 0.7, "top_p": 0.9, "seed": 2**31 - 1,
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                     {"role": "user", "content": "c"}],
    }  # fmt: skip
    assert second["seed"] == 0
    assert server.paths == ["/v1/chat/completions"] * 2


def test_order_concurrency_and_progress(server):
    def script(body: dict[str, Any]) -> Reply:
        time.sleep(0.002 * (len(server.bodies) % 5))
        return echo(body)

    server.script = script
    progress: list[tuple[int, int]] = []
    names = [str(i) for i in range(40)]
    texts = ask(remote(server, concurrency=4), *names, on_batch=lambda *seen: progress.append(seen))
    assert texts.answers == tuple(f"To {name}" for name in names)
    assert 2 <= server.most_at_once <= 4
    assert progress == [(i + 1, 40) for i in range(40)]


def after(failures: int, failure: Any, server: Server) -> Callable[[dict[str, Any]], Any]:
    """The failure so often for each text, then an answer."""
    calls: dict[str, int] = {}

    def script(body: dict[str, Any]) -> Any:
        prompts = body["messages"][-1]["content"]
        with server.lock:
            calls[prompts] = calls.get(prompts, 0) + 1
        return failure if calls[prompts] <= failures else echo(body)

    return script


@pytest.mark.parametrize(
    "failure", [(429, {}), (500, CANARY.encode()), (200, b"<html>"), (200, b"x" * (2**20 + 1))]
)
def test_temporary_failures_are_retried_without_loss(server, failure):
    server.script = after(2, failure, server)
    texts = ask(remote(server), "a", "b", "c")
    assert texts.answers == ("To a", "To b", "To c")
    assert texts.problems == {}
    assert len(server.bodies) == 9


def test_a_busy_endpoint_gets_the_pause_that_it_names(server):
    server.script = after(1, (429, {}, {"Retry-After": "1"}), server)
    assert ask(remote(server), "a").answers == ("To a",)
    assert server.times[1] - server.times[0] >= 0.95


RUBBISH = [
    (200, {}, "no chat completion in the reply"),
    (200, [], "no chat completion in the reply"),
    (200, 3, "no chat completion in the reply"),
    (200, {"choices": []}, "no chat completion in the reply"),
    (200, {"choices": [{"text": CANARY}]}, "no chat completion in the reply"),
    (200, {"choices": [{"message": {"content": None}}]}, "no text in the reply"),
    (200, {"choices": [{"message": {"content": [CANARY]}}]}, "no text in the reply"),
    (200, {"choices": [{"message": {"content": " \n"}}]}, "no text in the reply"),
    (200, {"choices": [{"message": {"content": "x" * (8 * PER_TOKEN + 1)}}]},
     "a text much longer than asked for"),
    (200, {"choices": [{"message": {"content": "a"}}], "usage": {"total_tokens": "many"}},
     "no chat completion in the reply"),
    (500, {"error": CANARY}, "status 500"),
    (400, {"error": CANARY}, "status 400"),
    (200, b"{", "status 200 and no usable reply"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "reply", "problem"), RUBBISH, ids=range(len(RUBBISH)))
def test_invalid_replies_are_counted_and_not_returned(server, status, reply, problem):
    server.script = lambda body: (
        (status, reply) if body["messages"][-1]["content"] == CANARY else echo(body)
    )
    texts = ask(remote(server, retries=1), "a", CANARY, "b", CANARY)
    assert texts.answers == ("To a", None, "To b", None)
    assert texts.problems == {problem: 2}
    assert ask(remote(server, retries=0), CANARY).answers == (None,)  # a greeting is answered


def dead(critic: RemoteCritic, match: str, *texts: str) -> ConstitutionError:
    with pytest.raises(ConstitutionError, match=match) as caught:
        ask(critic, *(texts or (CANARY, CANARY)))
    assert CANARY not in f"{caught.value.message} {caught.value.hint}"
    assert "finished batches are stored" in caught.value.hint
    return caught.value


@pytest.mark.parametrize(("status", "reply", "problem"), RUBBISH, ids=range(len(RUBBISH)))
def test_an_endpoint_without_any_answer_is_an_error_that_says_why(server, status, reply, problem):
    server.script = lambda _b: (status, reply)
    error = dead(remote(server, retries=0), f"does not answer: {problem}", *[CANARY] * 100)
    assert server.url in error.message
    assert len(server.bodies) <= PATIENCE + 8 + 1  # it does not try all of them


def test_an_endpoint_that_breaks_down_midway_is_an_error(server):
    server.script = lambda body: echo(body) if len(server.bodies) <= 20 else (500, {})
    dead(remote(server, concurrency=2, retries=1), "status 500", *[CANARY] * 200)
    assert len(server.bodies) < 60


def test_a_timeout_and_a_missing_server_are_errors(server):
    server.script = lambda _b: (server.released.wait(20), (500, {}))[1]
    start = time.monotonic()
    dead(remote(server, timeout=0.2, retries=0), r"no answer within 0\.2 s")
    assert time.monotonic() - start < 5
    server.http.server_close()
    dead(remote("http://127.0.0.1:9", retries=0), "no connection")


def test_a_wrong_key_or_model_is_an_error_at_once(server, monkeypatch):
    server.script = lambda _b: (401, {"error": CANARY})
    monkeypatch.setenv("CRITIC_KEY", "sk-secret")
    error = dead(remote(server, api_key_env="CRITIC_KEY"), "refuses access", *[CANARY] * 50)
    assert "CRITIC_KEY" in error.hint
    assert "sk-secret" not in error.message + error.hint
    assert len(server.bodies) <= 16
    server.script = lambda _b: (404, {})
    dead(remote(server), "no such model")


def test_plain_http_needs_a_setting():
    with pytest.raises(ConstitutionError, match=r"would be sent to example\.org unencrypted"):
        remote("http://example.org/v1")
    remote("http://example.org/v1", allow_plain_http=True)
