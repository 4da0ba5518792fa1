"""A trial in training: its spec, its vectors of parameters and moments, and how these are initialised and saved.

`worker` makes lanes, `pack` trains them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from sweeper.config.settings import LoraSettings
from sweeper.errors import StoreError
from sweeper.figures.hyperparameters import alpha
from sweeper.train.checkpoints import ADAPTER_METADATA, read_checkpoint, to_safetensors
from sweeper.train.layout import Layout
from sweeper.train.loss_scale import LossScale
from sweeper.types import AdapterFiles, Admission, Checkpoint, TrialSpec

__all__ = ["Lane", "derived_seed", "lora_scale"]

_WEIGHTS = "adapter_model.safetensors"
"""PEFT's name of an adapter's tensors."""


@dataclass(slots=True)
class Lane:
    """One trial of a pack, at its own rank.

    Attributes:
        layout: Where each matrix lies in the vectors. These are best kept in the memory of the host: a chunk trains a
            copy on the device (`bucket`).
        parameters: ``[P]`` float32.
        moment1: ``[P]`` float32, AdamW's first moment.
        moment2: ``[P]`` float32, AdamW's second moment.
        step: Optimizer updates so far.
        chunks_done: Chunks completed.
        loss_scale: Its own loss scale, which training in float16 uses.
    """

    spec: TrialSpec
    layout: Layout
    parameters: torch.Tensor
    moment1: torch.Tensor
    moment2: torch.Tensor
    step: int = 0
    chunks_done: int = 0
    loss_scale: LossScale = field(default_factory=LossScale)

    @classmethod
    def start(cls, spec: TrialSpec, shape: Layout, device: torch.device, *, head: torch.Tensor | None = None) -> Lane:
        """Start a trial from its seed.

        Initial values are those of PEFT: A uniform in ±1/sqrt(I) (kaiming_uniform with a = sqrt(5)), B zero, head
        weights normal with standard deviation 0.02, head biases zero. Each matrix has its own generator, so its values
        do not depend on which other layers are adapted.

        Args:
            spec: The trial.
            shape: Layout of the layers, at any rank.
            device: Device of the vectors.
            head: Values of the head's last layer (see `initial_head`); random if None.
        """
        layout = shape.with_rank(spec.lora.r)
        flat = torch.zeros(1, layout.size)
        for matrix, lora in zip(layout.views_a(flat), layout.lora, strict=True):
            bound = 1 / math.sqrt(lora.num_in)
            matrix.uniform_(-bound, bound, generator=_generator(spec.seed, lora.name))
        for (weight, _), layer in zip(layout.views_head(flat), layout.head, strict=True):
            weight.normal_(0, 0.02, generator=_generator(spec.seed, layer.name))
        if head is not None:
            flat[0, layout.size - len(head) :] = head
        parameters = flat[0].to(device)
        return cls(spec, layout, parameters, torch.zeros_like(parameters), torch.zeros_like(parameters))

    @classmethod
    def admit(
        cls, admission: Admission, shape: Layout, device: torch.device, *, head: torch.Tensor | None = None
    ) -> Lane:
        """Start the trial of an admission, or continue it from its checkpoint; `start` explains the arguments.

        Raises:
            StoreError: The checkpoint is damaged, or of another model or rank.
        """
        if admission.checkpoint is None:
            return cls.start(admission.spec, shape, device, head=head)
        try:
            tensors = read_checkpoint(admission.checkpoint)
            step = int(tensors["step"])
            # Copied: the tensors of a file are its pages, and the file may be deleted.
            parameters, moment1, moment2 = (
                tensors[name].to(device, torch.float32, copy=True) for name in ("parameters", "moment1", "moment2")
            )
        except (StoreError, KeyError, ValueError) as error:
            raise StoreError(f"checkpoint of trial {admission.spec.number} cannot be read: {error}") from error
        layout = shape.with_rank(admission.spec.lora.r)
        if any(len(value) != layout.size for value in (parameters, moment1, moment2)):
            raise StoreError(f"checkpoint of trial {admission.spec.number} is of another model or rank")
        scale = LossScale.of(tensors.get("loss_scale"))
        return cls(admission.spec, layout, parameters, moment1, moment2, step, admission.chunks_done, scale)

    @classmethod
    def from_adapter(cls, spec: TrialSpec, files: AdapterFiles, shape: Layout, device: torch.device) -> Lane:
        """Return a lane with the parameters of an adapter, the inverse of `adapter_files`; it can only be evaluated.

        Args:
            spec: The trial that the adapter is of.
            files: The adapter.
            shape: Layout of the layers, at any rank.
            device: Device of the vectors.

        Raises:
            StoreError: The adapter is damaged, or of another model or rank.
        """
        layout = shape.with_rank(spec.lora.r)
        flat = torch.empty(1, layout.size)
        views = _named_views(layout, flat)
        try:
            tensors = read_checkpoint(files[_WEIGHTS])
        except (StoreError, KeyError) as error:
            raise StoreError(f"adapter of trial {spec.number} cannot be read: {error}") from error
        if {name: tensor.shape for name, tensor in tensors.items()} != {name: v.shape for name, v in views.items()}:
            raise StoreError(f"adapter of trial {spec.number} is of another model or rank")
        for name, view in views.items():
            view.copy_(tensors[name])
        parameters = flat[0].to(device)
        return cls(spec, layout, parameters, torch.zeros_like(parameters), torch.zeros_like(parameters))

    def state(self) -> dict[str, torch.Tensor]:
        """Return what `admit` continues from, to be saved; generators are seeded anew for each chunk."""
        return {
            "parameters": self.parameters,
            "moment1": self.moment1,
            "moment2": self.moment2,
            "step": torch.tensor(self.step),
            "loss_scale": self.loss_scale.tensor(),
        }

    def state_hash(self) -> str:
        """Return the SHA-256 of the parameters."""
        return hashlib.sha256(self.parameters.cpu().numpy().tobytes()).hexdigest()

    def adapter_files(
        self,
        base: str,
        config: Mapping[str, object],
        save: Callable[[Mapping[str, torch.Tensor]], Checkpoint] = lambda t: to_safetensors(t, ADAPTER_METADATA),
    ) -> dict[str, Checkpoint]:
        """Return the adapter in PEFT's format, by file name.

        Args:
            base: PEFT's ``base_model_name_or_path``.
            config: Further fields of ``adapter_config.json`` (targets, task type, revision of the base).
            save: Makes a safetensors file of tensors, in memory or on the disk.
        """
        views = _named_views(self.layout, self.parameters[None].cpu())
        # PEFT scales by lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora; both give `lora_scale`.
        lora = self.spec.lora
        written = {
            "peft_type": "LORA",
            "base_model_name_or_path": base,
            "revision": None,
            "inference_mode": True,
            "r": self.layout.rank,
            "lora_alpha": alpha(lora),
            "lora_dropout": lora.dropout,
            "use_rslora": lora.use_rslora,
            "bias": "none",
            "fan_in_fan_out": False,
            **config,
        }
        return {
            "adapter_config.json": json.dumps(written, indent=2).encode(),
            _WEIGHTS: save(views),
        }


def _named_views(layout: Layout, flat_1P: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the matrices of a lane's vector by PEFT's names and in PEFT's shapes, sharing memory with ``flat_1P``."""
    named = {}
    for shape, a, b in zip(layout.lora, layout.views_a(flat_1P), layout.views_b(flat_1P), strict=True):
        named[f"base_model.model.{shape.name}.lora_A.weight"] = a[0]
        # B is transposed in the vector, and PEFT's is not.
        named[f"base_model.model.{shape.name}.lora_B.weight"] = b[0].T
    for head, (weight, bias) in zip(layout.head, layout.views_head(flat_1P), strict=True):
        named[f"base_model.model.{head.name}.weight"] = weight[0]
        if bias is not None:
            named[f"base_model.model.{head.name}.bias"] = bias[0]
    return named


def lora_scale(lora: LoraSettings) -> float:
    """Return alpha / r, or alpha / sqrt(r) with ``lora.use_rslora`` (arXiv:2312.03732, equation 3)."""
    return lora.alpha_ratio * math.sqrt(lora.r) if lora.use_rslora else lora.alpha_ratio


def derived_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part, the same on every machine."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, name))
