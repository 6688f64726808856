"""Where the programs print."""

import sys

from rich.console import Console

console = Console(width=None if sys.stdout.isatty() else 110, highlight=False, soft_wrap=True)
