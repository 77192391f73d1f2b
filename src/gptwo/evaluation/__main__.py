"""``python -m gptwo.evaluation ARGUMENTS``: lm-evaluation-harness's command ``lm_eval``, where ``gptwo`` is a model."""

from __future__ import annotations

from gptwo.base.errors import GptwoError


def main() -> None:
    """Run its command on the arguments of this process; a mistake of the user's in one line, as ``gptwo`` has it."""
    try:
        from lm_eval.__main__ import cli_evaluate

        import gptwo.evaluation.harness  # noqa: F401 - registers the model

        cli_evaluate()
    except GptwoError as error:
        raise SystemExit(f"{type(error).__name__}: {' '.join(str(error).split())}") from None


if __name__ == "__main__":
    main()
