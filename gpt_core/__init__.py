"""gpt_core: a GPT-2-like model on the CPU, from text file to trained weights and back to text.

The numeric core. It knows nothing of terminals: `gpt_tui` is one user of it, a notebook could be another.
"""

__version__ = "0.1.0"
