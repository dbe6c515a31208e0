"""What a sentence says of one word in it, marked by brackets: denied, uncertain or of the past."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radvqa.synth.negation import Scope, scope_of

DENIED, DOUBTED, PAST = Scope(negated=True), Scope(uncertain=True), Scope(historical=True)
SAID = Scope()

SENTENCES = [
    # Words that deny what follows.
    ("No [effusion].", DENIED),
    ("There is no [fracture].", DENIED),
    ("Lungs without [consolidation].", DENIED),
    ("No evidence of [pneumothorax] on this film.", DENIED),
    ("No convincing radiographic signs of [infection].", DENIED),
    ("Absence of the [spleen].", DENIED),
    ("The study is negative for [embolism].", DENIED),
    ("Both kidneys are free of [stones].", DENIED),
    ("The ducts show neither [dilatation] nor stones.", DENIED),
    ("The ducts show neither dilatation nor [stones].", DENIED),
    ("This is fat rather than [fluid].", DENIED),
    ("The mass does not show [enhancement].", DENIED),
    ("The nodule doesn't contain [calcification].", DENIED),
    ("The scan failed to show the [abscess].", DENIED),
    ("Complete resolution of the [edema].", DENIED),
    ("A non-[enhancing] cyst.", DENIED),
    ("A non enhancing [cyst].", SAID),
    ("A non-enhancing [cyst].", SAID),
    ("Absent [septum] in the midline.", DENIED),
    ("NO [MASS] SEEN.", DENIED),
    ("The angiogram excludes [dissection].", DENIED),
    ("Lack of [enhancement] in the cortex.", DENIED),
    # Lists go on.
    ("No effusion, [consolidation] or pneumothorax.", DENIED),
    ("No effusion, consolidation or [pneumothorax].", DENIED),
    ("No mass and no [edema].", DENIED),
    ("Without edema, midline [shift], or hemorrhage.", DENIED),
    ("No [edema], however a small bleed remains.", DENIED),
    # Words that deny what comes before.
    ("The [gallbladder] is absent.", DENIED),
    ("[Effusion] is not seen.", DENIED),
    ("[Fracture] was ruled out.", DENIED),
    ("[Thrombosis] was excluded by ultrasound.", DENIED),
    ("The [hematoma] has resolved.", DENIED),
    ("The [catheter] is no longer visible.", DENIED),
    ("[Metastases] could not be identified.", DENIED),
    ("[Malignancy] is unlikely.", DENIED),
    ("[Hydronephrosis], stones and masses are not present.", DENIED),
    # Words that look like denials.
    ("No change of the [effusion].", SAID),
    ("No significant interval change in the [mass].", SAID),
    ("No increase in the size of the [aneurysm].", SAID),
    ("Not only the liver but the [spleen] is large.", SAID),
    ("Case no. 4 with a large [mass].", SAID),
    ("Scan without contrast shows a renal [stone].", SAID),
    ("Without intravenous contrast, the [liver] is dark.", SAID),
    ("Images with and without contrast show a [cyst].", SAID),
    ("Without contrast [enhancement].", DENIED),
    # Words that end a reach.
    ("No effusion but a [mass] in the lung.", SAID),
    ("No fracture, although [swelling] remains.", SAID),
    ("No fracture. A joint [effusion] lies beside it.", SAID),
    ("No fracture; joint [effusion].", SAID),
    ("Liver without cysts, which shows an [abscess].", SAID),
    ("There is no edema and there is a large [mass].", SAID),
    ("A [mass] is seen and the spleen is not seen.", SAID),
    ("Normal kidneys with a [cyst] of 1.5 cm. No stones.", SAID),
    ("A 1.5 cm [mass] without calcification.", SAID),
    ("No evidence of pneumothorax with a left [effusion].", SAID),
    ("Absent spleen and large [kidney].", SAID),
    # Uncertain.
    ("Possible [fracture] of the rib.", DOUBTED),
    ("Probable [abscess].", DOUBTED),
    ("Suspicious for [malignancy].", DOUBTED),
    ("The lesion may represent a [hemangioma].", DOUBTED),
    ("This could be due to [hemorrhage].", DOUBTED),
    ("The dark area is likely [edema].", DOUBTED),
    ("[Lymphoma] cannot be excluded.", DOUBTED),
    ("A small [bleed] could not be ruled out.", DOUBTED),
    ("Suggestive of [meningioma].", DOUBTED),
    ("[Abscess] versus tumor.", DOUBTED),
    ("Abscess vs. [tumor].", DOUBTED),
    ("The differential diagnosis includes [lymphoma].", DOUBTED),
    ("Evaluate for [appendicitis].", DOUBTED),
    ("[Fracture]?", DOUBTED),
    ("Likely edema; the [tumor] is dark.", SAID),
    ("Consistent with an [abscess].", SAID),
    # Of the past.
    ("History of [melanoma].", PAST),
    ("Status post [craniotomy].", PAST),
    ("The prior [fracture] has healed.", PAST),
    ("Known [aneurysm] of the aorta.", PAST),
    ("After removal of the [tumor].", PAST),
    ("A woman with [lymphoma].", PAST),
    ("A 54-year-old man with [pneumonia].", PAST),
    ("Patient diagnosed with [cirrhosis].", PAST),
    ("The [mass] was resected.", PAST),
    ("History of melanoma, now a brain [mass].", SAID),
    ("History of melanoma, a brain [mass].", SAID),
    ("Patient with fever shows a [consolidation].", SAID),
    ("Prior to surgery, the [tumor] is large.", SAID),
]


@pytest.mark.parametrize(("marked", "expected"), SENTENCES)
def test_what_is_said_of_the_marked_word(marked: str, expected: Scope) -> None:
    start, end = marked.index("["), marked.index("]") - 1
    assert scope_of(marked.replace("[", "").replace("]", ""), start, end) == expected


@given(st.text(max_size=60), st.text(max_size=60), st.text(min_size=1, max_size=10))
def test_any_text_has_a_scope(before: str, after: str, word: str) -> None:
    text = f"{before}{word}{after}"
    assert isinstance(scope_of(text, len(before), len(before) + len(word)), Scope)


@given(st.sampled_from([marked for marked, expected in SENTENCES if expected != SAID]))
def test_another_sentence_changes_nothing(marked: str) -> None:
    text = marked.replace("[", "").replace("]", "")
    assert scope_of(f"{text} A tumor lies there.", len(text) + 3, len(text) + 8) == SAID
