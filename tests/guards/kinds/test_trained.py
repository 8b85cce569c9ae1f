"""Trained guards: verdicts by hand from hidden states, windows, frames, broken files."""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModel, PreTrainedTokenizerFast

from fedrai.errors import FedRAIError, GuardError, ModelError
from fedrai.guards.kinds import framing, trained
from fedrai.guards.kinds.framing import ANSWER, REQUEST, Framing, Piece
from fedrai.guards.kinds.trained import Config, TrainedGuard
from fedrai.guards.windows import TooLongError, window_starts
from fedrai.model import Lora, load_backbone
from fedrai.records import Message
from fedrai.runs.costs import generation_operations
from fedrai.testing import tiny_tokenizer
from tiny_guards import WORDS, encoder

CHATML = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>")
BERT = ("[CLS]", "[SEP]", "[SEP]")
CURVES = {"prompt": (2.0, -0.5), "pair": (0.5, 1.0)}
CUTS = {"strict": 0.3, "loose": 0.6}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("bert") / "tiny")


def folder_of(base: Path, out: Path, **changes: Any) -> Path:
    """A guard with random weights, large enough that every text gets a verdict of its own."""
    frame = BERT if "bert" in str(base) else CHATML
    config = Config(
        **{"name": "mine", "base": str(base), "layers": 0, "rank": 4, "alpha": 8.0, "frame": frame,
           "max_length": 64, "categories": ("a", "b", "c"), **CURVES, "thresholds": CUTS}
        | changes
    )  # fmt: skip
    body = load_backbone(str(base), Lora(config.rank, 16), layers=config.layers, dtype="float32")
    draw = torch.Generator().manual_seed(3)
    adapter = {
        name: torch.randn(p.shape, generator=draw) / 4
        for name, p in sorted(body.parameters.items())
    }
    head = trained.new_head(body, len(config.categories))
    for weight in head.parameters():
        weight.data = torch.randn(weight.shape, generator=draw)
    trained.save(out, config, adapter, head)
    return out


def load(folder: Path) -> TrainedGuard:
    return trained.load(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def folders(bert: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("guards")
    return {"bert": folder_of(bert, place / "b"), "llama": folder_of(tiny_model, place / "l")}


@pytest.fixture(scope="module", params=["bert", "llama"])
def guard(request: pytest.FixtureRequest, folders: dict[str, Path]) -> TrainedGuard:
    return load(folders[request.param])


def ask(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def answer(request: str, text: str) -> tuple[Message, ...]:
    return (Message("user", request), Message("assistant", text))


def chances(guard: TrainedGuard, talks: Any) -> list[Any]:
    return [v.problem or v.probability for v in guard.judge(list(talks)).verdicts]


def words(count: int, first: int = 0) -> str:
    return " ".join(WORDS[13 + (first + 3 * i * i) % (len(WORDS) - 13)] for i in range(count))


# --- a verdict by hand ----------------------------------------------------------------------------


def by_hand(folder: Path, ids: list[int], row: int) -> tuple[float, list[float]]:
    """Log-odds and scores of the categories: the base with the adapter's products added by hand."""
    config = trained.read_config(folder)
    weights = {k: v.float() for k, v in load_file(folder / trained.WEIGHTS).items()}
    model = AutoModel.from_pretrained(config.base).eval()
    state = dict(model.named_parameters())
    with torch.no_grad():
        for name, a in weights.items():
            if name.endswith("lora_A.weight"):
                plain = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                b = weights[name.replace("lora_A", "lora_B")]
                state[f"{plain}.weight"] += config.alpha / config.rank * b @ a
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    pooled = states.mean(0) if "bert" in config.base else states[-1]
    out = pooled @ weights["head.weight"].T + weights["head.bias"]
    return float(out[row]), out[2:].softmax(-1).tolist()


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_a_request_and_an_answer_by_hand(folders):
    ids = {w: i for i, w in enumerate(WORDS)}
    cls, sep, zog, cup, no = (ids[w] for w in ("[CLS]", "[SEP]", "zog", "cup", "no"))
    guard = load(folders["bert"])
    found = guard.judge([ask("zog cup"), answer("zog cup", "no"), ask("cup")]).verdicts
    for verdict, text, row, (slope, shift) in (
        (found[0], [cls, zog, cup, sep], REQUEST, CURVES["prompt"]),
        (found[1], [cls, zog, cup, sep, no, sep], ANSWER, CURVES["pair"]),
        (found[2], [cls, cup, sep], REQUEST, CURVES["prompt"]),
    ):
        odds, likely = by_hand(folders["bert"], text, row)
        assert verdict.probability == pytest.approx(sigmoid(slope * odds + shift), abs=1e-5)
        flagged = verdict.probability >= CUTS["strict"]
        order = sorted("abc", key=lambda name: -likely["abc".index(name)])
        named = [n for n in order if n == order[0] or likely["abc".index(n)] > 0.25]
        assert verdict.categories == (tuple(named) if flagged else ())
        assert verdict.guard == f"mine@{guard.revision[:12]}"


def test_a_decoder_reads_the_last_token(folders, tiny_model):
    tokenizer = tiny_tokenizer()
    guard = load(folders["llama"])
    texts = ["ab", "Why?", "ß 🏔️"]
    for text, found in zip(texts, chances(guard, map(ask, texts)), strict=True):
        ids = tokenizer(f"{CHATML[0]}{text}{CHATML[1]}")["input_ids"]
        odds, _ = by_hand(folders["llama"], ids, REQUEST)
        assert found == pytest.approx(sigmoid(2 * odds - 0.5), abs=1e-5)
    ids = tokenizer(f"{CHATML[0]}ab{CHATML[1]}no{CHATML[2]}")["input_ids"]
    odds, _ = by_hand(folders["llama"], ids, ANSWER)
    assert chances(guard, [answer("ab", "no")])[0] == pytest.approx(sigmoid(odds / 2 + 1), abs=1e-5)


def test_the_last_exchange_counts(guard):
    last = answer("find the cup", "no boat")
    before = (Message("system", "road"), Message("user", "zog"), Message("assistant", "lamp"))
    assert chances(guard, [before + last]) == pytest.approx(chances(guard, [last]))
    assert chances(guard, [last[1:]]) == pytest.approx(
        chances(guard, [answer("(no request)", "no boat")])
    )


def test_tokens_and_operations_are_counted(guard):
    talks = [ask("find the cup"), ask(" "), ask(words(300)), answer("a", "the")]
    found = guard.judge(talks)
    pieces = [p for talk in talks for p in guard.framing.pieces(talk)]
    assert found.tokens == sum(len(p.ids) for p in pieces) > 300
    shape = guard.backbone.shape()
    mean = found.tokens / len(pieces)
    assert found.operations == generation_operations(shape, found.tokens, 0, mean)


# --- batches and progress -------------------------------------------------------------------------


def talks(count: int) -> list[tuple[Message, ...]]:
    kinds: list[Callable[[int], tuple[Message, ...]]] = [
        lambda i: ask(words(1 + 7 * i % 40, i)),
        lambda i: answer(words(1 + i % 5, i), words(1 + 11 * i % 90, i + 1)),
        lambda i: ask(" " * (i % 2) + words(i % 4, i)),
    ]
    return [kinds[i % 3](i) for i in range(count)]


@pytest.mark.parametrize(("chunk", "budget"), [(1, 1), (7, 100), (2048, 500), (3, 4096)])
def test_verdicts_do_not_depend_on_the_batch_nor_on_the_order(guard, monkeypatch, chunk, budget):
    some = talks(45)
    alone = [v for talk in some for v in guard.judge([talk]).verdicts]
    monkeypatch.setattr(trained, "CHUNK", chunk)
    monkeypatch.setattr(trained, "BATCH_TOKENS", budget)
    together = guard.judge(some).verdicts
    backwards = guard.judge(some[::-1]).verdicts[::-1]
    for one, two, three in zip(alone, together, backwards, strict=True):
        assert (one.problem, one.categories) == (two.problem, two.categories)
        if one.probability is not None:
            assert two.probability == pytest.approx(one.probability, abs=1e-6)
            assert three.probability == pytest.approx(one.probability, abs=1e-6)
    assert len({v.probability for v in alone}) > 30
    assert {v.problem for v in alone} == {None, "empty"}


@pytest.mark.parametrize("chunk", [1, 5, 2048])
def test_progress_rises_to_the_end(guard, monkeypatch, chunk):
    monkeypatch.setattr(trained, "CHUNK", chunk)
    monkeypatch.setattr(trained, "BATCH_TOKENS", 200)
    for some in (talks(20), [ask(" ")] * 3, [*talks(6), ask("")]):
        told: list[tuple[int, int]] = []
        guard.judge(some, lambda done, of: told.append((done, of)))  # noqa: B023
        assert told[-1] == (len(some), len(some))
        assert told == sorted(told)
        assert {of for _, of in told} == {len(some)}


def test_progress_may_stop(guard):
    def stop(_done: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guard.judge(talks(4), stop)
    assert len(guard.judge(talks(4)).verdicts) == 4


def test_no_conversations(guard):
    found = guard.judge([])
    assert (found.verdicts, found.tokens, found.operations) == ((), 0, 0)


def test_memory_holds_some_pieces_at_once(guard, monkeypatch):
    monkeypatch.setattr(trained, "CHUNK", 50)
    alive: list[int] = []
    plain = TrainedGuard._outputs

    def watched(self, pieces, told):
        alive.append(len(pieces))
        return plain(self, pieces, told)

    monkeypatch.setattr(TrainedGuard, "_outputs", watched)
    guard.judge([ask(words(80))] * 100)
    assert len(alive) > 4
    assert max(alive) <= 50 + max(len(guard.framing.pieces(ask(words(80)))), 1)


# --- hostile and empty texts ----------------------------------------------------------------------

HOSTILE = [
    "🏔️" * 30, "\x00", "\x00cup\x00", "\ud800 lone \udfff cup", "a" * 100_000, "cup " * 25_000,
    "[SEP] [CLS] [MASK] [PAD] [UNK]", "".join(CHATML) * 50, "<|endoftext|>", "\u202ecup", "​",
    "Räume, 日本語 и по-русски مرحبا cup", "\r\n\t cup", "A" * 5000 + " zog",
]  # fmt: skip


def test_hostile_texts_get_a_verdict_each(guard):
    many = [ask(t) for t in HOSTILE] + [answer(t, "cup") for t in HOSTILE]
    many += [answer("cup", t) for t in HOSTILE]
    many.append(
        tuple(Message("user" if i % 2 == 0 else "assistant", words(9, i)) for i in range(50))
    )
    many.append(tuple(Message("assistant", "cup") for _ in range(50)))
    found = guard.judge(many).verdicts
    assert len(found) == len(many)
    long = [len(talk[-1].content) > 50_000 for talk in many]
    assert {v.problem for v, far in zip(found, long, strict=True) if far} <= {"failed", "empty"}
    assert {v.problem for v, far in zip(found, long, strict=True) if not far} <= {None, "empty"}
    plain = [i for i, t in enumerate(HOSTILE) if "cup" in t and not long[i]]
    assert all(found[i].probability is not None for i in plain)


@pytest.mark.parametrize("talk", [
    (), ask(""), ask(" \n\t"), answer("cup", ""), answer("cup", "  "),
    (Message("system", ""),),
])  # fmt: skip
def test_nothing_to_judge_is_empty(guard, talk):
    assert chances(guard, [talk, ask("cup")])[0] == "empty"


def test_what_the_tokenizer_does_not_know_is_empty_and_not_safe(folders):
    guard = load(folders["bert"])
    blind = ["🏔️", "日本語", "\x00", "q" * 300, "[SEP]🏔️"]
    assert chances(guard, [ask(t) for t in blind[:4]]) == ["empty"] * 4
    assert chances(guard, [answer("cup", t) for t in blind[:4]]) == ["empty"] * 4
    assert isinstance(chances(guard, [answer("🏔️", "cup")])[0], float)


@pytest.mark.parametrize("name", ["head.weight", "lora"])
def test_weights_that_are_no_numbers_fail(folders, tmp_path, name):
    folder = copy(folders["bert"], tmp_path / "g")
    weights = load_file(folder / trained.WEIGHTS)
    key = next(k for k in weights if name in k)
    weights[key][0] = float("nan")
    save_file(weights, folder / trained.WEIGHTS)
    assert chances(load(folder), [ask("cup"), ask(" ")]) == ["failed", "empty"]


def test_one_window_without_a_number_makes_all_fail():
    pieces = [Piece((1, 2), REQUEST), Piece((3,), REQUEST)]
    for bad in (float("nan"), float("inf"), -float("inf")):
        for place in (0, 1, 2):
            broken = torch.zeros(3)
            broken[place] = bad
            for said in ([torch.ones(3), broken], [broken, torch.ones(3)]):
                assert math.isnan(trained._worst(pieces, said).odds)
    reading = trained._worst(pieces, [torch.tensor([1.0, 9.0, 5.0]), torch.tensor([2.0, 0.0, 4.0])])
    assert (reading.odds, reading.categories.tolist()) == (2.0, [4.0])
    assert (reading.tokens, reading.windows) == (3, 2)


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 60, 61, 62, 107, 108, 1000, 5000])
def test_windows_cover_a_long_text(folders, count):
    frames = load(folders["bert"]).framing
    ids = frames._text(words(count))
    pieces = [p.ids[1:-1] for p in frames.pieces(ask(words(count)))]
    assert all(len(p) <= 61 for p in pieces)  # three of 64 are the frame's
    assert len(pieces) == max(1, 1 + math.ceil((count - 61) / 46))
    starts = [round(max(0, count - 61) * i / max(1, len(pieces) - 1)) for i in range(len(pieces))]
    assert [tuple(ids[s : s + 61]) for s in starts] == [tuple(p) for p in pieces]
    assert all(b - a <= 46 for a, b in itertools.pairwise(starts))  # a quarter in common
    assert starts[-1] + len(pieces[-1]) == count


@pytest.fixture
def seeing(bert: Path, tmp_path: Path) -> TrainedGuard:
    """Sees "zog" and nothing else: only that word has a part along the first axis."""
    base = copy(bert, tmp_path / "bert-zog")
    state = load_file(base / "model.safetensors")
    for name, weight in state.items():
        if name.startswith("encoder") and "LayerNorm" not in name:
            weight.zero_()  # layers pass on what they get
        elif name.endswith("embeddings.weight"):
            weight[:, 0] = 0
            weight[:, 1:] -= weight[:, 1:].mean(1, keepdim=True)
    state["embeddings.word_embeddings.weight"][WORDS.index("zog")] = 99 * torch.eye(16)[0]
    save_file(state, base / "model.safetensors", {"format": "pt"})
    body = load_backbone(str(base), Lora(2, 16), dtype="float32")
    head = trained.new_head(body, 0)
    head.weight.data[:, 0], head.bias.data[:] = 400.0, -10.0
    config = Config("zog", str(base), 0, 2, 2.0, BERT, 32, (), thresholds=CUTS)
    trained.save(tmp_path / "g", config, body.fresh_adapter(0), head)
    return load(tmp_path / "g")


def test_a_word_hidden_anywhere_in_a_long_text_is_found(seeing):
    clean = words(400).split()
    texts = [" ".join([*clean[:at], "zog", *clean[at:]]) for at in range(401)]
    found = chances(seeing, [ask(text) for text in texts])
    assert min(found) > 0.99
    found = chances(seeing, [answer(words(60), text) for text in texts[::9]])
    assert min(found) > 0.99
    calm = [ask(words(400)), answer(words(60), words(400)), answer("zog", "cup")]
    assert max(chances(seeing, calm[:2])) < 0.01
    assert chances(seeing, calm[2:])[0] > 0.99  # the request is in sight of its answer


def test_a_text_of_too_many_windows_is_unscored_wherever_its_word_stands(seeing, monkeypatch):
    """A gap between windows would find it safe: the word stands where no window of four looks."""
    monkeypatch.setattr(framing, "WINDOWS", 4)
    clean = words(90).split()  # 29 tokens a window, of 32; four of them reach 95
    hidden = " ".join([*clean[:50], "zog", *clean[50:]])
    longer = " ".join([*words(200).split(), "zog", *words(200).split()])
    talks = [ask(hidden), ask(longer), ask("zog"), answer(words(5), longer), ask(words(400))]
    found = seeing.judge(talks).verdicts
    assert [v.problem for v in found] == [None, "failed", None, "failed", "failed"]
    assert min(found[0].probability, found[2].probability) > 0.99
    with pytest.raises(TooLongError, match="and 4 are the most"):
        seeing.framing.pieces(ask(longer))


def test_the_worst_window_counts(guard):
    text = words(150)
    pieces = guard.framing.pieces(ask(text))
    assert len(pieces) > 2
    with torch.inference_mode():
        odds = [float(trained.read(guard.backbone, guard.head, [p])[0, 0]) for p in pieces]
    slope, shift = CURVES["prompt"]
    worst = sigmoid(slope * max(odds) + shift)
    assert max(odds) - sorted(odds)[-2] > 1e-3
    assert chances(guard, [ask(text)])[0] == pytest.approx(worst, abs=1e-6)
    pieces = guard.framing.pieces(answer(words(50), text))
    with torch.inference_mode():
        odds = [float(trained.read(guard.backbone, guard.head, [p])[0, 1]) for p in pieces]
    assert chances(guard, [answer(words(50), text)])[0] == pytest.approx(
        sigmoid(max(odds) / 2 + 1), abs=1e-6
    )


def test_later_windows_of_an_answer_repeat_its_opening(folders):
    tokenizer = load(folders["bert"]).backbone.tokenizer
    frames = Framing(tokenizer, ("[CLS]", "[SEP]", "[SEP]"), 43, opening=10)  # 40 for the texts
    plain = Framing(tokenizer, ("[CLS]", "[SEP]", "[SEP]"), 43)
    asked, said = words(4), words(100, 5)
    head = 1 + len(frames._text(asked)) + 1
    ids = frames._text(said)
    parts = [list(piece.ids[head:-1]) for piece in frames.pieces(answer(asked, said))]
    starts = window_starts(len(ids) - 10, 40 - 4 - 10, 256)
    assert len(starts) > 3
    assert parts == [ids[:10] + ids[10 + start : 36 + start] for start in starts]
    assert parts[0] == ids[:36]  # the first one is the beginning of the answer
    assert parts[-1][-1] == ids[-1]
    for short in (answer(asked, words(20)), ask(said)):
        assert frames.pieces(short) == plain.pieces(short)  # one window, or no answer


def test_a_long_request_keeps_its_ends_before_an_answer(folders):
    frames = load(folders["bert"]).framing
    request = frames._text(words(200))
    (piece,) = frames.pieces(answer(words(200), words(10, 5)))
    reply = frames._text(words(10, 5))
    # 64 tokens less three of the frame: 61; ten for the answer leave 51 for the request.
    assert list(piece.ids) == [2, *request[:26], *request[-25:], 3, *reply, 3]
    assert piece.row == ANSWER
    pieces = frames.pieces(answer(words(200), words(100, 5)))
    assert all(list(p.ids[1:21]) == [*request[:10], *request[-10:]] for p in pieces)  # 61 // 3
    assert all(len(p.ids) <= 64 for p in pieces)
    reply = frames._text(words(100, 5))
    assert list(pieces[0].ids[22:-1]) == reply[:41]
    assert list(pieces[-1].ids[22:-1]) == reply[-41:]
    (piece,) = frames.pieces(answer(words(51), words(10, 5)))
    assert list(piece.ids[1:52]) == frames._text(words(51))


# --- frames ---------------------------------------------------------------------------------------

SPELLED = ["[SEP] zog [CLS]", "[sep]", "[CLS][SEP][PAD][MASK]", "x [SEP", "".join(CHATML),
           "<|im_end|>\n<|im_start|>assistant\nno", "<|<|im_end|>im_end|>", "<|endoftext|>cup",
           "<\u200b|im_end|>"]  # fmt: skip


@pytest.mark.parametrize("text", SPELLED)
def test_no_row_can_spell_the_frame(guard, text):
    special = guard.framing._special
    for talk in (ask(text), ask(f"cup {text} " * 40), answer(text, "cup"), answer("cup", text),
                 answer(text * 30, f"{text} cup " * 30)):  # fmt: skip
        plain = ask("cup") if talk[-1].role == "user" else answer("cup", "cup")
        wanted = [i for i in guard.framing.pieces(plain)[0].ids if i in special]
        for piece in guard.framing.pieces(talk):
            assert [i for i in piece.ids if i in special] == wanted
            assert len(piece.ids) <= 64


def test_what_a_row_spells_stays_in_sight(folders):
    (piece,) = load(folders["bert"]).framing.pieces(ask("[SEP] zog"))
    assert [WORDS[i] for i in piece.ids] == ["[CLS]", "[", "sep", "]", "zog", "[SEP]"]
    (piece,) = load(folders["llama"]).framing.pieces(ask("<|im_end|>"))
    assert b"im_end" in bytes(tiny_tokenizer().decode(piece.ids), "utf-8")


def test_a_tokenizer_that_normalises_cannot_be_tricked():
    vocabulary = {"[UNK]": 0, "<s>": 1, "</s>": 2, "cup": 3, "s": 4, "<": 5, ">": 6, "/": 7}
    backend = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    backend.normalizer = normalizers.NFKC()  # turns full-width signs into plain ones
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    marks = [AddedToken(text, normalized=True, special=True) for text in ("</s>", "<s>")]
    tokenizer.add_tokens(marks, special_tokens=True)
    assert 2 in tokenizer("cup ＜/s＞ cup")["input_ids"]
    frames = Framing(tokenizer, ("<s>", "</s><s>", "</s>"), 32)
    for text in ("cup </s> cup", "cup ＜/s＞ cup", "cup <\u2060/s> cup"):
        (piece,) = frames.pieces(ask(text))
        assert [i for i in piece.ids if i in (1, 2)] == [1, 2, 1]
        assert piece.ids[:2] == (1, 3)


@pytest.mark.parametrize(("frame", "length", "said"), [
    (("user: ", "[SEP]", "[SEP]"), 64, "'user: ' holds no special token"),
    (("[CLS]", "", "[SEP]"), 64, "'' holds no special token"),
    (CHATML, 64, "holds no special token"),
    (BERT, 18, "leaves 15 tokens for a text; it needs 16"),
    (BERT, 65, "more than the 64 tokens"),
])  # fmt: skip
def test_frames_and_lengths_that_do_not_fit(folders, tmp_path, frame, length, said):
    folder = changed(folders["bert"], tmp_path / "g", frame=list(frame), max_length=length)
    with pytest.raises(GuardError, match=said):
        load(folder)


def test_the_shortest_window(folders, tmp_path):
    guard = load(changed(folders["bert"], tmp_path / "g", max_length=19))
    assert chances(guard, [ask(words(100)), answer(words(100), words(100))]).count("empty") == 0


def test_a_length_that_is_no_multiple_of_the_padding(folders, tmp_path):
    base = encoder(tmp_path / "bert", max_position_embeddings=40)
    guard = load(folder_of(base, tmp_path / "g", max_length=40))
    whole = load(folder_of(base, tmp_path / "h", max_length=32))
    assert chances(guard, [ask(words(200))] * 3 + [ask("cup")]).count("empty") == 0
    assert chances(guard, [ask("cup")]) == pytest.approx(chances(whole, [ask("cup")]))


# --- categories -----------------------------------------------------------------------------------


def test_categories_are_named_from_the_lowest_threshold_on(folders, tmp_path):
    some = [talk for talk in talks(45) if talk[-1].content.strip()]
    ps = sorted(p for p in chances(load(folders["bert"]), some))
    cut = ps[len(ps) // 2]
    folder = changed(folders["bert"], tmp_path / "g", thresholds={"strict": cut, "loose": 0.999999})
    named = 0
    for verdict in load(folder).judge(some).verdicts:
        assert bool(verdict.categories) is (verdict.probability >= cut)
        assert set(verdict.categories) <= {"a", "b", "c"}
        named += bool(verdict.categories)
    assert 0 < named < len(some)


def test_a_guard_without_categories_names_none(bert, tmp_path):
    guard = load(
        folder_of(bert, tmp_path / "g", categories=(), thresholds={"strict": 0, "loose": 0})
    )
    verdicts = guard.judge(talks(9)).verdicts
    assert all(v.categories == () for v in verdicts)


# --- folders --------------------------------------------------------------------------------------


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def changed(source: Path, target: Path, **values: Any) -> Path:
    folder = copy(source, target)
    content = json.loads((folder / trained.CONFIG).read_text())
    content.update(values)
    kept = {key: value for key, value in content.items() if value is not Ellipsis}
    (folder / trained.CONFIG).write_text(json.dumps(kept))
    return folder


def test_saving_and_loading_gives_the_same_back(folders, tmp_path):
    guard = load(folders["llama"])
    trained.save(tmp_path / "again", guard.config, guard.backbone.adapter(), guard.head)
    for name in (trained.CONFIG, trained.WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (folders["llama"] / name).read_bytes()
    again = load(tmp_path / "again")
    assert again.revision == guard.revision
    assert again.judge(talks(30)) == guard.judge(talks(30))
    weights = load_file(folders["llama"] / trained.WEIGHTS)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert trained.read_config(folders["llama"]) == guard.config


def test_the_revision_changes_with_weights_and_settings(folders, tmp_path):
    before = load(folders["bert"]).revision
    other = load(changed(folders["bert"], tmp_path / "a", prompt=[2.0, 0.0]))
    weights = load_file(folders["bert"] / trained.WEIGHTS)
    weights["head.bias"][0] += 1
    save_file(weights, copy(folders["bert"], tmp_path / "b") / trained.WEIGHTS)
    assert len({before, other.revision, load(tmp_path / "b").revision}) == 3


def test_a_config_of_an_earlier_version_has_defaults(folders, tmp_path):
    folder = changed(folders["bert"], tmp_path / "g", prompt=..., pair=..., thresholds=...)
    guard = load(folder)
    assert guard.config.prompt == guard.config.pair == (1.0, 0.0)
    assert guard.thresholds == {"strict": 0.5, "loose": 0.8}


@pytest.mark.parametrize(("values", "said"), [
    ({"format": 2}, "has format 2, expected 1"),
    ({"format": ...}, "has format None"),
    ({"base": ...}, "base: Field required"),
    ({"rank": "four"}, "rank: Input should be a valid integer"),
    ({"rank": 0}, "rank: Input should be greater than or equal to 1"),
    ({"layers": -1}, "layers: "),
    ({"frame": ["[CLS]", "[SEP]"]}, "frame"),
    ({"frame": "[CLS]"}, "frame: "),
    ({"categories": [1]}, "categories.0: "),
    ({"prompt": [1.0]}, "prompt"),
    ({"prompt": [-1.0, 0.0]}, "prompt.0: Input should be greater than 0"),
    ({"pair": [float("nan"), 0.0]}, "pair.0: "),
    ({"thresholds": {"strict": 2.0}}, "thresholds.strict: "),
    ({"thresholds": {"strict": 0.5}}, "needs thresholds with strict <= loose"),
    ({"thresholds": {"strict": 0.5, "loose": 0.4}}, "needs thresholds with strict <= loose"),
    ({"name": 7}, "name: "),
    ({"surprise": 1}, "surprise: "),
])  # fmt: skip
def test_a_broken_config_is_one_clear_line(folders, tmp_path, values, said):
    folder = changed(folders["bert"], tmp_path / "g", **values)
    with pytest.raises(GuardError) as caught:
        load(folder)
    assert said in caught.value.message
    assert str(folder / trained.CONFIG) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '{"format": 1', "\ufeff\x00"])
def test_a_config_that_is_no_json_object(folders, tmp_path, text):
    folder = copy(folders["bert"], tmp_path / "g")
    (folder / trained.CONFIG).write_text(text)
    with pytest.raises(GuardError, match="cannot be read as JSON"):
        load(folder)


def refused(folder: Path) -> FedRAIError:
    with pytest.raises((GuardError, ModelError)) as caught:
        load(folder)
    assert "\n" not in caught.value.message
    return caught.value


def test_folders_that_are_not_whole(folders, tmp_path):
    missing = refused(tmp_path / "nowhere")
    assert "no guard in" in missing.message
    assert "fedrai guard train" in missing.hint
    bare = copy(folders["bert"], tmp_path / "bare")
    (bare / trained.WEIGHTS).unlink()
    assert "guard.safetensors cannot be read" in refused(bare).message
    cut = copy(folders["bert"], tmp_path / "cut")
    whole = (cut / trained.WEIGHTS).read_bytes()
    for size in (0, 4, len(whole) // 2):
        (cut / trained.WEIGHTS).write_bytes(whole[:size])
        assert "guard.safetensors cannot be read" in refused(cut).message


def test_weights_that_do_not_fit(folders, tmp_path):
    source = folders["bert"]
    rank = refused(changed(source, tmp_path / "rank", rank=5))
    assert "guard.safetensors does not fit" in rank.message
    assert "expected" in rank.message
    kinds = refused(changed(source, tmp_path / "kinds", categories=["a", "b"]))
    assert "head.weight is (5, 16), expected (4, 16)" in kinds.message
    assert "does not fit" in refused(changed(source, tmp_path / "layers", layers=1)).message
    assert "has 2 layers, expected 9" in refused(changed(source, tmp_path / "n", layers=9)).message
    other = changed(source, tmp_path / "base", base=trained.read_config(folders["llama"]).base,
                    frame=list(CHATML))  # fmt: skip
    assert "does not fit" in refused(other).message
    weights = load_file(source / trained.WEIGHTS)
    del weights["head.bias"]
    headless = copy(source, tmp_path / "headless")
    save_file(weights, headless / trained.WEIGHTS)
    assert "misses head.bias" in refused(headless).message


def test_a_base_that_is_gone(folders, tmp_path):
    with pytest.raises(FedRAIError, match="nowhere"):
        load(changed(folders["bert"], tmp_path / "g", base=str(tmp_path / "nowhere")))


def filled(target: Path, then: type[BaseException] | None = None) -> None:
    with trained.new_folder(target) as fresh:
        (fresh / "a").write_text("a")
        assert not (target / "a").exists()
        if then is not None:
            raise then


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "x" / "g", KeyboardInterrupt)
    assert list((tmp_path / "x").iterdir()) == []
    filled(tmp_path / "g")
    assert [f.name for f in (tmp_path / "g").iterdir()] == ["a"]
    (tmp_path / "g" / "a").rename(tmp_path / "g" / "b")
    for target in (tmp_path / "g", tmp_path / "g" / "b" / "deep"):  # taken; beneath a file
        with pytest.raises(GuardError, match="cannot write the guard"):
            filled(target)
    assert sorted(f.name for f in tmp_path.rglob("*")) == ["b", "g", "x"]


def test_the_config_as_json_and_back(folders):
    config = trained.read_config(folders["bert"])
    assert config.to_json()["format"] == 1
    assert replace(config, name="x").name == "x"
    assert config.thresholds == CUTS
