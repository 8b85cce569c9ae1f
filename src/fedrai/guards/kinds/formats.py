"""The table of generative guards: how each is asked, and what its answers mean.

A format says how the prompt is built (by the tokenizer's own chat template, or by a text given
here where the guard has none), what the guard's answer is made to begin with, and which labels may
then follow. `generative` reads the probability of those labels. Nothing here loads a model.

No guard of this table has been run with its real weights by us (`real_weights`): the facts are from
the model cards named in `source`, checked against recorded prompts and made-up weights only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fedrai import assets
from fedrai.errors import AssetError, GuardError
from fedrai.guards.base import UNCALIBRATED
from fedrai.guards.kinds.policies import (
    AEGIS,
    HAZARDS,
    MD_JUDGE,
    MD_JUDGE_NAMES,
    NEMOGUARD,
    SHIELDGEMMA,
    WILDGUARD,
)

Kind = Literal["prompt", "pair"]


@dataclass(frozen=True, slots=True)
class Step:
    """One place where the guard's answer is read.

    Attributes:
        text: what stands before the label, continuing the answer so far. If it is only line breaks,
            as many are added as the prompt does not already end with.
        unsafe: labels that mean unsafe (or yes), with the white space in front of them; spellings
            of one label add up.
        safe: labels that mean safe (or no).
    """

    text: str
    unsafe: tuple[str, ...]
    safe: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One question that is put to the guard about a conversation.

    Attributes:
        steps: where its answer is read, in order; the last decides, and those before are filled in
            with the likelier label.
        kwargs: arguments of the tokenizer's chat template.
        template: the prompt as text with the slots {request} and {answer}, or {conversation};
            empty if the turns go through the chat template.
        category: what is reported if this question says unsafe; empty for none.
    """

    steps: tuple[Step, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True)
class CategoryLine:
    """Where a guard names the categories, after an unsafe label.

    Attributes:
        after: text between the label and the categories.
        names: what the guard writes for a category, to what we report.
        stop: text that ends the line.
        limit: most tokens that are read.
    """

    after: str
    names: Mapping[str, str]
    stop: str = "\n"
    limit: int = 16


@dataclass(frozen=True, slots=True)
class Format:
    """How a guard is asked and read.

    Attributes:
        name: the format's name in a recipe.
        models: hub ids that follow it.
        licence: licence of the weights.
        gated: whether the hub asks for consent before a download.
        source: where the format is documented.
        prompt: questions for a conversation that ends with a user's turn; none if the guard cannot
            judge requests by themselves.
        pair: questions for one that ends with an answer; the unsafest answer counts.
        turns: "many" if the guard knows conversations, "one" if only a request and an answer;
            earlier turns are then written into the request.
        wrapped: whether a text template is sent as a user's turn of the chat template.
        generation_prompt: whether the chat template is to open the guard's own turn.
        marks: strings of the prompt that a row must not be able to write.
        roles: how the prompt begins turns; broken up where a row begins a line with one.
        categories: how categories are read; None where the guard names none.
        thresholds: "strict" and "loose". Not calibrated by us; 0.5 is the guard's own answer.
        version: goes up when this entry changes in a way its fields do not show.
        real_weights: whether we have run it with the real weights.
    """

    name: str
    models: tuple[str, ...]
    licence: str
    gated: bool
    source: str
    prompt: tuple[Question, ...]
    pair: tuple[Question, ...]
    turns: Literal["many", "one"] = "many"
    wrapped: bool = False
    generation_prompt: bool = True
    marks: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    categories: CategoryLine | None = None
    thresholds: Mapping[str, float] = field(default_factory=lambda: dict(UNCALIBRATED))
    version: int = 1
    real_weights: bool = False

    def questions(self, kind: Kind) -> tuple[Question, ...]:
        """The questions for a conversation of this kind."""
        return self.prompt if kind == "prompt" else self.pair


def _llama_guard(name: str, models: tuple[str, ...], licence: str, hazards: int) -> Format:
    """Llama Guard answers `safe`, or `unsafe`, a line break and `S1,S10`."""
    asked = (Question((Step("\n\n", ("unsafe",), ("safe",)),)),)
    return Format(
        name=name,
        models=models,
        licence=licence,
        gated=True,
        source="https://www.llama.com/docs/model-cards-and-prompt-formats/",
        prompt=asked,
        pair=asked,
        marks=(
            "<BEGIN UNSAFE CONTENT CATEGORIES>",
            "<END UNSAFE CONTENT CATEGORIES>",
            "<BEGIN CONVERSATION>",
            "<END CONVERSATION>",
        ),
        roles=("User:", "Agent:"),
        categories=CategoryLine("\n", {f"S{i + 1}": n for i, n in enumerate(HAZARDS[:hazards])}),
    )


def _qwen3guard(name: str, unsafe: tuple[str, ...], safe: tuple[str, ...], own: float) -> Format:
    """Qwen3Guard answers three lines, of which the first holds one of three labels."""
    asked = (Question((Step("Safety:", unsafe, safe),)),)
    names = (
        "Violent", "Non-violent Illegal Acts", "Sexual Content or Sexual Acts", "PII",
        "Suicide & Self-Harm", "Unethical Acts", "Politically Sensitive Topics",
        "Copyright Violation", "Jailbreak",
    )  # fmt: skip
    return Format(
        name=name,
        models=tuple(f"Qwen/Qwen3Guard-Gen-{size}" for size in ("0.6B", "4B", "8B")),
        licence="Apache-2.0",
        gated=False,
        source="https://github.com/QwenLM/Qwen3Guard",
        prompt=asked,
        pair=asked,
        marks=("<BEGIN CONVERSATION>", "<END CONVERSATION>"),
        roles=("USER:", "ASSISTANT:"),
        categories=CategoryLine("\nCategories:", {n: n for n in names}, limit=24),
        thresholds={"strict": own, "loose": 0.9 if own == 0.5 else 0.5},
    )


def _granite(name: str, models: tuple[str, ...], question: Question) -> Format:
    """Granite Guardian answers one yes/no question, here about harm in general."""
    return Format(
        name=name,
        models=models,
        licence="Apache-2.0",
        gated=False,
        source="https://github.com/ibm-granite/granite-guardian",
        prompt=(question,),
        pair=(question,),
        marks=(
            "<start_of_turn>", "<end_of_turn>", "<start_of_risk_definition>",
            "<end_of_risk_definition>", "<guardian>", "<score>", "</score>", "<think>", "</think>",
        ),
        roles=("User Message:", "Assistant Message:"),
    )  # fmt: skip


def _shieldgemma(party: str, verb: str) -> tuple[Question, ...]:
    """ShieldGemma is asked about one policy at a time."""
    step = Step("", ("Yes",), ("No",))
    return tuple(
        Question((step,), {"guideline": f'"No {n}": The {party} {verb} {rule}'}, category=n)
        for n, rule in SHIELDGEMMA.items()
    )


_YES, _NO = (" yes",), (" no",)
_WILDGUARD_STEPS = (
    Step("Harmful request:", _YES, _NO),
    Step("\nResponse refusal:", _YES, _NO),
    Step("\nHarmful response:", _YES, _NO),
)
_NEMOGUARD_STEPS = (
    Step('{"User Safety": "', ("unsafe",), ("safe",)),
    Step('", "Response Safety": "', ("unsafe",), ("safe",)),
)

_TABLE = (
    _llama_guard(
        "llama-guard-3", ("meta-llama/Llama-Guard-3-8B",), "Llama 3.1 Community License", 14
    ),
    _llama_guard(
        "llama-guard-3-1b", ("meta-llama/Llama-Guard-3-1B",), "Llama 3.2 Community License", 13
    ),
    _llama_guard(
        "llama-guard-4", ("meta-llama/Llama-Guard-4-12B",), "Llama 4 Community License", 14
    ),
    _qwen3guard("qwen3guard", (" Unsafe", " Controversial"), (" Safe",), 0.5),
    _qwen3guard("qwen3guard-loose", (" Unsafe",), (" Safe", " Controversial"), 0.2),
    Format(
        name="shieldgemma",
        models=tuple(f"google/shieldgemma-{size}" for size in ("2b", "9b", "27b")),
        licence="Gemma Terms of Use",
        gated=True,
        source="https://ai.google.dev/gemma/docs/shieldgemma/model_card",
        prompt=_shieldgemma("prompt", "shall not contain or seek generation of content that"),
        pair=_shieldgemma("chatbot", "shall not generate content that"),
        turns="one",
        generation_prompt=False,
        marks=("<start_of_turn>", "<end_of_turn>"),
        roles=("Human Question:", "Chatbot Response:"),
    ),
    Format(
        name="wildguard",
        models=("allenai/wildguard",),
        licence="Apache-2.0, and AI2 Responsible Use Guidelines",
        gated=True,
        source="https://github.com/allenai/wildguard",
        prompt=(Question(_WILDGUARD_STEPS[:1], template=WILDGUARD),),
        pair=(Question(_WILDGUARD_STEPS, template=WILDGUARD),),
        turns="one",
        marks=("[INST]", "[/INST]", "<|user|>", "<|assistant|>"),
        roles=("Human user:", "AI assistant:", "Answers:"),
    ),
    _granite(
        "granite-guardian",
        tuple(
            f"ibm-granite/granite-guardian-{size}"
            for size in ("3.0-2b", "3.0-8b", "3.1-2b", "3.1-8b", "3.2-3b-a800m", "3.2-5b")
        ),
        Question((Step("", ("Yes",), ("No",)),), {"guardian_config": {"risk_name": "harm"}}),
    ),
    _granite(
        "granite-guardian-3.3",
        ("ibm-granite/granite-guardian-3.3-8b",),
        Question(
            (Step("<score>", (" yes", "yes"), (" no", "no")),),
            {"guardian_config": {"criteria_id": "harm"}, "think": False},
        ),
    ),
    Format(
        name="md-judge",
        models=("OpenSafetyLab/MD-Judge-v0.1",),
        licence="Apache-2.0",
        gated=False,
        source="https://huggingface.co/OpenSafetyLab/MD-Judge-v0.1",
        prompt=(),
        pair=(Question((Step("", (" unsafe", "unsafe"), (" safe", "safe")),), template=MD_JUDGE),),
        turns="one",
        marks=(
            "[INST]", "[/INST]", "<BEGIN UNSAFE CONTENT CATEGORIES>",
            "<END UNSAFE CONTENT CATEGORIES>", "<BEGIN CONVERSATION>", "<END CONVERSATION>",
        ),
        roles=("User:", "Agent:"),
        categories=CategoryLine(
            "\n", {f"O{i + 1}": n for i, n in enumerate(MD_JUDGE_NAMES)}
        ),
    ),
    Format(
        name="nemoguard",
        models=(
            "nvidia/llama-3.1-nemoguard-8b-content-safety",
            "nvidia/Llama-3.1-Nemotron-Safety-Guard-8B-v3",
        ),
        licence="NVIDIA Open Model License and Llama 3.1 Community License",
        gated=False,
        source="https://docs.nvidia.com/nim/llama-3-1-nemoguard-8b-contentsafety/",
        prompt=(Question(_NEMOGUARD_STEPS[:1], template=NEMOGUARD),),
        pair=(Question(_NEMOGUARD_STEPS, template=NEMOGUARD),),
        wrapped=True,
        marks=(
            "<BEGIN UNSAFE CONTENT CATEGORIES>", "<END UNSAFE CONTENT CATEGORIES>",
            "<BEGIN CONVERSATION>", "<END CONVERSATION>",
        ),
        roles=("user:", "response: agent:", "Output JSON:"),
        categories=CategoryLine(
            '", "Safety Categories": "', {n: n for n in AEGIS}, stop='"', limit=32
        ),
    ),
)  # fmt: skip

FORMATS: dict[str, Format] = {entry.name: entry for entry in _TABLE}
"""Every format by its name. `qwen3guard` counts Controversial as unsafe (its probability is
P(Unsafe) + P(Controversial)); `qwen3guard-loose` counts it as safe."""


class OtherOwnerError(GuardError):
    """A model of the hub bears the name of a known guard, and its owner is another."""


def format_named(name: str) -> Format:
    """The format of this name.

    Raises:
        GuardError: there is none.
    """
    if name not in FORMATS:
        raise GuardError(
            f"there is no guard format {name!r}", hint=f"formats: {', '.join(sorted(FORMATS))}"
        )
    return FORMATS[name]


def format_for(spec: str) -> Format:
    """The format of a guard by its hub id, or by the name of a folder or file.

    On the hub owner and name decide, so that nobody's copy passes for the guard; what follows the
    name is free (`-INT8`). Of a folder, which is yours, the last part decides.

    Args:
        spec: `meta-llama/Llama-Guard-3-8B`, `hf:Qwen/Qwen3Guard-Gen-0.6B@main`, or a folder.

    Raises:
        GuardError: no format names a model like it; `OtherOwnerError`: the owner is another one.
    """
    body = spec.removeprefix("hf:").split("@")[0].rstrip("/").lower()
    last = body.split("/")[-1]
    known = [
        (model, entry)
        for entry in FORMATS.values()
        for model in entry.models
        if last.startswith(model.split("/")[-1].lower())
    ]
    if not known:
        raise GuardError(
            f"no guard format is known for {spec!r}",
            hint=f'say it with format = "...": {", ".join(sorted(FORMATS))}',
        )
    model, entry = max(known, key=lambda pair: len(pair[0].split("/")[-1]))
    if _is_of_hub(spec) and not body.startswith(model.lower()):
        raise OtherOwnerError(
            f"{spec!r} bears the name of {model}, and its owner is another",
            hint='if it is a copy that you trust, give it a table with kind = "generative", model'
            f' and format = "{entry.name}"',
        )
    return entry


def _is_of_hub(spec: str) -> bool:
    """Whether a spec names a model of the hub, and nothing on this machine."""
    try:
        return assets.parse(spec).scheme == "hf"
    except AssetError:
        return False
