"""Templates that models bring: transformers' text and ids, no token that a message smuggles in, and an end to each."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from gptwo.base.errors import MissingExtraError, TokenizerError
from gptwo.tokenizer import EOT, Tokenizer
from gptwo.tokenizer.template import render_template
from tokenizer_cases import tokenizer

START, END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# A system message that goes into the first user's, roles that must alternate, names of tokens, an answer's own mark.
ALTERNATING = """\
{% if messages[0]['role'] == 'system' %}
    {% set talk = messages[1:] %}
    {% set system = '<<SYS>>' + messages[0]['content'] | trim + '<</SYS>>\\n\\n' %}
{% else %}
    {% set talk = messages %}
    {% set system = '' %}
{% endif %}
{%- for message in talk -%}
    {% if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must alternate\\nuser/assistant/user/...') }}
    {% endif %}
    {%- if message.role == 'user' -%}
        {{ bos_token ~ '[INST] ' ~ (system if loop.first else '') ~ message.content.strip() ~ ' [/INST]' }}
    {%- else -%}
        {% generation %}{{ ' ' ~ message.content | trim ~ ' ' ~ eos_token }}{% endgeneration %}
    {%- endif -%}
{%- endfor -%}
"""
# What it writes depends on a mark in the answer, and the last question is known to a namespace before the loop ends.
THINKING = """\
{%- set ns = namespace(last=0, count=messages | length) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- if message.role == 'tool' %}{{ {'result': message.content, 'é': [1, '<']} | tojson }}{% continue %}{% endif -%}
    {%- set content = message.content.split('</think>')[-1] if '</think>' in message.content else message.content -%}
    <|im_start|>{{ message.role ~ (' (' ~ message.name ~ ')' if message.name is defined else '') }}
{{ content.lstrip('\\n') }}<|im_end|>{{ '' if loop.index0 > ns.last else '*' }}
{% endfor -%}
{%- if add_generation_prompt and tools is none -%}<|im_start|>assistant
{% endif -%}
"""
TEMPLATES = {"chatml": CHATML, "alternating": ALTERNATING, "thinking": THINKING}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hello"}],
    [
        {"role": "system", "content": " Be brief.\n"},
        {"role": "user", "content": "  What's 2+2?\n\n", "name": "Ánh"},
        {"role": "assistant", "content": "<think>two and two</think>\n\n4", "tool_calls": None},
        {"role": "user", "content": "Ánh sáng 世界 🌊 a < b > c | d"},
    ],
    [{"role": "user", "content": "{{ messages }} {% raise %}"}, {"role": "assistant", "content": ""}],
]


def with_template(kind: str, template: object) -> Tokenizer:
    """A tokenizer of the kind with ChatML's two tokens."""
    backend = tokenizers.Tokenizer.from_str(tokenizer(kind).backend.to_str())
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (START, END)])
    return Tokenizer(backend, {**tokenizer(kind).config, "chat_template": template})


def transformers_tokenizer(ours: Tokenizer, folder: Path) -> Any:
    from transformers import AutoTokenizer

    ours.save(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["gpt2", "bpe", "byte", "other"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_transformers_gives_the_same_ids(kind: str, name: str, tmp_path: Path) -> None:
    theirs = transformers_tokenizer(with_template(kind, TEMPLATES[name]), tmp_path)
    ours = Tokenizer.load(tmp_path)
    for messages in CONVERSATIONS:
        for prompt in (False, True):
            ids = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
            assert ours.render_chat(messages, add_generation_prompt=prompt) == ids


def test_the_default_of_several_is_taken(tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "x"}, {"name": "default", "template": CHATML}]
    several, one = with_template("byte", named), with_template("byte", CHATML)
    messages = CONVERSATIONS[0]
    assert several.render_chat(messages) == one.render_chat(messages)
    theirs = transformers_tokenizer(several, tmp_path)
    assert theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == (
        one.render_chat(messages)
    )


PIECES = [
    "<|im_end|>",
    "<|im_start|>",
    "<|im_",
    "end|>",
    "<",
    ">",
    EOT,
    "\n",
    " ",
    "x",
    "</think>",
    "\U000f0000",
]
hostile = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
talks = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "assistant"]),
        hostile,
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module", params=["chatml", "thinking", "glued"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    # The last puts nothing between two messages, so that one may begin a token that the next ends.
    template = {**TEMPLATES, "glued": "{% for m in messages %}{{ m.content | trim }}{% endfor %}<|im_end|>"}[
        request.param
    ]
    ours = with_template("byte", template)
    return ours, transformers_tokenizer(ours, tmp_path_factory.mktemp(request.param))


@given(messages=talks)
def test_no_message_holds_a_special_token(
    pair: tuple[Tokenizer, Any], messages: list[dict[str, str]]
) -> None:
    ours, theirs = pair
    ids = ours.render_chat(messages, add_generation_prompt=False)
    text = theirs.apply_chat_template(messages, add_generation_prompt=False, tokenize=False)
    assert ours.decode(ids) == text
    harmless = [{**message, "content": re.sub(r"[<>|]", "x", message["content"])} for message in messages]
    expected = ours.render_chat(harmless, add_generation_prompt=False)
    specials = set(ours.specials.values())
    assert [id_ for id_ in ids if id_ in specials] == [id_ for id_ in expected if id_ in specials]


def test_a_template_that_depends_on_the_text_of_a_token_is_refused() -> None:
    ours = with_template(
        "byte", "{% for m in messages %}{{ m.content.split('<|im_end|>') | length }}{% endfor %}"
    )
    assert ours.decode(ours.render_chat([{"role": "user", "content": "a < b"}])) == "1"
    with pytest.raises(
        TokenizerError, match=r"writes something else where a message has the text of a special token"
    ):
        ours.render_chat([{"role": "user", "content": "a<|im_end|>b"}])


@pytest.mark.parametrize(
    ("template", "line"),
    [
        (
            ALTERNATING,
            r"^the model's chat template refuses the messages: roles must alternate user/assistant/user/...$",
        ),
        (
            "{{ messages[0].role.nobody.knows }}",
            r"fails on these messages \(UndefinedError: .* mend chat_template",
        ),
        ("{% for", r"fails on these messages \(TemplateSyntaxError: "),
        ("{{ ''.__class__.__mro__ }}", r"\(SecurityError: "),
        ("{{ messages.append(1) }}", r"\(SecurityError: "),
        ("{{ 1 // 0 }}", r"\(ZeroDivisionError: "),
        (["no default"], r"^the tokenizer's chat_template is list .* one is named default$"),
    ],
    ids=["refuses", "undefined", "syntax", "class", "changes", "zero", "unnamed"],
)
def test_a_template_that_fails_says_so_in_one_line(template: object, line: str) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(TokenizerError, match=line) as caught:
        with_template("byte", template).render_chat(messages)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{{ messages[0].content * 10 ** 3 }}",
        "{{ messages[0].content * 100000000 }}",
        "{{ [1] * 100000000 }}",
        "{% for i in range(90000) %}{{ messages[0].content * 100 }}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}"
        "{% set ns.s = t %}{% endfor %}",
        "{% set ns = namespace(n=3) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    ],
    ids=["loops", "calls", "power", "times", "list", "output", "joined", "added", "block", "number"],
)
def test_a_template_without_an_end_is_cut_off(template: str) -> None:
    with pytest.raises(TokenizerError, match=r"TooMuchError: it (takes|makes|writes|raises)"):
        render_template(template, {"messages": [{"role": "user", "content": "ab"}]})


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            {"role": "im_end", "content": "a"},
            "role 'im_end'; expected one of system, developer, user, assistant, tool",
        ),
        ({"role": "user", "content": ["a"]}, "content of list"),
        ({"role": "user", "content": "a", "when": object()}, "the messages are no JSON"),
        ({"role": "user", "content": "a", "when": float("nan")}, "the messages are no JSON"),
        ({"role": "user", "content": "\ud800"}, "lone surrogate U[+]D800"),
    ],
)
def test_what_is_no_conversation_is_refused(message: dict[str, Any], line: str) -> None:
    with pytest.raises(TokenizerError, match=line):
        with_template("byte", CHATML).render_chat([message])


def test_without_jinja_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "gptwo.tokenizer.own_template":
            raise ImportError("No module named 'jinja2'")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"needs Jinja; pip install 'gptwo\[serve\]'"):
        with_template("byte", CHATML).render_chat(CONVERSATIONS[0])
