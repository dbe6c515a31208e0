"""Answer text as it is compared: one normal form for every metric and floor."""

import re
import unicodedata

_ONE_SPELLING = str.maketrans({"’": "'", "ʼ": "'", "\N{MINUS SIGN}": "-", "⁄": "/", "≤": "<=", "≥": ">="})
_SUPERSCRIPT = re.compile(r"(?<=[^\W_])[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_VULGAR_FRACTION = re.compile(r"(?<=\d)(?=[¼½¾⅐-⅞↉])")
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])'(?=[^\W\d_])")
_THOUSANDS = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?!\d)")
_BARE_DECIMAL_POINT = re.compile(r"(?<![^\W_.])\.(?=\d)")
_BLANK_AT_NUMBER = re.compile(r"(?<=[<>=])\s+(?=[-\d])|(?<=\d)\s+(?=%)")
_AT_NUMBER = re.compile("[<>%]")
_TOKEN = re.compile(
    r"(?:(?:<=?|>=|(?<![^\s(])>)(?=-?\d))?"  # "<5" and ">5", but not the end of a tag
    r"(?:(?<![^\W_])-(?=\d))?"
    r"[^\W_]+(?:(?:(?<=\d)[./]|\^)(?=\d)[^\W_]+)*"
    r"(?:(?<=\d)%)?(?:(?:\+|(?<=[\d%])-)(?![^\W_]|[+-]))?"
)
_XRAY = re.compile(r"\bx (rays?)\b")


def normalise_answer(text: str) -> str:
    """The answer as lower-case tokens with one blank between them; ``""`` when nothing is left.

    The rules, in this order. Applying them twice changes nothing.

    1. *Unicode*: compatibility form and case folding, so that a full-width or ligature spelling equals the plain one
       (toNFKC_Casefold without its removal of ignorable characters; The Unicode Standard, section 3.13). An
       upper-case letter never matters, as in SQuAD.
    2. *Apostrophes* between letters vanish ("Crohn's", "Crohns"), as in SQuAD.
    3. *Numbers* keep their value: a decimal point between digits stays and ".5" is "0.5"; commas between groups of
       three digits vanish ("1,000"); a minus sign in front of a number stays unless it joins two words ("-50 HU", but
       "L4-5"). "<", ">", "<=", ">=" before a number and "%" after it stay, as do a fraction ("1/2", also "½"), a power
       ("10^2", also "10²") and a closing "+" or, after a digit, "-" ("HER2+"). VQA v2 keeps decimal points and drops
       digit commas too; the signs are our addition because Hounsfield units, sizes and receptors need them.
    4. *All other punctuation* and symbols separate tokens ("U-shaped" is "u shaped"), as in the official VQA v2 rule
       for marks inside words; SQuAD would delete them and glue "Right Lung,Upper Left" together.
    5. *"x-ray"*, "x ray" and "xray" are one word, as in the answer rules of M2I2 and MUMC.
    6. *Articles* a, an and the vanish, as in SQuAD and VQA v2. Unlike there, a closing "a" stays: it names a type
       ("hepatitis A"), and dropping it would change the answer.
    7. *White space* collapses, as in SQuAD.

    Number words, negations, synonyms and sentence frames ("The answer is ...") are left alone: a rule that guesses
    what was meant would score answers that were never given.

    Sources: Rajpurkar et al., SQuAD, EMNLP 2016, evaluation script; Antol et al., VQA, ICCV 2015, and Goyal et al.,
    VQA v2, CVPR 2017, evaluation code; Li et al., M2I2, ISBI 2023 and MUMC, MICCAI 2023, released code.

    >>> normalise_answer(" The X-Ray shows a 3.5 cm mass. ")
    'xray shows 3.5 cm mass'
    """
    return _normal_form(_canonical_text(text))


def answer_parts(text: str) -> tuple[str, ...]:
    """The normalised members of a comma list, sorted; one member for an answer without commas, none for an empty one.

    SLAKE writes sets as lists in any order ("Liver, Kidney", "Kidney, Liver"; Liu et al., SLAKE, ISBI 2021), so their
    order must not count. Repetition does count: "lung, lung" is not "lung".

    >>> answer_parts("Liver, Kidney") == answer_parts("kidney,liver")
    True
    """
    parts = (_normal_form(part) for part in _canonical_text(text).split(","))
    return tuple(sorted(part for part in parts if part))


def _canonical_text(text: str) -> str:
    """Rules 1 to 3: folded text in which the only remaining commas separate list members."""
    if text.isascii():  # The same result, sooner.
        folded = _APOSTROPHE.sub("", text.lower()) if "'" in text else text.lower()
    else:
        folded = _VULGAR_FRACTION.sub(" ", _SUPERSCRIPT.sub(r"^\g<0>", text))
        folded = unicodedata.normalize("NFD", folded).casefold()
        folded = unicodedata.normalize("NFKC", folded).casefold()
        folded = unicodedata.normalize("NFKC", folded).translate(_ONE_SPELLING)
        folded = _APOSTROPHE.sub("", folded)
        # Deleting an apostrophe can bring together characters that Unicode writes as one.
        folded = unicodedata.normalize("NFKC", folded)
    if "," in folded:
        folded = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), folded)
    if "." in folded:
        folded = _BARE_DECIMAL_POINT.sub("0.", folded)
    return _BLANK_AT_NUMBER.sub("", folded) if _AT_NUMBER.search(folded) else folded


def _normal_form(text: str) -> str:
    """Rules 4 to 7."""
    words = [token for token in _TOKEN.findall(text) if token not in ("an", "the")]
    words = [word for word in words[:-1] if word != "a"] + words[-1:]
    joined = " ".join(words)
    return _XRAY.sub(r"x\1", joined) if "x ray" in joined else joined
