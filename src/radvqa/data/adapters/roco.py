"""ROCO version 1 in its official layout: figures of articles in PubMed Central with their captions.

Layout of the folder, ``roco-dataset/`` upstream (or its ``data/``)::

    data/{train,validation,test}/{radiology,non-radiology}/
        captions.txt      ROCO_00020<tab> Axial computed tomography scan ...   (a blank after the tab)
        licences.txt      CSV with ROCO_ID, PMC_ID, CC; PMC_ID is a file name that begins with the article
        dlinks.txt        ROCO_00020<tab>wget ... PMC3970251.tar.gz ...<tab>file name
        cuis.txt          ROCO_00020<tab><tab>C4300092<tab>C0040395...         (the first field is empty)
        keywords.txt  semtypes.txt                                             same form, never read
        images/ROCO_00020.jpg                                                  fetched by the authors' script

ROCO publishes links, not pictures, and some no longer work: a caption without its picture is a reject
``missing_image``.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, final

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.tables import Row, RowError, image_inside, items_of, read_csv, read_lines, shown
from radvqa.errors import DataError, RecipeError
from radvqa.sample import SPLITS, CaptionedImage, Defect, Split

KINDS: tuple[str, ...] = ("radiology", "non-radiology", "all")

_FOLDERS: Mapping[Split, str] = {"train": "train", "val": "validation", "test": "test"}
_ID = re.compile(r"ROCO_[0-9]{1,12}")
_ARTICLE_FILE = re.compile(r"(PMC[0-9]+)(_|$)")
_ARTICLE_LINK = re.compile(r"/(PMC[0-9]+)\.tar\.gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFiles:
    """What the files beside one ``captions.txt`` say of each image, and which of their lines cannot be used."""

    articles: Mapping[str, str]
    licences: Mapping[str, str]
    cuis: Mapping[str, str]
    defects: tuple[Defect, ...]


@final
class RocoDataset(DatasetAdapter):
    """ROCO (Pelka et al., MICCAI LABELS workshop 2018), by default its radiology part.

    * The sample id is ``roco-<ROCO_ID>``, the image id the ROCO_ID.
    * The group is the article, such as ``PMC3970251``: figures of one article show one patient or one study. Articles
      occur in several of the official splits, so the official split leaks; the audit shows it. Where neither
      ``licences.txt`` nor ``dlinks.txt`` names the article, the group is the image, with a defect ``no_article``.
    * The text is the caption as published, stripped.
    * Tags: ``licence`` (of the article, differs per image), ``cuis`` (UMLS concepts joined by ";"), ``kind``.
    """

    licence: ClassVar[str] = "per image, see the tag licence; many forbid commercial use or changes"
    citation: ClassVar[str] = (
        "O. Pelka, S. Koitka, J. Rückert, F. Nensa, C. M. Friedrich. Radiology Objects in COntext (ROCO): A Multimodal "
        "Image Dataset. MICCAI LABELS 2018, LNCS 11043, 180-189. doi:10.1007/978-3-030-01364-6_20"
    )
    homepage: ClassVar[str] = "https://github.com/razorx89/roco-dataset"

    def __init__(self, root: str, *, kind: str = "radiology") -> None:
        """Open the folder ``root`` for images of one ``kind``: "radiology", "non-radiology" or "all".

        Raises:
            RecipeError: there is no such kind.
            DataError: the folder is missing, or has no captions of this kind.
        """
        if kind not in KINDS:
            raise RecipeError(
                f"ROCO has no images of the kind {kind!r}",
                expected=f"one of {', '.join(KINDS)}",
                fix="correct kind under datasets",
            )
        self.root = Path(root).expanduser()
        self.kinds = KINDS[:2] if kind == "all" else (kind,)
        self._data = _data_folder(self.root)
        if not self.splits():
            raise DataError(
                "ROCO is not at this place",
                where=str(self.root),
                expected=f"data/{{train,validation,test}}/{self.kinds[0]}/captions.txt",
                got="no such file" if self.root.is_dir() else "no such folder",
                fix=f"point root at the folder roco-dataset, or fetch it from {self.homepage}",
            )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A folder with a ``captions.txt`` in the folders of a split and a kind."""
        return any(_captions(_data_folder(root), split, kind).is_file() for split in SPLITS for kind in KINDS[:2])

    def splits(self) -> tuple[Split, ...]:
        """The splits that have captions of the chosen kind."""
        return tuple(split for split in SPLITS if self._folders(split))

    def sources(self) -> tuple[Path, ...]:
        """The captions and the files beside them that are read."""
        names = ("captions.txt", "licences.txt", "dlinks.txt", "cuis.txt")
        files = (folder / name for split in self.splits() for _, folder in self._folders(split) for name in names)
        return tuple(file for file in files if file.is_file())

    def rows(self, split: Split) -> Iterator[Item]:
        """One split in file order, radiology first: a record or a reject for every line of ``captions.txt``.

        Raises:
            DataError: the split is not there, or one of its files cannot be read.
        """
        folders = self._folders(split)
        if not folders:
            raise DataError(
                f"ROCO has no split {split!r} here",
                where=str(self.root),
                expected=f"one of {', '.join(self.splits())}",
                got=repr(split),
                fix="fetch its captions.txt, or choose a split that is there",
            )
        for kind, folder in folders:
            make = partial(self._items, split=split, folder=folder, side=read_side_files(folder))
            yield from items_of(caption_rows(folder / "captions.txt"), partial(make, kind=kind))

    def defects(self) -> Iterator[Defect]:
        """Lines of the files beside the captions that cannot be used, and articles on which they disagree."""
        for split in self.splits():
            for _, folder in self._folders(split):
                try:
                    yield from read_side_files(folder).defects
                except DataError as error:
                    detail = f"{error.what}: {error.got}"
                    yield Defect(subject="roco", reason="unreadable_file", where=error.where or "", detail=detail)

    def _items(self, row: Row, *, split: Split, folder: Path, side: SideFiles, kind: str) -> Iterator[Item]:
        image_id = row.text("id")
        if not _ID.fullmatch(image_id):
            raise RowError("unknown_value", f"the line should begin with ROCO_ and a number, got {shown(image_id)}")
        sample_id, article = f"roco-{image_id}", side.articles.get(image_id)
        image = image_inside(
            self.root, str((folder / "images" / f"{image_id}.jpg").relative_to(self.root)), key="the picture"
        )
        record = CaptionedImage(
            sample_id=sample_id,
            image_id=image_id,
            image=image,
            text=row.text("caption").strip(),
            group_id=article or image_id,
            split=split,
            tags={
                key: value
                for key, value in (
                    ("licence", side.licences.get(image_id, "")),
                    ("cuis", side.cuis.get(image_id, "")),
                    ("kind", kind),
                )
                if value
            },
        )
        if article is None:
            detail = "neither licences.txt nor dlinks.txt names its article: the image is its own group"
            yield Defect(subject=sample_id, reason="no_article", where=f"{row.where}, {image_id}", detail=detail)
        yield record

    def _folders(self, split: Split) -> list[tuple[str, Path]]:
        found = [(kind, _captions(self._data, split, kind)) for kind in self.kinds] if split in _FOLDERS else []
        return [(kind, captions.parent) for kind, captions in found if captions.is_file()]


ADAPTER = RocoDataset


def image_folders(root: Path, split: Split) -> tuple[Path, ...]:
    """The folders of a split in a ROCO folder (with ``data/`` or without), one per kind that is there."""
    folders = (_captions(_data_folder(root), split, kind).parent for kind in KINDS[:2])
    return tuple(folder for folder in folders if folder.is_dir())


def caption_rows(path: Path) -> Iterator[Row]:
    """The lines of a ``captions.txt`` as rows with ``id`` and ``caption``; one without a tab is a broken row.

    Raises:
        DataError: the file cannot be read.
    """
    for number, line in read_lines(path):
        where, name = f"{path}, line {number}", f"{path.name}:{number}"
        image_id, tab, caption = line.partition("\t")
        if tab:
            yield Row(where, name, {"id": image_id, "caption": caption})
        else:
            detail = f"the line should be an id, a tab and a caption, got {shown(line)}"
            yield Row(where, name, broken=RowError("wrong_columns", detail))


def read_side_files(folder: Path) -> SideFiles:
    """Articles, licences and concepts of the images of one folder; a file that is absent gives none.

    Raises:
        DataError: a file is there but cannot be read.
    """
    articles: dict[str, str] = {}
    licences: dict[str, str] = {}
    cuis: dict[str, str] = {}
    defects: list[Defect] = []
    for row in _licence_rows(folder):
        with _noted(row, defects):
            image_id, file_name = row.text("ROCO_ID"), row.text("PMC_ID")
            article = _ARTICLE_FILE.match(file_name)
            if article is None:
                raise RowError("no_article", f"PMC_ID should begin with PMC and a number, got {shown(file_name)}")
            _keep(articles, image_id, value=article[1])
            if licence := row.text("CC", may_be_empty=True).strip():
                _keep(licences, image_id, value=licence)
    for row in _list_rows(folder / "dlinks.txt"):
        with _noted(row, defects):
            article = _ARTICLE_LINK.search(row.text("rest"))
            if article is None:
                raise RowError("no_article", f"the link should name an article, got {shown(row.text('rest'))}")
            _keep(articles, row.text("id"), value=article[1])
    for row in _list_rows(folder / "cuis.txt"):
        with _noted(row, defects):
            concepts = ";".join(
                part.strip() for part in row.text("rest", may_be_empty=True).split("\t") if part.strip()
            )
            if concepts:
                _keep(cuis, row.text("id"), value=concepts)
    return SideFiles(articles=articles, licences=licences, cuis=cuis, defects=tuple(defects))


def _licence_rows(folder: Path) -> Iterator[Row]:
    path = folder / "licences.txt"
    if path.is_file():
        yield from read_csv(path)


def _list_rows(path: Path) -> Iterator[Row]:
    """The lines of a file beside the captions, as rows with ``id`` and ``rest``; nothing if it is absent."""
    if path.is_file():
        for number, line in read_lines(path):
            image_id, _, rest = line.partition("\t")
            yield Row(f"{path}, line {number}", f"{path.name}:{number}", {"id": image_id, "rest": rest})


@contextmanager
def _noted(row: Row, defects: list[Defect]) -> Iterator[None]:
    """Turns the error of a line beside the captions into a defect: the caption itself can still be used."""
    try:
        yield
    except RowError as error:
        defects.append(Defect(subject=row.name, reason="side_line", where=row.where, detail=error.detail))


def _keep(target: dict[str, str], image_id: str, *, value: str) -> None:
    """Keeps the first value of an image. Raises ``RowError`` if there was another."""
    if target.setdefault(image_id, value) != value:
        detail = f"{image_id[:80]} has {target[image_id][:80]}, here {value[:80]}; the first was kept"
        raise RowError("conflict", detail)


def _data_folder(root: Path) -> Path:
    return root / "data" if (root / "data").is_dir() else root


def _captions(data: Path, split: Split, kind: str) -> Path:
    return data / _FOLDERS[split] / kind / "captions.txt"
