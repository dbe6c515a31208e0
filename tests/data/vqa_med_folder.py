"""Tiny VQA-Med folders in the official layouts of 2019, 2020 and 2021."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

TABLES = {
    ("2019", "train"): ("ImageClef-2019-VQA-Med-Training", "All_QA_Pairs_train.txt", "Train_images"),
    ("2019", "val"): ("ImageClef-2019-VQA-Med-Validation", "All_QA_Pairs_val.txt", "Val_images"),
    ("2019", "test"): ("VQAMed2019Test", "VQAMed2019_Test_Questions_w_Ref_Answers.txt", "VQAMed2019_Test_Images"),
    ("2020", "train"): (
        "VQAMed2020-VQAnswering-TrainingSet",
        "VQAnswering_2020_Train_QA_pairs.txt",
        "VQAnswering_2020_Train_images",
    ),
    ("2020", "test"): (
        "VQA-TestSet-ReferenceAnswers-VQAMed2020-Task1",
        "VQAMed2020-Task1-VQAnswering-Test-ReferenceAnswers.txt",
        "Task1-2020-VQAnswering-Test-Images",
    ),
    ("2021", "val"): (
        "VQA-Med-2021-Tasks-1-2-NewValidationSets",
        "VQA-Med-2021-VQAnswering-Task1-New-ValidationSet.txt",
        "ImageCLEF-2021-VQA-Med-New-Validation-Images",
    ),
}
QUESTIONS = "VQAMed2020-Task1-VQAnswering-Test-Questions.txt"
ANNOTATIONS = "Task1-VQAnswering2021-Test-ReferenceAnswers_mscoco_format_vqa.json"


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogateescape")
    return path


def write_images(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (12, 16), "gray").save(folder / f"{name}.jpg")


def write_part(root: Path, edition: str, split: str, lines: Sequence[str], *, images: Sequence[str] = ("a",)) -> Path:
    """The table of one split of one edition, and its pictures; returns the table."""
    folder, table, pictures = TABLES[edition, split]
    write_images(root / folder / pictures, images)
    return write_lines(root / folder / table, lines)


def write_annotations(root: Path, entries: Any, *, images: Sequence[str] = ("a",)) -> Path:
    """The test set of 2021 as it is with the evaluation code alone."""
    write_images(root / "Task1-VQA-2021-TestSet-w-GroundTruth" / "VQA-500-Images", images)
    document = {"info": "", "annotations": entries} if not isinstance(entries, Mapping) else entries
    return write_lines(root / "EvaluationCode" / "data" / "resources" / ANNOTATIONS, [json.dumps(document)])


def annotation(image_id: str, *answers: Any, **changes: Any) -> dict[str, Any]:
    return {
        "question_type": "abnormality",
        "question": "what is seen in the image?",
        "multiple_choice_answer": "ap",
        "answers": [
            {"answer": answer, "answer_confidence": "Yes", "answer_id": number} for number, answer in enumerate(answers)
        ],
        "image_id": image_id,
        "answer_type": "abnormality",
        "question_id": image_id,
        **changes,
    }
