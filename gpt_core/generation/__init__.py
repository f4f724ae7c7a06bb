"""Text from weights: how the next token is chosen, and how a reply is made of them."""
