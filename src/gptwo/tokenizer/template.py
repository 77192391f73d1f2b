"""Chat templates as models bring them: Jinja, rendered as transformers renders it, in a sandbox with an end.

A template is a program by the author of the model. It runs in Jinja's immutable sandbox: it reads the conversation, and
reaches nothing else. Loops, calls and what operators make are counted and cut off, so that none that merely goes wrong
holds a server for ever; against an author who means harm to its memory (`replace` in `replace`), choose your models.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType
from typing import Any, cast

from jinja2 import TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from gptwo.base.errors import TokenizerError

# Thousands of messages take a few steps each; a loop without an end is cut off in well under a second.
MOST_STEPS = 100_000
# Characters that a template, or an operator in it, may make.
LONGEST = 1 << 23


def render_template(source: str, variables: Mapping[str, Any]) -> str:
    """The text that the template makes of ``variables``, which are JSON's types and functions.

    ``TokenizerError`` for a template that refuses them (``raise_exception``), fails, is no Jinja, or does not end.
    """
    try:
        sandbox = _Sandbox()
        template = sandbox.template_class.from_code(sandbox, _compiled(source), sandbox.make_globals(None))
        pieces, length = [], 0
        for piece in template.generate(variables):
            pieces.append(piece)
            length += len(piece)
            if length > LONGEST:
                raise _TooMuchError(f"it writes more than {LONGEST:,} characters")
        return "".join(pieces)
    except _RefusedError as error:
        raise TokenizerError(f"the model's chat template refuses the messages: {_line(error)}") from None
    except Exception as error:  # the program is foreign, and may fail in any way
        raise TokenizerError(
            f"the model's chat template fails on these messages ({type(error).__name__.strip('_')}: {_line(error)}); "
            "mend chat_template in its tokenizer_config.json, or render the text yourself"
        ) from error


class _RefusedError(TemplateError):
    """``raise_exception`` was called: the conversation is not one that the model knows."""


class _TooMuchError(SecurityError):
    """The template does more than a template needs to."""


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> CodeType:
    sandbox = _Sandbox()
    counted = _Counted().visit(sandbox.parse(source))
    return sandbox.compile(cast(nodes.Template, counted))


class _Generation(Extension):
    """``{% generation %}``, with which transformers finds what the assistant said: here its body alone."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own way to say it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        self.filters.update(tojson=_tojson, counted_loop=_counted_loop, limited=_limited)
        self.globals["raise_exception"] = _raise_exception
        self._steps = 0

    def step(self) -> None:
        """One iteration or call more."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise _TooMuchError(f"it takes more than {MOST_STEPS:,} steps")

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.step()
        return _limited(super().call(context, called, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise _TooMuchError("it raises to a power")
        if operator == "*":
            for one, times in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(times, int):
                    _require_short(len(one) * times)
        return _limited(super().call_binop(context, operator, left, right))


class _Counted(NodeTransformer):
    """Makes loops count their steps, and what can double a text at every step look at its length."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filtered(cast(nodes.Expr, node.iter), "counted_loop")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "limited")

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.AssignBlock:  # noqa: N802
        self.generic_visit(node)
        node.filter = _filtered(node.filter, "limited")
        return node


def _filtered(node: nodes.Expr | None, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno if node is not None else 1)


@pass_context
def _counted_loop(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    sandbox = cast(_Sandbox, context.environment)
    for item in items:
        sandbox.step()
        yield item


def _limited(value: Any) -> Any:
    if isinstance(value, str | list | tuple):
        _require_short(len(value))
    elif isinstance(value, int) and value.bit_length() > 64:
        raise _TooMuchError("it makes a number of more than 64 bits")
    return value


def _require_short(length: int) -> None:
    if length > LONGEST:
        raise _TooMuchError(f"it makes a text of more than {LONGEST:,} characters")


def _raise_exception(message: object) -> None:
    raise _RefusedError(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes what HTML would read, which no model does.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _line(error: Exception) -> str:
    line = " ".join(str(error).split())
    return line if len(line) <= 200 else f"{line[:200]}…"
