"""Help texts of the views, by name: what is seen, how to read it, one thing to try; ids of keys are in braces."""

from __future__ import annotations

HELP: dict[str, str] = {
    "tokens": "Tokens: the text cut into the model's tokens. The background of each is its surprise, -log2 p: how "
    "many bits the model lacked to know it, 0 for a token that it was sure of. The list shows what the model expected "
    "in the place of the token under the cursor. Rank 1 means that the token was the most probable one; entropy is how "
    "undecided the model was, whatever came. Try: find the first letters of words. They are surprising, and the rest "
    "of the word is not: the model has learned to spell before it has learned what to say. The key {inside.enter} "
    "moves to the list; on one of its tokens it generates from there.",
    "lens": "Lens: what the model would predict if it ended earlier. Each column is a position, each row a part of the "
    "model: the embedding, then each layer's attention and MLP. A cell is the most probable next token if the final "
    "norm and the head were applied right there, its color the probability; ✓ marks the token that follows. The "
    "last row is the prediction of the model. Read a column from top to bottom: the layers agree on a token step by "
    "step. Try: find a position where the last row is right, and look for the layer that decides.",
    "attention": "Attention: which tokens each head reads. Each small picture is a head, a row per token, a column per "
    "token that it attends to; the color is the square root of the weight, so that small weights show. The chosen head "
    "is enlarged, and the text below is colored by its attention from the token under the cursor. Left and right "
    "choose the token, up and down the layer, two keys ({inside.previous_head} {inside.next_head}) the head. Look for "
    "a line beside the diagonal (the previous token), a bright first column (the first token), and stripes (a repeated "
    "text). Try: compare with the model before the first step ({inside.compare}): its attention is even, or with "
    "qk_norm without a pattern.",
    "heads": "Heads: a strip per attention head, a column per evaluation, the color a score: the share of attention on "
    "the token before, on the first token, or on the token that followed the present one earlier (induction, measured "
    "on random sequences that repeat), or the entropy of the attention in nats. The key {inside.enter} shows the next "
    "score; left and right move through the evaluations, up and down through the heads. A cursor on the loss chart of "
    "the Train or Runs tab chooses the evaluation here, too. A head that attends evenly has an induction score near "
    "2%; from 40% on it is called an induction head, and the loss chart marks the step with ┊. Try: train the preset "
    "induction, and look which score rises first, and in which layer. A head of layer 0 must look at the token before, "
    "so that one of layer 1 can find what followed.",
    "health": "Health: a row per tensor. Update is log10 of how much one step changes it: -3, a thousandth, is usual "
    "at the full learning rate; red is ten times more or less. Larger: the rate is too high, or the tensor is still "
    "small, as biases are. Smaller: the rate is too low, or has decayed. Dead units are the MLP units of a layer that "
    "never fire on the probe: they learn nothing there. Gradient norms are those before clipping. Left and right move "
    "through the evaluations, up and down through the tensors. Try: train two runs with rates ten times apart, and "
    "compare how their updates differ.",
    "ablation": "Knock-out: what the loss rises by when the output of one head, one MLP or one whole block is set to "
    "0, over some thousand tokens of the eval text, or over the chosen text. What the title says of the parts that "
    "Chat leaves out is always over the eval text. A high bar is a part that the model needs; "
    "about 0, one that it does not use, or whose work other parts do; below 0, one that harms it. Bars are relative "
    "to the largest of their kind: heads, MLPs, blocks. Try: press {inside.remove} on the most important head, go to "
    "Chat, and continue a text. What is missing? {inside.remove} puts the part back.",
    "neighbors": "Neighbors: the tokens whose embeddings point in the most similar direction to that of the token at "
    "the cursor; cosine 1 is the same direction, 0 none in common. The map shows the most used tokens along the two "
    "directions in which their embeddings differ most (principal components); its axes have no meaning of their own, "
    "and it shows only a part of the variance. Before training all cosines are about 0. Try: choose {inside.compare}, "
    "before the first step, and compare the neighbors of a common word.",
}
