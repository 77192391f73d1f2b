"""``python -m gptwo`` is the command ``gptwo``."""

import sys

from gptwo.cli import main

sys.exit(main())
