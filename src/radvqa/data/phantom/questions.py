"""Questions about a phantom image, chosen so that a question's text does not give its answer away."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from radvqa.data.phantom.image import LARGE_DIAMETER, SMALL_DIAMETER, Lesion, Phantom
from radvqa.sample import AnswerType

_YES_NO = ("Yes", "No")
_SIDES = ("Left", "Right")
_OPEN_SHARE = 0.58
_WEIGHTS = {
    "Modality": 1.0,
    "Plane": 1.0,
    "Body part": 1.0,
    "Organ": 2.0,
    "Quantity": 1.5,
    "Abnormality": 3.0,
    "Position": 4.0,
    "Size": 3.0,
    "Color": 2.0,
}
CONTENT_TYPES = tuple(_WEIGHTS)
_CLEARLY_LARGER = 1.2
_CLEARLY_OFF_CENTRE = 0.05

_PRESENCE = {
    "right lung": "an air-filled right lung",
    "left lung": "an air-filled left lung",
    "heart": "the heart",
    "liver": "the liver",
    "gallbladder": "the gallbladder",
    "spleen": "the spleen",
    "stomach": "the stomach",
    "right kidney": "the right kidney",
    "left kidney": "the left kidney",
    "bladder": "the urinary bladder",
    "ventricles": "a cerebral ventricle",
    "cerebellum": "the cerebellum",
}
_HOST_WORDS = {
    "right hemisphere": "right half of the brain",
    "left hemisphere": "left half of the brain",
    "cerebrum": "cerebrum",
    "skull": "skull",
}
_PLACES = {
    "right lung": "Right Lung",
    "left lung": "Left Lung",
    "liver": "Liver",
    "right kidney": "Right Kidney",
    "left kidney": "Left Kidney",
    "right hemisphere": "Right Hemisphere",
    "left hemisphere": "Left Hemisphere",
    "cerebrum": "Cerebrum",
    "skull": "Skull",
}
_WHOLE_ORGANS = {
    "right lung": "Lung",
    "left lung": "Lung",
    "liver": "Liver",
    "right kidney": "Kidney",
    "left kidney": "Kidney",
    "right hemisphere": "Brain",
    "left hemisphere": "Brain",
    "cerebrum": "Brain",
    "cerebellum": "Brain",
    "skull": "Skull",
}
_PAIRS = {"lung": ("right lung", "left lung"), "kidney": ("right kidney", "left kidney")}


class Question(NamedTuple):
    """One thing that can be asked of an image: its wordings, the true answer and all answers it may have elsewhere."""

    content_type: str
    answer_type: AnswerType
    wordings: tuple[str, ...]
    answer: str
    choices: tuple[str, ...]


class Asked(NamedTuple):
    """One question as asked."""

    text: str
    answer: str
    answer_type: AnswerType
    content_type: str


def _open(content_type: str, answer: str, choices: tuple[str, ...], *wordings: str) -> Question:
    return Question(content_type, "open", wordings, answer, choices)


def _choice(content_type: str, answer: str, choices: tuple[str, ...], *wordings: str) -> Question:
    return Question(content_type, "closed", wordings, answer, choices)


def _yes_no(content_type: str, truth: bool, *wordings: str) -> Question:
    return Question(content_type, "closed", wordings, "Yes" if truth else "No", _YES_NO)


def _about_technique(phantom: Phantom) -> Iterator[Question]:
    modality, plane = phantom.view.modality, phantom.view.plane
    yield _open(
        "Modality",
        modality,
        ("X-Ray", "CT", "MRI"),
        "What modality is used to take this image?",
        "Which imaging technique produced this picture?",
        "How was this image acquired?",
    )
    for name, phrase in (("X-Ray", "an X-ray image"), ("CT", "a CT scan"), ("MRI", "an MR image")):
        yield _yes_no("Modality", modality == name, f"Is this {phrase}?", f"Are we looking at {phrase}?")
    if phantom.weighting is not None:
        weightings = ("T1", "T2")
        yield _open("Modality", phantom.weighting, weightings, "What weighting does this MR image have?")
        yield _choice("Modality", phantom.weighting, weightings, "Is this MR image T1 or T2 weighted?")
        for name in weightings:
            yield _yes_no("Modality", phantom.weighting == name, f"Is this MR image {name} weighted?")
    if modality == "X-Ray":
        yield _choice("Plane", plane, ("Frontal", "Lateral"), "Is this a frontal or a lateral radiograph?")
        return
    planes = ("Axial", "Coronal", "Sagittal")
    yield _open(
        "Plane", plane, planes, "In which plane was this slice taken?", "What is the orientation of this slice?"
    )
    for name in planes:
        article = "an" if name == "Axial" else "a"
        yield _yes_no("Plane", plane == name, f"Is this {article} {name.lower()} slice?")


def _about_anatomy(phantom: Phantom) -> Iterator[Question]:
    part = phantom.view.body_part
    parts = ("Chest", "Abdomen", "Head")
    yield _open(
        "Body part",
        part,
        parts,
        "Which part of the body is shown?",
        "What region of the body does this image cover?",
        "Which body part was examined here?",
    )
    for name in parts:
        yield _yes_no("Body part", part == name, f"Is this an examination of the {name.lower()}?")
    for organ, phrase in _PRESENCE.items():
        if organ not in phantom.uncertain:
            yield _yes_no(
                "Organ", organ in phantom.organs, f"Is {phrase} visible here?", f"Does the image contain {phrase}?"
            )
    for organ, pair in _PAIRS.items():
        if phantom.uncertain.isdisjoint(pair):
            yield from _about_pair(phantom, organ, pair)


def _about_pair(phantom: Phantom, organ: str, pair: tuple[str, str]) -> Iterator[Question]:
    areas = [phantom.organs.get(name, 0) for name in pair]
    adjective = "air-filled " if organ == "lung" else ""
    yield _open(
        "Quantity",
        str(sum(area > 0 for area in areas)),
        ("0", "1", "2"),
        f"How many {adjective}{organ}s are visible?",
        f"What is the number of {adjective}{organ}s in this picture?",
    )
    if min(areas) > 0 and max(areas) >= _CLEARLY_LARGER * min(areas):
        larger = "Right" if areas[0] > areas[1] else "Left"
        yield _choice("Size", larger, _SIDES, f"Which {organ} is bigger, the left or the right one?")
        yield _open("Size", larger, _SIDES, f"On which side is the bigger {organ}?")
        yield _yes_no("Size", larger == "Right", f"Is the right {organ} larger than the left {organ}?")


def _about_lesions(phantom: Phantom) -> Iterator[Question]:
    lesions = phantom.lesions
    yield _open(
        "Quantity",
        str(len(lesions)),
        ("0", "1", "2", "3", "4"),
        "How many lesions are there?",
        "What is the number of lesions in this image?",
    )
    yield _yes_no("Quantity", len(lesions) > 1, "Is there more than one lesion?")
    yield _yes_no(
        "Abnormality",
        bool(lesions),
        "Is there a lesion in this image?",
        "Does the image show any lesion?",
        "Can a lesion be seen?",
    )
    for host in phantom.view.hosts:
        if host in phantom.organs:
            hit = any(lesion.organ == host for lesion in lesions)
            words = _HOST_WORDS.get(host, host)
            yield _yes_no(
                "Abnormality", hit, f"Is there a lesion in the {words}?", f"Does the {words} contain a lesion?"
            )
    if phantom.view.sided:
        for side in _SIDES:
            hit = any(lesion.side == side for lesion in lesions)
            yield _yes_no("Abnormality", hit, f"Is there a lesion on the patient's {side.lower()} side?")
    if len(lesions) == 1:
        yield from _about_one_lesion(lesions[0])


def _about_one_lesion(lesion: Lesion) -> Iterator[Question]:
    if lesion.organ in _PLACES:
        yield _open(
            "Position",
            _PLACES[lesion.organ],
            tuple(_PLACES.values()),
            "Where is the lesion located?",
            "In which structure does the lesion lie?",
        )
    if lesion.organ in _WHOLE_ORGANS:
        choices = tuple(dict.fromkeys(_WHOLE_ORGANS.values()))
        yield _open(
            "Position",
            _WHOLE_ORGANS[lesion.organ],
            choices,
            "Which organ carries the lesion?",
            "What organ has the lesion in it?",
        )
    if lesion.side is not None:
        yield _choice("Position", lesion.side, _SIDES, "Is the lesion on the patient's left or right side?")
        yield _open("Position", lesion.side, _SIDES, "On which side of the patient is the lesion?")
        for organ, pair in _PAIRS.items():
            if lesion.organ in pair:
                yield _open("Position", lesion.side, _SIDES, f"Which {organ} contains the lesion?")
    x, y = (coordinate - 0.5 for coordinate in lesion.centre)
    if min(abs(x), abs(y)) > _CLEARLY_OFF_CENTRE:
        corner = f"{'Upper' if y < 0 else 'Lower'} {'Left' if x < 0 else 'Right'}"
        choices = ("Upper Left", "Upper Right", "Lower Left", "Lower Right")
        yield _open("Position", corner, choices, "In which quadrant of the picture, as displayed, is the lesion?")
    if not SMALL_DIAMETER < lesion.diameter < LARGE_DIAMETER:
        size = "Large" if lesion.diameter >= LARGE_DIAMETER else "Small"
        yield _choice("Size", size, ("Large", "Small"), "Is the lesion large or small?")
        yield _open("Size", size, ("Large", "Small"), "What size does the lesion have?")
        yield _yes_no("Size", size == "Large", "Is the lesion a large one?")
    tone = "Bright" if lesion.bright else "Dark"
    yield _choice("Color", tone, ("Bright", "Dark"), "Is the lesion bright or dark compared with the organ around it?")
    yield _yes_no("Color", lesion.bright, "Is the lesion brighter than the organ around it?")


def possible_questions(phantom: Phantom) -> tuple[Question, ...]:
    """Everything that can be asked of an image without doubt about the answer."""
    return (*_about_technique(phantom), *_about_anatomy(phantom), *_about_lesions(phantom))


class QuestionQuota:
    """Chooses questions image by image so that each text gets all its answers equally often.

    A text may be asked with an answer only while no other of its possible answers has been used less often: over any
    prefix of a split the counts of its answers differ by at most one. What is asked of image *i* depends on the images
    before it, never on those after.
    """

    def __init__(self, content_types: Collection[str]) -> None:
        self._content_types = frozenset(content_types)
        self._used: dict[str, Counter[str]] = defaultdict(Counter)

    def choose(self, phantom: Phantom, *, count: int, rng: np.random.Generator) -> list[Asked]:
        """Up to ``count`` questions, fewer when the quota leaves no more; each fact is asked at most once."""
        pool: dict[tuple[AnswerType, str], list[Question]] = defaultdict(list)
        questions = [one for one in possible_questions(phantom) if one.content_type in self._content_types]
        for place in rng.permutation(len(questions)):
            question = questions[int(place)]
            pool[question.answer_type, question.content_type].append(question)
        asked: list[Asked] = []
        while pool and len(asked) < count:
            wanted: AnswerType = "open" if rng.random() < _OPEN_SHARE else "closed"
            groups = [group for group in pool if group[0] == wanted] or list(pool)
            weights = np.array([_WEIGHTS[content_type] for _, content_type in groups])
            group = groups[int(rng.choice(len(groups), p=weights / weights.sum()))]
            picked = self._pick(pool[group], rng)
            if picked is None:
                del pool[group]
                continue
            question, text = picked
            pool[group].remove(question)
            self._used[text][question.answer] += 1
            asked.append(Asked(text, question.answer, question.answer_type, question.content_type))
        return asked

    def _pick(self, questions: list[Question], rng: np.random.Generator) -> tuple[Question, str] | None:
        """A question and wording with room for its answer; first one whose other answers wait for this one."""
        spare: tuple[Question, str] | None = None
        for question in questions:
            for place in rng.permutation(len(question.wordings)):
                text = question.wordings[int(place)]
                used = self._used[text]
                counts = [used[choice] for choice in question.choices]
                if used[question.answer] > min(counts):
                    continue
                if used[question.answer] < max(counts):
                    return question, text
                spare = spare or (question, text)
        return spare
