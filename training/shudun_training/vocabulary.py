"""A WordPiece vocabulary of our own for encoders from random weights.

Characters first, then the commonest Latin words, both by falling frequency with ties broken by code point, so
that the same texts always give the same vocabulary (the trainer in `tokenizers` does not promise that).
Digits, symbols and emoji stand alone: an unseen one never takes its neighbours into `[UNK]` with it.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from shudun.errors import ShudunError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PREFIX = "##"
ALPHANUMERICS = string.ascii_lowercase + string.digits


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, min_frequency: int = 2, always: Iterable[str] = ()
) -> Tokenizer:
    """Build a BERT-style tokenizer from texts.

    Args:
        texts: the training texts, read once.
        vocab_size: most entries, special tokens included; ASCII letters and digits are always covered.
        min_frequency: least count of a character or word to enter.
        always: entries whatever their count, behind the others; read after the texts.

    Raises:
        ShudunError: `vocab_size` has no room for what is always covered.
    """
    tokenizer = _tokenizer({token: i for i, token in enumerate(SPECIAL_TOKENS)})
    words: Counter[str] = Counter()
    for text in texts:
        normalized = tokenizer.normalizer.normalize_str(text)
        words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized))
    covered = list(dict.fromkeys(always))
    if covered and vocab_size < len(covered) + len(SPECIAL_TOKENS) + 2 * len(ALPHANUMERICS):
        raise ShudunError(
            f"vocab_size is {vocab_size}: no room for {len(covered)} emoji beside special tokens, letters and digits"
        )
    ranked = _vocabulary(words, vocab_size - len(covered), min_frequency)
    return _tokenizer({token: i for i, token in enumerate(dict.fromkeys([*ranked, *covered]))})


def _vocabulary(words: Counter[str], vocab_size: int, min_frequency: int) -> list[str]:
    starts: Counter[str] = Counter()
    continuations: Counter[str] = Counter()
    for word, count in words.items():
        starts[word[0]] += count
        for char in word[1:]:
            continuations[PREFIX + char] += count
    always = [char + form for form in ALPHANUMERICS for char in ("", PREFIX)]
    characters = starts + continuations
    long_words = Counter({word: count for word, count in words.items() if len(word) > 1})
    entries = dict.fromkeys([*SPECIAL_TOKENS, *always])
    for counts in (characters, long_words):
        ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
        entries.update(dict.fromkeys(token for token, count in ranked if count >= min_frequency))
    return list(entries)[: max(vocab_size, len(SPECIAL_TOKENS) + len(always))]


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"[\p{S}\p{M}\p{Cf}]"), "isolated"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer
