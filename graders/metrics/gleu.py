"""Sentence GLEU, also called Google BLEU, equal to NLTK 3.9.1's ``sentence_gleu``."""

from graders.metrics import ngrams, tokens

__all__ = ["gleu"]

_ORDERS = range(1, 5)


def gleu(candidate: str, reference: str) -> float:
    """Return the sentence GLEU of ``candidate`` against one ``reference``.

    Matching n-grams of one to four words divided by the larger of the two n-gram counts,
    hence symmetric in its arguments; case-sensitive, on `tokens.words`.

    Args:
        candidate: The graded text.
        reference: The text it is compared with.

    Returns:
        A similarity in [0, 1]; 0.0 if either text has no words.

    Source: Wu et al. 2016 (GNMT), section 5.
    """
    ours = tokens.words(candidate)
    theirs = tokens.words(reference)
    # The longer text has at least as many n-grams of every order.
    longer = max(ours, theirs, key=len)
    attempts = sum(ngrams.total(longer, order) for order in _ORDERS)
    if not attempts:
        return 0.0
    matched = 0
    for order in _ORDERS:
        of_order = ngrams.matches(ours, theirs, order)
        if not of_order:
            break
        matched += of_order
    return matched / attempts
