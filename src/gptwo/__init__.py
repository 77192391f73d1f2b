"""gptwo: GPT-2 whole."""
