"""Generated questions on ROCO version 1: ROCO-QA and ROCO-QA-Train of ``adishourya`` on the Hugging Face hub.

Two layouts are read:

* Parquet files of the hub with the columns image_id, image, question and answer; their splits are called ``Vaild``
  (sic) and ``Test``;
* the lists of the authors' repository, such as ``valid_captions_qa_pairs_output.json``, without pictures. Test rows
  hold image_id, question and answer, validation rows image_id, ``original caption`` and ``qa_pair``: there ``qa_pair``
  is the question, and the caption stands as its answer.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, final

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.adapters.roco import image_folders, read_side_files
from radvqa.data.answers import inferred_answer_type
from radvqa.data.hub_layout import parquet_splits, split_named
from radvqa.data.image_cache import embedded_image
from radvqa.data.tables import Row, RowError, image_inside, items_of, parquet_columns, read_json, read_parquet, shown
from radvqa.errors import DataError, RecipeError
from radvqa.sample import SPLITS, Defect, Split, VqaSample

_COLUMNS = frozenset({"image_id", "image", "question", "answer"})
_NOT_COLUMNS = frozenset({"case_id", "mode"})  # of MEDPIX-ClinQA, which has all of the columns above
_ID = re.compile(r"ROCO_[0-9]{1,12}")


@final
class RocoQaDataset(DatasetAdapter):
    """ROCO-QA (adishourya, 2024): questions that a language model wrote for captions of ROCO version 1.

    * There are no ids of questions: the sample id is ``roco_qa-<file>:<row number>``, so it holds for one version of a
      file. The image id is the ROCO_ID.
    * The answer of nearly every row is the caption of the figure: long, and often about what the picture does not show.
    * The group is the article of the figure where ``images`` is a folder of ROCO itself, with its ``licences.txt`` or
      ``dlinks.txt``; else the image, and every split read has a defect ``no_articles``.
    """

    licence: ClassVar[str] = "none stated; captions and pictures have the licences of ROCO, per image"
    citation: ClassVar[str] = "adishourya. ROCO-QA and ROCO-QA-Train (project MedM). Hugging Face Hub, 2024"
    homepage: ClassVar[str] = "https://huggingface.co/datasets/adishourya/ROCO-QA"

    def __init__(self, root: str, *, images: str | None = None) -> None:
        """Open the file or folder ``root``.

        Args:
            root: a Parquet file or a list of the repository, or a folder with some.
            images: for the lists: the folder ``roco-dataset`` of ROCO version 1, or one folder of its pictures.

        Raises:
            RecipeError: ``root`` holds lists and no images are given, or the reverse.
            DataError: there is no such table, or no folder of images.
        """
        self.root = Path(root).expanduser()
        self._hub_files = _hub_files(self.root)
        self._lists = {} if self._hub_files else _lists(self.root)
        if not self._hub_files and not self._lists:
            raise DataError(
                "ROCO-QA is not at this place",
                where=str(self.root),
                expected="Parquet files with the columns image_id, image, question, answer; or *qa_pairs*.json",
                got="none of them" if self.root.exists() else "no such file or folder",
                fix=f"fetch them from {self.homepage}",
            )
        if bool(self._lists) != (images is not None):
            raise RecipeError(
                "the lists of ROCO-QA need the option images, its Parquet files hold their pictures",
                where=str(self.root),
                expected="images: the folder of ROCO" if self._lists else "no images",
                got=f"images: {images!r}",
                fix="add or remove images at this entry under datasets",
            )
        self._images = Path(images).expanduser() if images is not None else None
        if self._images is not None and not self._images.is_dir():
            raise DataError(
                "the folder of the ROCO pictures is not there",
                where=str(self._images),
                expected="the folder roco-dataset, or a folder with ROCO_....jpg",
                got="a file" if self._images.exists() else "no such folder",
                fix="correct the option images",
            )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Parquet files with the columns of the hub, or a file ``*qa_pairs*.json`` that names a split."""
        return bool(_hub_files(root)) or bool(_lists(root))

    def splits(self) -> tuple[Split, ...]:
        """The splits that have a file."""
        return tuple(self._files)

    def sources(self) -> tuple[Path, ...]:
        """The files of all splits."""
        return tuple(file for files in self._files.values() for file in files)

    def rows(self, split: Split) -> Iterator[Item]:
        """One split in file order: a sample or a reject for every row.

        Raises:
            DataError: the split is not there, or one of its files cannot be read.
        """
        if split not in self._files:
            raise DataError(
                f"ROCO-QA has no split {split!r} here",
                where=str(self.root),
                expected=f"one of {', '.join(self._files)}",
                got=repr(split),
                fix="choose a split that is there",
            )
        folders = image_folders(self._images, split) if self._images is not None else ()
        articles = {key: value for folder in folders for key, value in read_side_files(folder).articles.items()}
        if not articles:
            detail = "no article is known: every image is its own group, so an article may be in several splits"
            yield Defect(subject="roco_qa", reason="no_articles", where=str(self.root), detail=detail)
        for file in self._files[split]:
            rows = read_parquet(file) if self._hub_files else read_json(file)
            yield from items_of(rows, partial(self._items, split=split, articles=articles))

    @property
    def _files(self) -> Mapping[Split, tuple[Path, ...]]:
        return self._hub_files or self._lists

    def _items(self, row: Row, *, split: Split, articles: Mapping[str, str]) -> Iterator[Item]:
        sample_id, image_id = f"roco_qa-{row.name}", row.text("image_id").strip()
        if not _ID.fullmatch(image_id):
            raise RowError("unknown_value", f"image_id should be ROCO_ and a number, got {shown(image_id)}")
        of_captions = "question" not in row.values and "qa_pair" in row.values
        question = row.text("qa_pair" if of_captions else "question")
        answer = row.text("original caption" if of_captions else "answer")
        texts = {"question": " ".join(question.split()), "answer": " ".join(answer.split())}
        image = embedded_image(row, "image") if self._images is None else _picture(self._images, image_id, split=split)
        for key, raw in (("question", question), ("answer", answer)):
            if texts[key] != raw.strip():
                detail = f"white space inside the {key} {raw[:80]!r} was collapsed"
                yield Defect(
                    subject=sample_id,
                    reason=f"white_space_in_{key}",
                    where=f"{row.where}, {image_id}",
                    detail=detail,
                )
        yield VqaSample(
            sample_id=sample_id,
            image_id=image_id,
            image=image,
            question=texts["question"],
            answers=(texts["answer"],),
            answer_type=inferred_answer_type(texts["answer"]),
            answer_type_stated=False,
            group_id=articles.get(image_id, image_id),
            split=split,
        )


ADAPTER = RocoQaDataset


def _hub_files(root: Path) -> Mapping[Split, tuple[Path, ...]]:
    found = parquet_splits(root, columns=_COLUMNS)
    kept = {
        split: tuple(file for file in files if not _NOT_COLUMNS & set(parquet_columns(file)))
        for split, files in found.items()
    }
    return {split: files for split, files in kept.items() if files}


def _lists(root: Path) -> Mapping[Split, tuple[Path, ...]]:
    """The files ``*qa_pairs*.json``, by the split that their names begin with."""
    files = [root] if root.is_file() else sorted(root.glob("*qa_pairs*.json")) if root.is_dir() else []
    found: dict[Split, list[Path]] = {}
    for file in files:
        split = split_named(re.split(r"[^A-Za-z]+", file.name)[0])
        if split is not None and "qa_pairs" in file.name and file.suffix == ".json":
            found.setdefault(split, []).append(file)
    return {split: tuple(found[split]) for split in SPLITS if split in found}


def _picture(images: Path, image_id: str, *, split: Split) -> Path:
    """The file of a picture in the folder of images, or in the folders of its split where that is ROCO itself."""
    candidates = []
    for folder in [folder / "images" for folder in image_folders(images, split)] or [images]:
        candidates.append(
            image_inside(images, str((folder / f"{image_id}.jpg").relative_to(images)), key="the picture")
        )
    return next((path for path in candidates if path.is_file()), candidates[0])
