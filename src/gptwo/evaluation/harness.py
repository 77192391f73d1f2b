"""gptwo as a model of lm-evaluation-harness (extra ``eval``): importing this module registers it there as ``gptwo``.

    python -m gptwo.evaluation --model gptwo --model_args pretrained=runs/mine --tasks TASKS

is its command ``lm_eval`` with this registered: version 0.4 does not look for models in other packages. In Python,
import this module, then ``lm_eval.simple_evaluate(model="gptwo", model_args={"pretrained": "runs/mine"}, ...)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo.base.errors import ConfigError, MissingExtraError, TokenizerError
from gptwo.evaluation.scoring import Continuation, Row, encode_continuation, score, score_continuations
from gptwo.infer.api import load
from gptwo.infer.prompt import require_tokens
from gptwo.infer.settings import SamplingSettings

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise MissingExtraError(
        f"lm-evaluation-harness cannot be imported ({error}); install it with `pip install 'gptwo[eval]'`"
    ) from error

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

# As lm-evaluation-harness's own backends have it.
_MAX_NEW_TOKENS = 256
_SAMPLING = tuple(SamplingSettings.__annotations__)


@register_model("gptwo")
class HarnessModel(LM):  # type: ignore[misc] # lm_eval has no types
    """The same numbers as its backend ``hf`` on the same checkpoint, within what fp32 sums in another order differ.

    pretrained  a checkpoint folder, a run or a hub id · device, dtype, engine  as for ``gptwo.load``
    batch_size  rows in one pass; "auto" is as many as hold some thousand tokens
    """

    def __init__(
        self,
        pretrained: str,
        *,
        device: str = "auto",
        dtype: str | None = None,
        engine: str = "auto",
        batch_size: int | str = "auto",
        max_batch_size: int
        | None = None,  # of the harness's own search for a batch size, which is not needed here
    ) -> None:
        super().__init__()
        self._model = load(pretrained, device=device, dtype=dtype, engine=engine)
        self._batch = None if str(batch_size).startswith("auto") else int(batch_size)
        first = self._model.tokenizer.eot_id
        if first is None:
            raise TokenizerError(
                f"the tokenizer of {pretrained} has no <|endoftext|>, and the harness begins every text with it"
            )
        require_tokens([first], self._model.config.vocab_size)
        self._first = first

    @property
    def tokenizer_name(self) -> str:
        """What tells its requests from those of another tokenizer in the harness's cache."""
        return self._model.tokenizer.sha256

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log p of the continuation after the context, whether it is what greedy decoding would write) of each."""
        continuations = [
            encode_continuation(self._encode, *request.args, first=self._first) for request in requests
        ]
        answers = score_continuations(self._model.engine, continuations, batch=self._batch)
        found = [(answer.log_prob, answer.greedy) for answer in answers]
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of each whole text after ``<|endoftext|>``, in the harness's windows: C tokens side by side."""
        rows: list[Row] = []
        counts: list[int] = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self._encode(text),
                prefix_token=self._first,
                max_seq_len=self._model.config.context,
                context_len=1,
            )
            pairs = [Continuation(*make_disjoint_window(window)) for window in windows]
            rows += [Row(np.array([*context, *ids]), len(ids)) for context, ids in pairs]
            counts.append(len(pairs))
        scored = score(self._model.engine, rows, batch=self._batch)
        found = [
            float(sum(next(scored).log_probs.sum(dtype=np.float64) for _ in range(count))) for count in counts
        ]
        for request, log_prob in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, log_prob)
        return found

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, one at a time, up to one of its ``until`` or ``<|endoftext|>``.

        A context keeps its last tokens where it leaves no room for what is to be written. Raises ``ConfigError`` when
        there would be no room at all, or for a setting that gptwo does not have.
        """
        return [self._write(*request.args) for request in requests]

    def _write(self, context: str, settings: dict[str, Any]) -> str:
        wanted = normalize_gen_kwargs(settings, _MAX_NEW_TOKENS)
        count, stop = wanted.pop("max_gen_toks"), [text for text in wanted.pop("until") if text]
        if not wanted.pop("do_sample"):
            wanted["temperature"] = 0.0
        unknown = sorted(set(wanted) - set(_SAMPLING))
        if unknown:
            raise ConfigError(
                f"gptwo cannot generate with {', '.join(unknown)}; expected {', '.join(_SAMPLING)}"
            )
        room = self._model.config.context - count
        if room < 1:
            raise ConfigError(
                f"max_gen_toks={count} leaves no room for a prompt in the context of {self._model.config.context} "
                "tokens; give a smaller one in the task's generation_kwargs or with --gen_kwargs"
            )
        prompt = self._encode(context)[-room:]
        text = self._model.generate(prompt, max_new_tokens=count, stop=stop, **wanted).text
        self.cache_hook.add_partial("generate_until", (context, settings), text)
        return text

    def _encode(self, text: str) -> list[int]:
        # Here <|endoftext|> in a text is the one token: so do the harness's own backends.
        ids = self._model.tokenizer.encode(text, allow_special=True)
        require_tokens(ids, self._model.config.vocab_size)
        return ids
