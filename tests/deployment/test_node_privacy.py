"""A node's own noise, its account of what it has sent, and what its policy wants of a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, Metadata, RecordDict

pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")

from driver import write_rows

# isort: split
from fedrai.deployment.node import NodeApp
from fedrai.deployment.offer import check_offer, make_offer, read_offer
from fedrai.deployment.worker import reply_of
from fedrai.federation import protocol
from fedrai.federation.client import RefusedTaskError
from fedrai.federation.flower_internals import set_task_identity
from fedrai.federation.privacy.accounting import epsilon_of
from fedrai.federation.protocol import Reason, Update
from fedrai.federation.run import preparation
from fedrai.model import LanguageModel
from fedrai.recipe.sections import Node, Offer, Recipe

NODE = """\
name = "clinic"
device = "cpu"
[data]
sources = [{path = "rows.jsonl"}]
[policy]
filter = "any"
"""
CLIENT = {"noise": "client", "clip": 0.5, "noise_multiplier": 4.0}
SERVER = {**CLIENT, "noise": "server"}
ONE, TWO = (epsilon_of({4.0: rounds}, 1e-5) for rounds in (1, 2))


def document(fingerprint: str, privacy: dict[str, Any], rounds: int = 2) -> str:
    table = {
        "model": {"base": "tiny", "dtype": "float32"},
        "adapter": {"rank": 4},
        "data": {"sources": [{"path": "none.jsonl"}], "max_length": 96},
        "training": {"local_steps": 1, "batch_size": 2},
        "federation": {"rounds": rounds, "weights": "uniform"},
        "privacy": privacy,
    }
    return make_offer(Recipe.model_validate(table), fingerprint, "run")


def offer(privacy: dict[str, Any], rounds: int = 2) -> Offer:
    return read_offer(document("f" * 8, privacy, rounds))


@pytest.mark.parametrize(
    ("policy", "privacy", "refused"),
    [
        ({}, {}, False),
        ({}, SERVER, False),
        ({"privacy": "required"}, {}, True),
        ({"privacy": "required"}, SERVER, False),
        ({"privacy": "client"}, SERVER, True),
        ({"privacy": "client"}, CLIENT, False),
        ({"max_epsilon": 100}, {}, True),
        ({"max_epsilon": TWO * 1.001}, SERVER, False),
        ({"max_epsilon": TWO * 0.999}, SERVER, True),
        ({"max_epsilon": TWO * 1.001, "delta": 1e-6}, CLIENT, True),
    ],
)
def test_a_policy_wants_noise(
    policy: dict[str, Any], privacy: dict[str, Any], refused: bool
) -> None:
    """Two rounds at multiplier 4; a smaller delta costs a larger epsilon."""
    data = {"sources": [{"path": "rows.jsonl"}]}
    rules = {"filter": "any", **policy}
    node = Node.model_validate({"name": "a", "data": data, "policy": rules})
    if not refused:
        check_offer(offer(privacy), node)
        return
    with pytest.raises(RefusedTaskError) as raised:
        check_offer(offer(privacy), node)
    assert raised.value.reason is Reason.PRIVACY_REFUSED


def test_amplification_is_the_servers_own_claim() -> None:
    """A node cannot see how many others were sampled, so it counts without."""
    data = {"sources": [{"path": "rows.jsonl"}]}
    rules = {"filter": "any", "max_epsilon": TWO * 0.999}
    node = Node.model_validate({"name": "a", "data": data, "policy": rules})
    with pytest.raises(RefusedTaskError):
        check_offer(offer({**SERVER, "amplification": True}), node)


def test_an_offer_holds_the_multiplier_that_the_run_uses() -> None:
    """The server's limit is found into a multiplier, which is all that a node needs."""
    recipe = Recipe.model_validate(
        {
            "model": {"base": "tiny"},
            "data": {"sources": [{"path": "none.jsonl"}]},
            "federation": {"weights": "uniform"},
            "privacy": {"noise": "client", "epsilon": 8},
        }
    )
    made = read_offer(make_offer(recipe, "f" * 8, "run", 3.25))
    assert (made.privacy.noise_multiplier, made.privacy.epsilon) == (3.25, 0)
    assert made.run
    assert read_offer(document("f" * 8, {})).run == ""


# --- a node that trains ---------------------------------------------------------------------------


class Clinic:
    """A node with a tiny model, asked as a server would."""

    def __init__(self, folder: Path, tiny: LanguageModel, policy: str) -> None:
        self.folder, self._tiny = folder, tiny
        write_rows(folder / "rows.jsonl", 6)
        (folder / "node.toml").write_text(NODE + policy)
        self.start = tiny.fresh_adapter(1)
        self.restart()

    def restart(self) -> None:
        self._app = NodeApp(self.folder / "node.toml")

    def ask(self, privacy: dict[str, Any], number: int = 1, seed: int = 1) -> Update | Reason:
        adapter = self._tiny.fresh_adapter(seed)
        offered = document(self._tiny.fingerprint, privacy)
        content = protocol.pack_task(number, adapter, offered)
        metadata = Metadata(1, "m", 1, 7, "", "1", 0.0, 600.0, "train")
        context = Context(1, 7, {}, RecordDict(), {})
        message = reply_of(self._app, Message(content, metadata=metadata), context)
        return protocol.read_reply(message, protocol.shapes_of(self.start))

    @property
    def releases(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.folder / "clinic.privacy.json").read_text())[
            "releases"
        ]
        return found


@pytest.fixture
def clinic(tmp_path: Path, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    monkeypatch.setattr(preparation, "load_model", lambda *_: tiny)
    set_task_identity(1, 1, 7)
    return Clinic(tmp_path, tiny, f'privacy = "client"\nmax_epsilon = {TWO * 1.001}\n')


def test_a_node_sends_noise_of_its_own_and_no_numbers(clinic: Clinic, tiny: LanguageModel) -> None:
    update = clinic.ask(CLIENT)
    assert isinstance(update, Update)
    assert update.metrics == {"num-examples": 1.0}
    change = torch.cat([(update.adapter[n] - clinic.start[n]).flatten() for n in clinic.start])
    assert float(change.std()) == pytest.approx(0.5 * 4.0, rel=0.1)
    clinic.restart()
    again = clinic.ask(CLIENT)
    assert isinstance(again, Update)  # the same task, so the same bits, counted once
    assert all(torch.equal(update.adapter[n], again.adapter[n]) for n in clinic.start)
    assert len(clinic.releases) == 1
    (clinic.folder / "clinic.privacy.key").unlink()
    clinic.restart()
    other = clinic.ask(CLIENT)
    assert isinstance(other, Update)  # nobody can predict the noise without the node's key
    assert not torch.equal(*(u.adapter[min(clinic.start)] for u in (update, other)))


def test_a_server_that_asks_again_and_again_gets_no_more_than_the_budget(clinic: Clinic) -> None:
    """Other adapters to start from give other updates, each of which counts; two are allowed."""
    assert isinstance(clinic.ask(CLIENT, seed=1), Update)
    assert isinstance(clinic.ask(CLIENT, seed=2), Update)
    assert clinic.ask(CLIENT, seed=3) is Reason.PRIVACY_SPENT
    clinic.restart()
    assert clinic.ask(CLIENT, number=2) is Reason.PRIVACY_SPENT
    assert isinstance(clinic.ask(CLIENT, seed=2), Update)  # known already
    assert len(clinic.releases) == 2
    assert ONE < TWO
