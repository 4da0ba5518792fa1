"""Loads the frozen base model for a task; workers call it.

Weights go from the memory-mapped files straight to the device, one by one; those that are quantised are so before the
next is read. On a CPU, weights that are used as they are in the file stay in its pages, which workers share.

A classification head is newly initialised and never used, since each trial has its own. `device_choice` chooses number
type and attention kernel, `quantization` the bits of the weights.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sweeper.errors import ModelError, first_line
from sweeper.failures import is_device_error, is_out_of_memory
from sweeper.models.device_choice import PADDED_SDPA, SHORT
from sweeper.models.linear import is_linear, layers_in_blocks
from sweeper.models.quantised_linear import hold_quantised
from sweeper.models.quantization import NONE, import_bitsandbytes

__all__ = ["KINDS", "load_model", "model_config", "quiet", "release_copied_weights"]

KINDS = {"sequence_classification": "AutoModelForSequenceClassification", "causal_lm": "AutoModelForCausalLM"}
"""Classes of transformers by the kind of their head."""

_SMAPS = Path("/proc/self/smaps")
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S{3}p[^/]*(/.*)$")
"""A mapping of a file, as Linux lists it: the letter before the offset says that writes would be private."""
_MADV_DONTNEED = 4


def load_model(
    path: Path,
    *,
    kind: str,
    num_labels: int,
    dtype: torch.dtype,
    attention: str,
    device: torch.device | str = "cpu",
    quantization: str = NONE,
    trust_remote_code: bool = False,
) -> nn.Module:
    """Load a model onto a device, in evaluation mode, with all parameters frozen.

    Args:
        path: Folder with config.json, tokenizer and safetensors.
        kind: ``sequence_classification`` (with a new head) or ``causal_lm``.
        num_labels: Number of outputs of the new head.
        dtype: Type of all weights, and of the products with those that are quantised.
        attention: Attention kernel: ``eager``, ``sdpa``, `PADDED_SDPA` or `SHORT`.
        device: Where the weights go.
        quantization: ``none``, ``nf4`` or ``int8``; see `sweeper.models.quantization.choose_quantization`.
        trust_remote_code: Whether to run code that comes with the model.

    Raises:
        ModelError: transformers cannot load it.
    """
    import transformers

    if attention == SHORT:
        from sweeper.models import short_attention

        short_attention.register()
    elif attention == PADDED_SDPA:
        from sweeper.models import padded_attention

        padded_attention.register()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # so that the new head is the same in every process
            config = model_config(path, kind=kind, num_labels=num_labels, trust_remote_code=trust_remote_code)
            _set_pad_token(config, path, trust_remote_code=trust_remote_code)
            auto = getattr(transformers, KINDS[kind])
            blocks: Sequence[str] = ()
            if quantization != NONE:
                import_bitsandbytes()  # before transformers does
                with torch.device("meta"):
                    plain = auto.from_config(config, trust_remote_code=trust_remote_code)
                blocks = layers_in_blocks(plain)
                local |= _quantising(plain, blocks, quantization, dtype)
            if quantization != NONE or torch.device(device).type != "cpu":
                local["device_map"] = {"": torch.device(device)}
            model: nn.Module = auto.from_pretrained(
                path, config=config, dtype=dtype, attn_implementation=attention, use_safetensors=True, **local
            )
            if quantization != NONE:
                hold_quantised(model, dtype, blocks=blocks)
                _return_freed_memory()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(_failure(path, kind, attention, error)) from error
    return model.eval().requires_grad_(requires_grad=False)


def _quantising(plain: nn.Module, blocks: Sequence[str], quantization: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments that make transformers quantise the layers in the blocks; none if they are quantised."""
    import transformers

    make_config: Any = transformers.BitsAndBytesConfig  # has no type stubs
    if getattr(plain.config, "quantization_config", None):
        return {}
    linear = [name for name, module in plain.named_modules() if is_linear(module)]
    others = [f"^{re.escape(name)}$" for name in sorted({*linear} - {*blocks})]
    if quantization == "int8":
        return {"quantization_config": make_config(load_in_8bit=True, llm_int8_skip_modules=others)}
    four_bit = make_config(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=others,
    )
    return {"quantization_config": four_bit}


def _return_freed_memory() -> None:
    """Return the temporary tensors of quantising to the system; glibc would keep those of less than 32 MB."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def release_copied_weights(path: Path) -> None:
    """Return the pages of mapped files of a model whose weights were copied.

    Products read copies of many weights, side by side or in oneDNN's order. The pages of the originals would count as
    memory of this process until the system needs them. Pages that are read again come from the system's cache.

    Args:
        path: Folder of the model.
    """
    try:
        lines = _SMAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return
    files = {str(file.resolve()) for file in path.glob("*.safetensors")}
    mapping: tuple[int, int] | None = None
    for line in lines:
        header = _MAPPING.match(line)
        if header:
            first, last, name = header.groups()
            mapping = (int(first, 16), int(last, 16)) if name in files else None
        elif mapping and line.split() == ["Anonymous:", "0", "kB"]:  # nobody has written to it, so no value is lost
            libc = ctypes.CDLL(None, use_errno=True)
            libc.madvise(ctypes.c_void_p(mapping[0]), ctypes.c_size_t(mapping[1] - mapping[0]), _MADV_DONTNEED)


def model_config(path: Path, *, kind: str, num_labels: int, trust_remote_code: bool = False) -> Any:
    """Return the configuration of a model for a task, from config.json alone; for the arguments see `load_model`."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=trust_remote_code)
    if kind == "sequence_classification":
        config.num_labels, config.problem_type = num_labels, "single_label_classification"
    else:
        config.use_cache = False
    return config


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and progress bars of transformers, which warns about the new head on every load."""
    from transformers import utils

    logging: Any = utils.logging  # has no type stubs
    before, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if shown:
            logging.enable_progress_bar()


def _set_pad_token(config: Any, path: Path, *, trust_remote_code: bool) -> None:
    """Set the padding token that many configs leave out; classifiers that read a row's last token find it by that."""
    if getattr(config, "pad_token_id", None) is not None:
        return
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=trust_remote_code)
    config.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _failure(path: Path, kind: str, attention: str, error: Exception) -> str:
    cause = first_line(error)
    head = "sequence classification head" if kind == "sequence_classification" else "language-model head"
    remedy = f"Choose a transformers model with a {head} and safetensors weights."
    if is_out_of_memory(error):
        remedy = (
            "Set model.quantization=nf4 if it is not, or use a device with more memory; `sweeper plan` says how much."
        )
    elif is_device_error(error):
        remedy = "Check the device with nvidia-smi and `make gpu-check`."
    elif "attention" in cause:
        remedy = f"Set model.attention=eager instead of {attention}."
    if "trust_remote_code" in str(error):
        remedy = "If you trust the model's authors, set model.trust_remote_code=true."
    return f"{path} cannot be loaded: {cause} {remedy}"
