"""`python -m gpt_tui` is `gpt-tui`."""

import sys

from gpt_tui.cli.main import main

sys.exit(main())
