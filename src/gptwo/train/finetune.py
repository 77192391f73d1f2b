"""Fine-tuning: a base, examples of which the answers are learned, and all weights or adapters to learn them with."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from gptwo.base.errors import ConfigError, DataError
from gptwo.checkpoint.adapter import Base, require_base, restore_adapters, save_adapter, weights_sha256
from gptwo.checkpoint.released_config import read_config
from gptwo.checkpoint.resolve import hub_id, resolve_model
from gptwo.checkpoint.store import TrainingState
from gptwo.checkpoint.vocabulary import require_same_vocabulary
from gptwo.checkpoint.weights import load_weights
from gptwo.data.examples import read_examples
from gptwo.data.index import is_prepared
from gptwo.model import GPT2
from gptwo.model.lora import LoraConfig, adapter_parameters, add_lora
from gptwo.tokenizer import Tokenizer
from gptwo.train.distributed import ALONE, World
from gptwo.train.examples_source import PackedExamples
from gptwo.train.finetune_config import (
    FULL_LR_BY_WIDTH,
    LARGEST_BATCH_TOKENS,
    LORA_LR_BY_WIDTH,
    FinetuneConfig,
)
from gptwo.train.loop import TrainingRun
from gptwo.train.metrics import read_metrics
from gptwo.train.observer import Observer, Silent, TrainResult
from gptwo.train.run_folder import METRICS_NAME, starting_point
from gptwo.train.setup import require_room
from gptwo.train.source import PreparedText, Source
from gptwo.train.task import restore_weights, save_model


@dataclass(frozen=True)
class FinetuneResult:
    """A run, and the loss on the held-out answers that the base itself had, in nats per token."""

    run: TrainResult
    base_nats_per_token: float | None


def finetune(
    config: FinetuneConfig, *, resume: bool = False, observer: Observer | None = None, world: World = ALONE
) -> FinetuneResult:
    """Fine-tune the base ``config.model`` into the run folder ``config.out``, as ``train`` trains; errors likewise.

    The base is measured on the held-out answers before the first step, so the log tells what was learned.
    """
    watched = observer if observer and world.writes else Silent()
    start = starting_point(Path(config.out), resume=resume) if world.writes else None
    task = Finetuning(config, start)
    if task.notice and start is None:
        watched.warned(task.notice)
    result = TrainingRun(task.config, task, world, start=start, observer=watched).run()
    before = [
        r["val_loss"] for r in read_metrics(result.run / METRICS_NAME) if not r["step"] and "val_loss" in r
    ]
    return FinetuneResult(result, before[-1] if before else None)


def base_name(base: str) -> str:
    """What ``base`` is called in a run and in an adapter: a folder of this disk by its whole path, else a hub id.

    A run stands for its newest checkpoint of now, so that what was begun from one is gone on with from the same.
    """
    if Path(base).expanduser().exists():
        return str(resolve_model(base).resolve())
    return hub_id(base) or base


class Finetuning:
    """``task.Task`` of a base and examples. ``config`` has every setting resolved that the data decides.

    All weights: a checkpoint is a model. Adapters: it is an adapter in peft's format, beside the training state.
    """

    measures_start = True

    def __init__(self, config: FinetuneConfig, start: Path | None) -> None:
        self._lora = _lora_config(config)
        if start is not None and self._lora is None:
            # To go on with all weights, the run's own checkpoint is all that is needed of a model.
            name, self._folder = config.model, start
        else:
            name = base_name(config.model)
            self._folder = resolve_model(name)
        self._base = Base(name, "")
        self.tokenizer = Tokenizer.load(self._folder)
        self._shape = read_config(self._folder)
        if self.tokenizer.vocab_size > self._shape.vocab_size:
            raise DataError(
                f"the tokenizer of {self._folder} has {self.tokenizer.vocab_size} tokens and its model "
                f"{self._shape.vocab_size}; expected the tokenizer that the model was trained with"
            )
        self.notice = ""
        self._source = self._make_source(config)
        rows, sequences = self._source.rows, self._source.sequences
        steps = math.ceil(config.epochs * rows / sequences) if config.epochs else config.steps
        by_width = FULL_LR_BY_WIDTH if self._lora is None else LORA_LR_BY_WIDTH
        self.config = dataclasses.replace(
            config,
            model=name,
            batch_tokens=sequences * self._shape.context,
            steps=steps,
            lr=by_width / self._shape.n_embd if config.lr is None else config.lr,
            epochs=0.0,
            sample_prompt=config.sample_prompt or self._first_prompt,
        )

    def source(self, context: int) -> Source:
        return self._source

    def model(self, start: Path | None, device: torch.device) -> GPT2:
        shape = dataclasses.replace(self._shape, **self.config.model_changes())
        adapters = adapter_parameters(shape, self._lora) if self._lora else None
        require_room(self.config, shape, device, adapters=adapters)
        model = GPT2(shape, device="meta", checkpoint_activations=self.config.checkpoint_activations)
        stored = load_weights(self._folder, device=device)
        if self._lora:
            self._base = dataclasses.replace(self._base, sha256=weights_sha256(stored))
            if start is not None:
                require_base(start, self._folder, stored)
        model.load_state_dict({name: tensor.float() for name, tensor in stored.items()}, assign=True)
        if self._lora:
            add_lora(model, self._lora, seed=self.config.seed)
            if start is not None:
                restore_adapters(model, start)
        return model

    def save(self, folder: Path, model: GPT2, training: TrainingState) -> Path:
        if self._lora:
            return save_adapter(
                folder,
                model=model,
                lora=self._lora,
                base=self._base,
                tokenizer=self.tokenizer,
                training=training,
            )
        return save_model(folder, model, self.tokenizer, training)

    def restore(self, folder: Path, model: GPT2) -> None:
        if self._lora:
            restore_adapters(model, folder)
        else:
            restore_weights(folder, model)

    def _make_source(self, config: FinetuneConfig) -> PreparedText | PackedExamples:
        context = self._shape.context
        self._first_prompt = ""
        prepared = [path for path in config.data if is_prepared(Path(path))]
        if prepared:
            if len(config.data) > 1:
                raise ConfigError(
                    f"{prepared[0]} is prepared data, which is all that a run learns from; give it alone"
                )
            folder = Path(prepared[0])
            require_same_vocabulary(self._folder, self._shape, Tokenizer.load(folder), data=str(folder))
            batch_tokens = config.batch_tokens or max(context, LARGEST_BATCH_TOKENS // context * context)
            return PreparedText(folder, dataclasses.replace(config, batch_tokens=batch_tokens), context)
        examples = read_examples(config.data, self.tokenizer, val_fraction=config.val_fraction)
        if examples.kind == "messages":
            self.tokenizer = self.tokenizer.with_chat_template()
        source = PackedExamples(
            examples,
            self.tokenizer,
            context=context,
            batch_tokens=config.batch_tokens,
            seed=config.seed,
        )
        self.notice = source.notice
        if examples.kind != "text":
            first = examples.val[0]
            self._first_prompt = self.tokenizer.decode(first.ids[: int(first.answer.argmax())].tolist())
        return source


def _lora_config(config: FinetuneConfig) -> LoraConfig | None:
    if config.lora_rank is None:
        return None
    return LoraConfig(
        rank=config.lora_rank,
        alpha=config.lora_alpha if config.lora_alpha is not None else 2 * config.lora_rank,
        dropout=config.lora_dropout,
        targets=tuple(name.strip() for name in config.lora_targets.split(",") if name.strip()),
    )
