"""Masked-language-model pre-training: texts to a token store, packed rows, masks, the loop that learns from them."""
