"""Find, fetch and load a base model, and add a fresh adapter."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedrai import assets
from fedrai.errors import DependencyError, ModelError
from fedrai.model.language import LanguageModel
from fedrai.model.lora import DEFAULT_LORA, Lora, linear_layers
from fedrai.model.pretrained import first_line, open_pretrained

EAGER_LENGTH = 128  # up to this length eager attention beats the fused kernel on CPUs (benchmarks/)
UPSTREAM = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a base model is loaded and computes; see a recipe's `[model]` and `[training]`.

    Attributes:
        dtype: `auto`, `bfloat16` or `float32`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        quantization: `none` or `nf4`.
        attention: `auto`, `eager`, `sdpa` or `flash_attention_2`.
        max_length: tokens of the longest training row; decides what `auto` attention is.
        gradient_checkpointing: whether layers are computed twice to save memory.
        compile_layers: whether layers are compiled.
    """

    dtype: str = "auto"
    device: str = "auto"
    quantization: str = "none"
    attention: str = "auto"
    max_length: int = EAGER_LENGTH
    gradient_checkpointing: bool = False
    compile_layers: bool = False


def load(
    spec: str,
    lora: Lora = DEFAULT_LORA,
    options: LoadOptions = LoadOptions(),
    *,
    progress: assets.Progress | None = None,
) -> LanguageModel:
    """Load a base model and add a fresh adapter.

    Args:
        spec: folder, hub id, `.gguf` file or a name from `fedrai assets list`.
        lora: settings of the adapter.
        options: number format, device and kernels.
        progress: shows downloads.

    Raises:
        ModelError: it is not a causal language model, or does not allow these settings.
        AssetError: it cannot be fetched.
    """
    folder = model_folder(spec, progress)
    base, tokenizer = load_base(folder, options)
    wrapped = _wrap(base, lora)
    if options.gradient_checkpointing:
        enable = getattr(base, "activation_checkpointing_enable", None)  # the name since 5.2x
        (enable or base.gradient_checkpointing_enable)({"use_reentrant": False})
    if options.compile_layers:
        for layer in base.get_decoder().layers:
            layer.compile(dynamic=True)
    wrapped.peft_config["default"].revision = _revision(spec)
    name = UPSTREAM.get(spec, _public_name(spec))
    return LanguageModel(wrapped, tokenizer, name, fingerprint(folder), _kernels(options, base))


def _kernels(options: LoadOptions, base: Any) -> tuple[str, str]:
    """Attention kernels for training and for inference."""
    if options.attention != "auto":
        return options.attention, options.attention
    usual = str(base.config._attn_implementation)  # Gemma 2 has eager attention only
    short = base.device.type == "cpu" and options.max_length <= EAGER_LENGTH
    return ("eager" if short else usual), usual


def load_base(folder: Path, options: LoadOptions) -> tuple[Any, Any]:
    """A frozen causal language model of transformers without an adapter, and its tokenizer.

    Raises:
        ModelError: the folder does not hold one.
    """
    from transformers import AutoModelForCausalLM

    device = pick_device(options.device)
    base, tokenizer = open_pretrained(
        AutoModelForCausalLM,
        folder,
        "a causal language model",
        dtype=pick_dtype(options.dtype, device),
        device_map={"": device} if device.type != "cpu" else None,
        attn_implementation=None if options.attention == "auto" else options.attention,
        **({} if options.quantization == "none" else {"quantization_config": _nf4(device)}),
    )
    if not getattr(tokenizer, "chat_template", None) and (folder / "chat_template.jinja").is_file():
        tokenizer.chat_template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return base.requires_grad_(False).eval(), tokenizer


def _wrap(base: Any, lora: Lora) -> Any:
    from peft import get_peft_model

    config = lora.config("CAUSAL_LM")
    try:
        with warnings.catch_warnings():  # about old names, tied layers, patterns without a match
            warnings.simplefilter("ignore")
            wrapped = get_peft_model(base, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise ModelError(
            f"adapter.target_modules {lora.target_modules!r} matches no layer of the model",
            hint=f"linear layers of this model: {', '.join(linear_layers(base))}",
        ) from error
    other = [n for n, p in wrapped.named_parameters() if p.requires_grad and not _is_factor(n, p)]
    if other:
        raise ModelError(
            f"only linear layers can have an adapter, {_layer(other[0])} is not linear",
            hint="leave it out of adapter.target_modules",
        )
    return wrapped


def _is_factor(name: str, parameter: torch.Tensor) -> bool:
    """Whether an adapter's parameter is a factor for a linear layer."""
    return parameter.dim() == 2 and (".lora_A." in name or ".lora_B." in name)


def _layer(name: str) -> str:
    return name.split(".lora_")[0].removeprefix("base_model.model.")


def _nf4(device: torch.device) -> Any:
    if device.type != "cuda":
        raise ModelError('model.quantization = "nf4" needs a CUDA device', hint='set it to "none"')
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "QLoRA needs bitsandbytes", hint="pip install 'fedrai[qlora]'"
        ) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def pick_device(device: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` names.

    Raises:
        ModelError: the name is not a device, or CUDA is not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ModelError(
            f"model.device is {device!r}, expected auto, cpu, cuda or cuda:N"
        ) from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"model.device is {device!r}, but torch finds no CUDA device", hint='use "auto"'
        )
    return place


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 if the hardware can multiply in it, else float32."""
    if dtype != "auto":
        return torch.bfloat16 if dtype == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return torch.float32
    return torch.bfloat16 if "amx_bf16" in flags or "avx512_bf16" in flags else torch.float32


def model_folder(spec: str, progress: assets.Progress | None = None) -> Path:
    """The folder of a model; a GGUF file is de-quantised once into a folder in the cache.

    Raises:
        ModelError: it is neither a folder nor a GGUF file.
    """
    path = assets.fetch(spec, progress=progress, instead=_spec_hint())
    if path.is_dir():
        return path
    if path.suffix != ".gguf":
        raise ModelError(f"{spec} is neither a model folder nor a .gguf file")
    key = hashlib.sha256(f"1 {assets.sha256_file(path)}".encode()).hexdigest()[:12]

    def build(folder: Path) -> None:
        if progress is not None:
            progress.start("de-quantising the GGUF, once", None)
        _dequantise(path, folder)
        if progress is not None:
            progress.stop()

    return assets.derive(f"{path.stem.lower()}-{key}", build)


def _spec_hint() -> str:
    names = [name for name, entry in assets.CATALOGUE.items() if ".gguf" in entry.spec]
    return f"Name a model's folder, a .gguf file, a hub id (org/name), or {', '.join(names)}."


def _read_gguf(gguf: Path) -> tuple[Any, Any]:
    """The model of a GGUF file in float32, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that has no switch
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32
            )
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # of any kind, for a damaged file
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(
            f"{gguf} is not a complete GGUF file of a language model ({reason})"
        ) from error
    return model, tokenizer


def _dequantise(gguf: Path, folder: Path) -> None:
    model, tokenizer = _read_gguf(gguf)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are plain now
    plain = type(model)(config).to(torch.bfloat16)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _public_name(spec: str) -> str:
    """The name of the base in an adapter: a hub id, or the last part of a local path."""
    ref = assets.parse(spec)
    if ref.scheme == "hf":
        return ref.name
    if ref.scheme == "path":
        return Path(ref.name).name
    return ref.label if ref.scheme == "url" else spec  # an address may hold a password


def _revision(spec: str) -> str | None:
    """The revision that a spec pins for a model of the hub."""
    ref = assets.parse(spec)
    return ref.revision or None if ref.scheme == "hf" and not ref.member else None


def fingerprint(folder: Path) -> str:
    """A digest of a model folder: sizes, small files, and the first megabyte of large ones."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        if file.stat().st_size < 2**20:
            digest.update(file.read_bytes())
        else:
            with file.open("rb") as opened:  # the header holds every tensor's name and shape
                digest.update(opened.read(2**20))
    return digest.hexdigest()
