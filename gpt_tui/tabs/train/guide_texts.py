"""Texts of the notes of a first run: title and text by name, in the order in which they appear.

They are all in this file so that they can be translated. Words in braces are replaced: `{prompt}` by the beginning of
the samples, `{loss}` by a loss, `{gap}` by what the gap between train and eval loss means. A text fits on three lines
of 76 characters.
"""

TEXTS = {
    "sample": (
        "This is a sample",
        "The model continues “{prompt}” with what it finds likely. Nothing is learned before the first step, so "
        "this is noise. The prompt and the random seed stay the same: what changes is the model.",
    ),
    "first_loss": (
        "The first loss",
        "The loss began at {loss}: all tokens were about equally likely, which is guessing. Each 0.7 less makes the "
        "right token twice as likely. Zero would be certainty.",
    ),
    "spaces": (
        "Spaces",
        "The model has found out which tokens are frequent. Spaces and short words come first, because they occur "
        "most. It makes little use of the preceding words yet.",
    ),
    "words": (
        "Words",
        "The loss is now far below that of token frequencies: the model uses the preceding tokens to complete words, "
        "and then to choose words that fit together.",
    ),
    "overfitting": (
        "Overfitting",
        "{gap}. Once the eval loss rises, further training makes it worse: more text, or dropout, helps. "
        "best_model keeps the best weights.",
    ),
}
OFF_KEY_TEXT = "{close} close  {off} no more notes"
SWITCHED_OFF = "notes are off ({off}: on again)"
SWITCHED_ON = "notes are on"
