"""The words by which the pair screens tell what a single picture cannot show.

Every pattern is matched against lower-case text, which is much faster than to ignore case. They were written for pairs
that language models made from captions of MedPix and ROCO, and read against what they remove there.
"""

import re


def _words(*alternatives: str) -> re.Pattern[str]:
    """A pattern for any of these, each beginning at the beginning of a word."""
    return re.compile(rf"\b(?:{'|'.join(alternatives)})", re.DOTALL)


_COUNT = r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|several|few|many|a few)"
_TIME = r"(?:hour|day|week|month|year)s?\b"
_EXAM = r"(?:exam\w*|stud(?:y|ies)|imag\w+|scan\w*|radiograph\w*|films?|cts?|mris?|ultrasound\w*|x-?rays?)\b"
_PICTURES = r"(?:images|pictures|scans|radiographs|films|views|slices|sequences|studies|x-rays|series)\b"

_OF_A_PICTURE = rf"(?:in|by|on|from) (?:this|the|these|an?) (?:[\w-]+ ){{0,3}}(?:image|picture|view|{_EXAM})"

SOURCE = _words(
    r"(?:the|this|that|given|above|provided|original|your|in|accompanying) (?:text|passage|paragraph|sentence|"
    r"statement|report|discussion|abstract|article|paper|case (?:study|report|description|history)|description|legend|"
    r"information)\b",
    r"according to\b",
    r"based on the (?:information|details?|data|findings? (?:provided|given|described))\b",
    r"(?:the|this|present(?:ed)?|our) case\b(?! of)",
    r"(?:as|was|were|is|are|findings?|lesions?|mass|features?|condition) "
    rf"(?:described|mentioned|reported|stated|discussed|specified)\b(?! {_OF_A_PICTURE})",
    rf"(?:described|mentioned|reported|stated|discussed) (?!{_OF_A_PICTURE})(?:in|above|here|earlier|by)\b",
    r"(?:information|details?|context) (?:provided|given)\b",
    r"(?:provided|given) details?\b",
    r"the authors?\b",
)
"""The text that a pair was made from."""

HISTORY = _words(
    # Who the patient is.
    r"\w+[- ](?:year|month|week|day|hour)s?[- ]olds?\b",
    r"y/?o\b",
    r"how old\b",
    r"age[ds]?\b(?! (?:of the (?:fracture|infarct|h?a?ematoma|lesion|bleed)|indetermin))",
    r"gestation\w*",
    r"(?:sex|gender)\b",
    r"(?:man|woman|men|women|boy|girl|infant|newborn|neonate|gentleman|lady)\b",
    r"(?:family|genetic\w*|inherit\w*|hereditary)\b",
    # What the patient feels and tells.
    r"a?symptom\w*",
    r"complain\w*",
    r"present(?:s|ed|ing) (?:with|to|for|complaint)",
    r"presentation\b",
    r"pain(?:ful|less)?\b",
    r"(?:fevers?|nausea|headaches?|seizures?|weakness|vomit\w*|cough\w*|dyspn\w+)\b",
    r"physical exam\w*",
    rf"(?:for|after|since|over|within|about|past|last|next|in) (?:the )?(?:past |last |next )?{_COUNT}[- ]{_TIME}",
    rf"{_COUNT}[- ]{_TIME} (?:after|before|later|post|follow|ago|history|prior)",
    r"duration\b",
    r"how long (?:has|have|did|does|after|will|was)\b",
    rf"(?:history|hx|prior to|previously|previous(?! {_EXAM}))\b",
    r"known (?:history|case|to have)\b",
    r"(?:accident|smok(?:er|ing|ed))\b",
    # What others found out.
    r"lab(?:s|orator\w+)?\b",
    r"(?:serum|leukocytosis|biomarker\w*|tumou?r markers?|blood (?:test|count|pressure|glucose|culture)s?)\b",
    r"(?:biops|histolog|histopatholog|cytolog)\w+",
    r"patholog(?:y|ic(?:ally)?) (?:exam|confirm|report|proven|show)\w*",
    r"confirm(?:s|ed|atory|ation)?\b",
    # What was done, and what is to be done.
    r"treat(?:s|ed|ing|ment|ments|able)?\b",
    r"(?:therap|medicat|antibiotic|steroid|chemo)\w*",
    r"radiotherapy\b",
    r"manage(?:d|ment)\b",
    r"surg(?:ery|eries|ical\w*|eons?)\b(?! (?:clip|hardware|staple|drain|material|sponge))",
    r"(?:post|pre)-?(?:op\w*|treatment)\b",
    r"(?:underwent|undergo\w*|operat(?:ed|ion|ions|ive\w*))\b",
    r"follow(?:ed)?[- ]?up\b",
    r"(?:recommend\w*|next step|should be (?:done|performed|considered))\b",
    r"clinical(?:ly)?\b",
    # What becomes of it.
    r"(?:prognos|surviv|recurren)\w+",
    r"(?:outcome|complication)s?\b",
    r"mortality\b",
    r"risks?\b",
    r"predispos\w+",
    # Why it came.
    r"why\b",
    r"causes?\b(?! (?:mass effect|displacement|compression|narrowing|obstruction|effacement|midline|an? ))",
    r"(?:caused|causative|causation)\b",
    r"what\b[^?]*\bcausing\b",
    r"(?:a?etiolog|pathogene)\w+",
    r"(?:mechanism|responsible for|reason (?:for|behind))\b",
    # What textbooks say of such patients.
    r"(?:prevalen\w+|incidence|population|typically|generally|usually|most common(?:ly)?)\b",
    r"typical\b(?! (?:of|for))",
    r"(?:purpose|significance|importance|implications?|concern)\b",
)
"""The patient, the course of the disease, its cause, its treatment, and what is known of it in general."""

OTHER_IMAGES = _words(
    rf"compar(?:ed|ison|ing|able|es?)\b(?=[^.?]*\b(?:previous|prior|earlier|last|baseline|"
    rf"pre-?op\w*|figures?|{_TIME}|before)\b)",
    rf"(?:previous|prior|earlier) {_EXAM}",
    r"previously (?:seen|noted|described|identified|shown|demonstrated|visible)\b",
    r"fig(?:s|ures?)?\b\.?(?! of eight)",
    r"panels?\b",
    r"(?:images?|pictures?|scans?|views?|slices?|photographs?) (?:[b-h]|[ivx]+|\d+)\b(?!\.)",
    rf"(?:other|another|additional|both|multiple|several|two|three|four|five|six|serial|sequential|consecutive|different|"
    rf"various|all) (?:\w+ )?{_PICTURES}",
    r"(?:top|bottom|upper|lower|left|right|middle) (?:row|column|panel|image|picture)\b",
    r"(?:image|picture) on the (?:left|right)\b",
    r"interval (?:change|increase|decrease|growth|progression|develop\w*|resol\w+|improve\w*|"
    r"enlarge\w*|removal|placement)",
    r"unchanged\b",
    r"progress(?:ed|ion|ing)\b",
    r"(?:improved|improvement|newly|new (?:since|from|compared|lesions?|findings?|areas?))\b",
    r"chang(?:e|es|ed) (?:over|from|since|between|after|in (?:size|appearance) (?:over|from|since|between))\b",
    r"(?:since the|over time|no longer|has resolved|resolution of(?! \d)|remains (?:stable|unchanged))\b",
)
"""Other pictures of the figure or the patient, and what changed between them."""

PANEL_LETTER = re.compile(
    r"\b(?:[Ff]ig(?:ure|s)?\.?|[Ii]mages?|[Pp]anels?|[Pp]ictures?) [A-H]\b"
    r"|(?:^|[.;]\s)[A-H][:,]\s|^\W?[A-Ha-h]\)\s|\(\s*[A-Ha-h]\s*[,&-]\s*[A-Ha-h]\b[^)]*\)"
    r"|\([Aa]\).*\([Bb]\)"
)
"""Letters of the pictures of a figure, such as "(a, b)"; here the case matters. A single "(A)" may be the aorta."""

_COLOUR = r"(?:red|green|blue|yellow|white|black|orange|purple|pink|cyan|magenta|colou?red)"
_DRAWN = r"(?:arrow\w*|circles?|box(?:es)?|lines?|letters?|dots?|stars?|outlines?|rectangles?|squares?|marks?)\b"
OVERLAY = _words(
    r"arrow(?:s|ed|head|heads|-heads?)?\b",
    r"asterisks?\b",
    r"pointers?\b",
    r"stars?\b",
    r"(?<!arterial )circ(?:le|les|led)\b(?! of willis)",
    r"encircled (?:by|in|area|region|structure|lesion)\b",
    r"label(?:s|l?ed|l?ing)? (?:as|with|by|in|on|[a-h]\b|\d)",
    r"(?:is|are|the|letters?|numbers?|structures?|region|area|as) label(?:s|l?ed|l?ing)?\b",
    r"annotat\w+",
    r"(?:is|are|being|was|region|area|structure|point|lesion) marked\b",
    r"mark(?:ed|s)? (?:by|with|in|as|on|at|a|the)\b",
    r"(?:skin|lead|surface) markers?\b",
    r"markers? (?:in|on|shown|placed|point)",
    rf"{_COLOUR} (?:(?:solid|dashed|dotted|thick|thin|curved|open|long|short) )*{_DRAWN}",
    r"(?:dashed|dotted|solid) (?:line|circle|box|arrow)s?\b",
    r"(?:call?ipers?|cross-?hairs?|cross marks?|bounding box)\b",
    r"(?:pointed|pointing) (?:out|to|at|by)\b",
    # Fat outlines a bowel loop; only what a question or a colour outlines was drawn.
    r"(?:what|which \w+|area|region|structure|lesion) (?:is|are|has been|have been) (?:highlighted|outlined)\b",
    r"(?:highlighted|outlined) (?:area|region|structure|part)s?\b",
    rf"(?:highlighted|outlined) (?:in|with|by) {_COLOUR}\b",
    r"letters? [a-z]\b",
)
"""Arrows, letters and whatever else is drawn into pictures."""

SYMBOL = re.compile(r"[→⇒►▲★]|\(\s*\*+\s*\)")
"""Signs that stand for marks in a picture; a bare asterisk is more often a bullet."""

_UNIT = (
    r"(?:mm[23]?|cm[23]?|millimet(?:er|re)s?|centimet(?:er|re)s?|inch(?:es)?|hu|hounsfield units?|ml|cc|"
    r"millilit(?:er|re)s?|kg|degrees?|°|m/s|cm/s|mmhg|"
    r"%(?= (?:stenosis|narrowing|occlusion|loss|of the (?:lumen|diameter))))"
)
MEASURE = re.compile(
    rf"\b\d+(?:[.,]\d+)?\s*(?:(?:[x×]|by|-|to)\s*\d+(?:[.,]\d+)?\s*{_UNIT}?\s*)*-?{_UNIT}(?![^\W_]|/h)"
)
"""A number with its unit."""

ASKS_MEASURE = _words(
    r"how (?:large|big|long (?:is|are|was)|thick|thin|wide|tall|deep|high|far|"
    r"many (?:mm|cm|millimet|centimet|degrees))\b",
    r"(?:what|which|state|give|estimate|determine)\b[^.?]*\b(?:sizes?|diameters?|dimensions?|thickness|length|width|height|"
    r"volume|measurements?|distance|attenuation value|hounsfield|density value|angle of|ratio|velocity|"
    r"ejection fraction)\b(?<!lost volume)(?<!loss of volume)(?! (?:loss|overload))",
    r"measur(?:e|es|ed|ing|ements?)\b",
)
"""A question for a size."""

SPECULATION = _words(
    r"(?<!more )(?<!less )(?:un)?likely\b",
    r"differential (?:diagnos\w+|considerations?|for|of|includes?)\b",
    r"(?:probabl[ey]|possibly|possibilit(?:y|ies)|perhaps|maybe|presum(?:ed|ably))\b",
    r"(?:possible|potential) (?:diagnos|cause|explanation|reason|finding|abnormal|patholog|interpretation|etiolog)\w*",
    r"(?:it|this|these|they|which|findings?|lesions?|mass|masses|nodules?|opacit(?:y|ies)|area|"
    r"structure|appearance|signal) (?:may|might|could) (?:also )?(?:be|represent|suggest|indicate|reflect)\b",
    r"what (?:\w+ )?(?:might|could|may) (?:the|this|it|these|be|have)\b",
    r"can(?:not|'t| not) (?:be )?(?:determin|assess|tell|identif|say|seen|provid|answer|see|view|evaluat|diagnos|"
    r"confirm)\w*",
    r"(?:unable|impossible|it is difficult) to\b",
    r"not (?:specified|mentioned|stated|provided|given|clear|known|available|explicitly|enough|possible|described|"
    r"indicated|determin\w+)\b",
    r"(?:unknown|unclear|unspecified|insufficient|no information|n/a)\b",
    r"as an? (?:ai|language model|assistant)\b",
    r"i(?:'m| am) (?:sorry|unable|not able)",
    r"i (?:can(?:not|'t)|don't|do not|think|believe|would)\b",
    r"(?:sorry|please|apologi[sz]e)\b",
    r"(?:suspect(?:ed|s)?|suspicious|suggest(?:s|ed|ive)?|(?:most|is|are|appears?|and|which|"
    r"findings?) consistent with|compatible with)\b",
)
"""Guesses, refusals, and questions for a guess."""

GUESSED = re.compile(
    r"\W*(?:possible|potential|questionable)\b(?! (?:complication|treatment|risk|cause|side effect)s?)"
)
"""The beginning of an answer that is a guess."""

# Words that English does not have, or not in this sense.
_FOREIGN = {
    "French": "le les des du une est dans avec sur et aux qui que montrant chez droite droit gauche sans cette ce ou "
    "où quelle quel au coupe ainsi par sont son entre",
    "German": "der die das und mit ist im eine einer eines ein den dem von zu auf bei nach nicht für rechts links wird "
    "zeigt welche welcher wo sich sind zur zum aus",
    "Spanish": "el los las una del en con que se por para es y muestra donde cual qué cuál dónde derecho derecha "
    "izquierdo izquierda sin hay esta este paciente lado",
    "Italian": "il lo gli della del di che con una nel nella destra destro sinistra sinistro è si dove quale sono alla "
    "al mostra da e non",
    "Portuguese": "o os um uma da dos das em na com que não direita direito esquerda esquerdo e para por mostra qual "
    "onde é ao",
    "Dutch": "de het een van en met op niet links rechts voor zijn deze bij naar toont welke waar wordt",
}
FOREIGN = {language: frozenset(words.split()) for language, words in _FOREIGN.items()}
"""Function words by language."""

ENGLISH = frozenset(
    [
        "the",
        "of",
        "and",
        "in",
        "is",
        "with",
        "are",
        "on",
        "at",
        "this",
        "that",
        "to",
        "by",
        "an",
        "which",
        "what",
        "where",
        "how",
        "does",
        "for",
        "from",
        "there",
        "no",
        "yes",
        "not",
        "it",
        "image",
        "shows",
        "seen",
        "left",
        "right",
        "was",
        "be",
        "has",
        "as",
        "or",
        "both",
        "can",
        "you",
        "scan",
    ]
)
"""Function words of English, and words that captions in English have."""
