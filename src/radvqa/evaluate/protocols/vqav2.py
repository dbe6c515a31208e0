"""The answer normaliser of VQA v2 and those made from it, its misspelt pattern and misplaced argument included.

Source: Antol et al., VQA, ICCV 2015, and Goyal et al., VQA v2, CVPR 2017, evaluation code (GT-Vision-Lab/VQA); the
descendants are named at their functions. Every function here takes any text and returns lower-case words with one blank
between them.
"""

import re
from functools import lru_cache

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_ANY_MARK = re.compile("[" + re.escape(_MARKS) + "]")
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIOD_BETWEEN_NO_DIGITS = re.compile(r"(?<!\d)\.(?!\d)")
_PERIODS_REMOVED = 32
"""The value of the regular-expression flag that the evaluation code passes where the number of replacements goes."""

_NUMBER_WORDS = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
}
_ARTICLES = ("a", "an", "the")

_CONTRACTED_ONCE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
    it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
    somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's
    they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's
    where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
_CONTRACTED_TWICE = """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
    there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've
"""


def _contractions() -> dict[str, str]:
    """Each contraction by every spelling that lacks one of its apostrophes; three entries of VQA v2 are irregular."""
    found = {word.replace("'", ""): word for word in _CONTRACTED_ONCE.split()}
    for word in _CONTRACTED_TWICE.split():
        first, second = (match.start() for match in re.finditer("'", word))
        found |= {word[:first] + word[first + 1 :]: word, word[:second] + word[second + 1 :]: word}
    return found | {
        "somebody'd": "somebodyd",
        **dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've"),
        **dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at"),
    }


_CONTRACTIONS = _contractions()
_REWRITTEN = frozenset({*_NUMBER_WORDS, *_ARTICLES, *_CONTRACTIONS})


def normalise_vqa_v2(text: str, *, keep_period_after_digit: bool = False) -> str:
    r"""The text under the four steps of the VQA v2 evaluation code.

    1. A mark of ``; / [ ] " { } ( ) = + \ _ - > < @ ` , ? !`` vanishes everywhere if it stands beside a blank anywhere
       in the text, or if a comma stands between two digits anywhere; else it becomes a blank everywhere.
    2. A period vanishes unless a digit follows. ``keep_period_after_digit``: nor if a digit stands before it, as was
       meant (the original's look-behind is misspelt).
    3. Only the first 32 periods vanish.
    4. In lower case, "none" and the words for zero to ten become digits, then a, an and the vanish, then contractions
       get the apostrophe they lack.

    >>> normalise_vqa_v2("x-ray"), normalise_vqa_v2("- x-ray"), normalise_vqa_v2("None, 2.")
    ('x ray', 'xray', '0 2')
    """
    if _ANY_MARK.search(text):
        digits = _DIGIT_COMMA_DIGIT.search(text) is not None
        text = text.translate(
            {
                ord(mark): "" if digits or mark + " " in text or " " + mark in text else " "
                for mark in _MARKS
                if mark in text
            }
        )
    if "." in text:
        period = _PERIOD_BETWEEN_NO_DIGITS if keep_period_after_digit else _PERIOD
        text = period.sub("", text, count=_PERIODS_REMOVED)
    words = text.lower().split()
    if _REWRITTEN.isdisjoint(words):
        return " ".join(words)
    words = [_NUMBER_WORDS.get(word, word) for word in words]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=1 << 12)
def normalise_llava_med(text: str) -> str:
    """The text as LLaVA-Med and MultiMedEval compare it: lower case, the steps of VQA v2, then no commas.

    It is no projection: applied again it may change the text, and LLaVA-Med's open scores apply it twice.

    >>> normalise_llava_med("The Left Lung, Right"), normalise_llava_med("twelve. none")
    ('left lung right', 'twelve 0')
    """
    return normalise_vqa_v2(text.lower()).replace(",", "")


_MUMC_DELETED = str.maketrans("", "", ",.'!?\"()*#:;~")


@lru_cache(maxsize=1 << 12)
def mumc_answer(text: str) -> str:
    """The text as MUMC's data code prepares answers: lower case, without ``, . ' ! ? " ( ) * # : ; ~``.

    "x ray" and "x-ray" become "xray" and " - " a bare hyphen. "3.5" becomes "35". White space is left as it is.
    """
    text = text.lower().translate(_MUMC_DELETED).replace(" \t", " ")
    return text.replace("x ray", "xray").replace("x-ray", "xray").replace(" - ", "-")


@lru_cache(maxsize=1 << 12)
def normalise_mumc(text: str) -> str:
    """The text as M2I2 and MUMC compare it: ``mumc_answer``, then the steps of VQA v2.

    >>> normalise_mumc("X-Ray"), normalise_mumc("3.5 cm"), normalise_mumc("T2 - weighted")
    ('xray', '35 cm', 't2 weighted')
    """
    return normalise_vqa_v2(mumc_answer(text).replace("\n", " ").replace("\t", " ").strip())


@lru_cache(maxsize=1 << 12)
def normalise_vlmevalkit(text: str) -> str:
    """The text as VLMEvalKit compares it: one line, the steps of VQA v2, periods beside a digit kept.

    >>> normalise_vlmevalkit("T2."), normalise_vlmevalkit("The Lung.")
    ('t2.', 'lung')
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return normalise_vqa_v2(text, keep_period_after_digit=True)
