"""ROCOv2: radiology figures of open articles with captions and UMLS concepts, from Zenodo or the Hugging Face hub.

Layout of the Zenodo record, with the archives unpacked::

    {train,valid,test}_captions.csv     ID, Caption
    {train,valid,test}_concepts.csv     ID, CUIs separated by ";"
    {train,valid,test}_concepts_manual.csv   a part of the concepts; never read
    cui_mapping.csv                     CUI, Canonical name
    license_information.csv             ID, PMCID, Attribution, Link
    train/ROCOv2_2023_train_000001.jpg  or train_images/train/..., per split

``eltorio/ROCOv2-radiology`` on the hub holds Parquet files with the columns image, image_id, caption and cui. The
numbers in the ids have gaps in both.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, final

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.hub_layout import parquet_splits
from radvqa.data.image_cache import embedded_image
from radvqa.data.tables import Row, RowError, image_inside, items_of, read_csv, read_parquet, shown
from radvqa.errors import DataError
from radvqa.sample import SPLITS, CaptionedImage, Defect, Split

_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("valid", "validation", "val"),
    "test": ("test",),
}
_HUB_COLUMNS = frozenset({"image", "image_id", "caption", "cui"})
_ARTICLE = re.compile(r"(?:PMC)?([0-9]+)")
_LICENCE = re.compile(r"CC[ -]BY(?:-(?:NC|SA|ND))*|CC0")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Articles:
    """Article and licence of each image, and the lines of the file that cannot be used."""

    groups: Mapping[str, str]
    licences: Mapping[str, str]
    defects: tuple[Defect, ...]


@final
class Rocov2Dataset(DatasetAdapter):
    """ROCOv2 (Rückert et al., Scientific Data 2024) in its official split.

    * The sample id is ``rocov2-<ID>``, the image id the ID.
    * The group is the article, such as ``PMC3970251``, where ``license_information.csv`` is there: figures of one
      article show one patient or one study. Without that file, and on the hub, no article is known: the group is the
      image, and every split read has a defect ``no_articles``.
    * The text is the caption as published, stripped.
    * Tags: ``cuis`` (UMLS concepts joined by ";"), ``concepts`` (their names joined by "; ", where the mapping has
      them), ``licence`` of the image. Only concepts of modality, body region and direction were chosen by people; the
      others come from a program.
    """

    licence: ClassVar[str] = "CC BY-NC-SA 4.0 or CC BY 4.0: cards disagree; each image has its own, CC BY or CC BY-NC"
    citation: ClassVar[str] = (
        "J. Rückert, L. Bloch, R. Brüngel, A. Idrissi-Yaghir, H. Schäfer, C. S. Schmidt, S. Koitka, O. Pelka, "
        "A. Ben Abacha, A. García Seco de Herrera, H. Müller, P. A. Horn, F. Nensa, C. M. Friedrich. ROCOv2: Radiology "
        "Objects in COntext Version 2, an Updated Multimodal Image Dataset. Scientific Data 11, 688 (2024). "
        "doi:10.1038/s41597-024-03496-6"
    )
    homepage: ClassVar[str] = "https://zenodo.org/records/10821435"

    def __init__(self, root: str) -> None:
        """Open the folder ``root``, or one Parquet file.

        Raises:
            DataError: there are neither tables of captions nor Parquet files of the hub.
        """
        self.root = Path(root).expanduser()
        self._hub_files = parquet_splits(self.root, columns=_HUB_COLUMNS)
        if not self.splits():
            raise DataError(
                "ROCOv2 is not at this place",
                where=str(self.root),
                expected="a folder with train_captions.csv (or valid, test); or Parquet files with the columns "
                + ", ".join(sorted(_HUB_COLUMNS)),
                got="none of them" if self.root.exists() else "no such folder",
                fix=f"point root at the folder with these tables, or fetch them from {self.homepage}",
            )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A folder with tables of captions and of concepts, or Parquet files with the columns of the hub."""
        pairs = ((_table(root, split, "captions"), _table(root, split, "concepts")) for split in SPLITS)
        return any(None not in pair for pair in pairs) or bool(parquet_splits(root, columns=_HUB_COLUMNS))

    def splits(self) -> tuple[Split, ...]:
        """The splits that have a table."""
        if self._hub_files:
            return tuple(self._hub_files)
        return tuple(split for split in SPLITS if _table(self.root, split, "captions") is not None)

    def sources(self) -> tuple[Path, ...]:
        """The tables that are read."""
        if self._hub_files:
            return tuple(file for files in self._hub_files.values() for file in files)
        tables = [_table(self.root, split, kind) for split in self.splits() for kind in ("captions", "concepts")]
        shared = [self.root / name for name in ("cui_mapping.csv", "license_information.csv")]
        return (*(table for table in tables if table is not None), *(table for table in shared if table.is_file()))

    def rows(self, split: Split) -> Iterator[Item]:
        """One split in file order: a record or a reject for every caption.

        Raises:
            DataError: the split is not there, or one of its tables cannot be read.
        """
        if split not in self.splits():
            raise DataError(
                f"ROCOv2 has no split {split!r} here",
                where=str(self.root),
                expected=f"one of {', '.join(self.splits())}",
                got=repr(split),
                fix="fetch its table of captions, or choose a split that is there",
            )
        if not self._articles.groups:
            detail = "no article is known: every image is its own group, so an article may be in several splits"
            yield Defect(subject="rocov2", reason="no_articles", where=str(self.root), detail=detail)
        for file in self._hub_files.get(split, ()):
            yield from items_of(read_parquet(file), partial(_hub_items, split=split))
        captions = None if self._hub_files else _table(self.root, split, "captions")
        if captions is not None:
            concepts, _ = self._concepts(split)
            make = partial(self._items, split=split, pictures=self._pictures(split), concepts=concepts)
            yield from items_of(read_csv(captions), make)

    def defects(self) -> Iterator[Defect]:
        """Lines of the tables of concepts, names and articles that cannot be used, and concepts without a name."""
        if self._hub_files:
            return
        try:
            names, broken_names = self._names
            yield from broken_names
            yield from self._articles.defects
            nameless: set[str] = set()
            for split in self.splits():
                concepts, broken = self._concepts(split)
                yield from broken
                nameless.update(cui for cuis in concepts.values() for cui in cuis if cui not in names)
        except DataError as error:
            detail = f"{error.what}: {error.got}"
            yield Defect(subject="rocov2", reason="unreadable_file", where=error.where or "", detail=detail)
            return
        if nameless:
            detail = f"{len(nameless):,} concepts have no name there, such as {min(nameless)[:80]}"
            where = str(self.root / "cui_mapping.csv")
            yield Defect(subject="rocov2", reason="concept_without_name", where=where, detail=detail)

    def _items(
        self, row: Row, *, split: Split, pictures: str, concepts: Mapping[str, tuple[str, ...]]
    ) -> Iterator[Item]:
        image_id = row.text("ID").strip()
        image = image_inside(self.root, f"{pictures}/{image_id}.jpg", key="the picture")
        names, _ = self._names
        cuis = concepts.get(image_id, ())
        tags = {
            "cuis": ";".join(cuis),
            "concepts": "; ".join(names[cui] for cui in cuis if cui in names),
            "licence": self._articles.licences.get(image_id, ""),
        }
        record = CaptionedImage(
            sample_id=f"rocov2-{image_id}",
            image_id=image_id,
            image=image,
            text=row.text("Caption").strip(),
            group_id=self._articles.groups.get(image_id, image_id),
            split=split,
            tags={key: value for key, value in tags.items() if value},
        )
        if self._articles.groups and image_id not in self._articles.groups:
            detail = "license_information.csv does not name its article: the image is its own group"
            yield Defect(subject=record.sample_id, reason="no_article", where=row.where, detail=detail)
        yield record

    def _pictures(self, split: Split) -> str:
        """The folder of a split's pictures, relative to the root; the first candidate if none is there."""
        folders = [f for name in _NAMES[split] for f in (name, f"{name}_images/{name}", f"{name}_images")]
        return next((folder for folder in folders if (self.root / folder).is_dir()), folders[0])

    def _concepts(self, split: Split) -> tuple[Mapping[str, tuple[str, ...]], list[Defect]]:
        found: dict[str, tuple[str, ...]] = {}
        defects: list[Defect] = []
        for row in _side_rows(_table(self.root, split, "concepts")):
            with _noted(row, defects):
                image_id, cuis = row.text("ID").strip(), row.text("CUIs", may_be_empty=True).split(";")
                kept = tuple(cui.strip() for cui in cuis if cui.strip())
                if found.setdefault(image_id, kept) != kept:
                    raise RowError("conflict", f"{image_id[:80]} had other concepts in an earlier row, which were kept")
        return found, defects

    @cached_property
    def _names(self) -> tuple[Mapping[str, str], list[Defect]]:
        found: dict[str, str] = {}
        defects: list[Defect] = []
        for row in _side_rows(self.root / "cui_mapping.csv"):
            with _noted(row, defects):
                found.setdefault(row.text("CUI").strip(), row.text("Canonical name").strip())
        return found, defects

    @cached_property
    def _articles(self) -> _Articles:
        groups: dict[str, str] = {}
        licences: dict[str, str] = {}
        defects: list[Defect] = []
        for row in _side_rows(None if self._hub_files else self.root / "license_information.csv"):
            with _noted(row, defects):
                image_id, stated = row.text("ID").strip(), row.text("PMCID").strip()
                article, licence = _ARTICLE.fullmatch(stated), _LICENCE.search(row.optional_text("Attribution"))
                if article is None:
                    raise RowError("no_article", f"PMCID should be PMC and a number, got {shown(stated)}")
                groups.setdefault(image_id, f"PMC{article[1]}")
                if licence is not None:
                    licences.setdefault(image_id, licence[0])
        return _Articles(groups=groups, licences=licences, defects=tuple(defects))


ADAPTER = Rocov2Dataset


def _hub_items(row: Row, *, split: Split) -> Iterator[Item]:
    image_id, caption, cuis = row.text("image_id").strip(), row.text("caption").strip(), row.values.get("cui")
    if cuis is not None and not isinstance(cuis, list):
        raise RowError("wrong_type", f"cui should be a list, got {shown(cuis)}")
    kept = [Row(row.where, row.name, {"cui": cui}).text("cui").strip() for cui in cuis or ()]
    yield CaptionedImage(
        sample_id=f"rocov2-{image_id}",
        image_id=image_id,
        image=embedded_image(row, "image"),
        text=caption,
        group_id=image_id,
        split=split,
        tags={"cuis": ";".join(kept)} if kept else {},
    )


def _table(root: Path, split: Split, kind: str) -> Path | None:
    """The table of one kind for a split, in the first spelling of the split that is there."""
    tables = (root / f"{name}_{kind}.csv" for name in _NAMES.get(split, ()))
    return next((table for table in tables if table.is_file()), None)


def _side_rows(path: Path | None) -> Iterator[Row]:
    """The rows of a table beside the captions; nothing if it is absent."""
    if path is not None and path.is_file():
        yield from read_csv(path)


@contextmanager
def _noted(row: Row, defects: list[Defect]) -> Iterator[None]:
    """Turns the error of a line beside the captions into a defect: the caption itself can still be used."""
    try:
        yield
    except RowError as error:
        defects.append(Defect(subject=row.name, reason="side_line", where=row.where, detail=error.detail))
