"""``python -m gptwo.evaluation ARGUMENTS``: lm-evaluation-harness's command ``lm_eval``, where ``gptwo`` is a model."""

from __future__ import annotations

import sys

from gptwo.base.errors import GptwoError


def main() -> int:
    """Run its command on the arguments of this process; as ``gptwo`` has it, a mistake is one line and exit code 2."""
    try:
        from lm_eval.__main__ import cli_evaluate

        import gptwo.evaluation.harness  # noqa: F401 - registers the model

        cli_evaluate()
    except GptwoError as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
