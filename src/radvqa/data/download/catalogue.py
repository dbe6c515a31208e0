"""The data sets that ``radvqa data get`` can fetch, from whom, and under which licence.

The addresses were read in the data sets' own pages or in programs that fetch them; none could be opened when this list
was written, so what is not known for certain is said in ``unverified``. Licences are those of the publishers: what is
shown here is a summary, and the source states its own when the files are listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from radvqa.errors import RecipeError

_ANYTHING = ("*",)
_MEDM_LICENCE = "MIT for the repository of its makers; the text was made from MedPix with Llama 3.1."
_OFFICIAL_SPLIT = (
    "its split crosses the official one: fetch medpix too, and add to the entry of the recipe "
    "official: data/medpix/MedPix-2-0/splitted_dataset/uid_list.json"
)
_MEDPIX_PICTURES = "The pictures come from MedPix (NLM and USU), whose contributors keep their copyright."


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A data set repository of the Hugging Face hub; ``files`` are patterns of the files to fetch."""

    repository: str
    files: tuple[str, ...] = _ANYTHING

    @property
    def address(self) -> str:
        """The page of the source."""
        return f"https://huggingface.co/datasets/{self.repository}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZenodoSource:
    """A record of Zenodo, which publishes an md5 checksum of every file."""

    record: int
    files: tuple[str, ...] = _ANYTHING

    @property
    def address(self) -> str:
        """The page of the source."""
        return f"https://zenodo.org/records/{self.record}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GithubSource:
    """A repository of GitHub, where git itself names every file by a checksum."""

    repository: str
    branch: str = "main"
    files: tuple[str, ...] = _ANYTHING

    @property
    def address(self) -> str:
        """The page of the source."""
        return f"https://github.com/{self.repository}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSource:
    """Single files at fixed addresses, by the name they get here; no checksums are published."""

    page: str
    files: Mapping[str, str]

    @property
    def address(self) -> str:
        """The page of the source."""
        return self.page


Source = HubSource | ZenodoSource | GithubSource | WebSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpack:
    """Archives to unpack once they are there: a pattern of their paths, and the folder they become.

    ``into`` is ``""`` for the path of the archive without its suffix. ``growth``: how much larger the files are,
    for the estimate of disk space.
    """

    pattern: str
    into: str = ""
    growth: float = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One data set that can be fetched.

    ``adapter`` reads it, with ``root`` being the folder inside the fetched one, and with ``options``.
    ``bytes``: size of the files to fetch as published or as users report it; None if unknown.
    ``hint``: what to know before it is used.
    ``unverified``: what of this entry could not be checked.
    """

    name: str
    about: str
    adapter: str
    source: Source
    licence: str
    licence_source: str
    homepage: str
    bytes: int | None = None
    unpack: tuple[Unpack, ...] = ()
    root: str = "."
    options: Mapping[str, str | int] = field(default_factory=dict)
    hint: str = ""
    unverified: str = ""

    @property
    def terms(self) -> str:
        """The text that is shown and accepted."""
        return (
            f"{self.name}: {self.about}\n"
            f"  licence: {self.licence}\n"
            f"  read at: {self.licence_source}\n"
            f"  source: {self.source.address}\n"
            f"  home page: {self.homepage}\n"
            "  The licence of the publisher counts, not this summary. Read it there before you accept."
        )


_ENTRIES = (
    Entry(
        name="slake",
        about="SLAKE 1.0, questions in English and Chinese about 642 CT, MRI and X-ray images, with masks and boxes",
        adapter="slake",
        source=HubSource(
            repository="BoKelvin/SLAKE", files=("train.json", "validation.json", "test.json", "imgs.zip", "KG.zip")
        ),
        licence="CC BY 4.0 (one repository once said CC BY-NC-SA 4.0: treat it as for research)",
        licence_source="the card of BoKelvin/SLAKE, as quoted by others",
        homepage="https://www.med-vqa.com/slake/",
        bytes=217_000_000,
        unpack=(Unpack(pattern="imgs.zip", into="imgs", growth=2.5), Unpack(pattern="KG.zip", into="KG")),
    ),
    Entry(
        name="slake-english",
        about="the English questions of SLAKE as image, question and answer in Parquet; no ids and no answer types",
        adapter="slake",
        source=HubSource(repository="mdwiratathya/SLAKE-vqa-english", files=("*.parquet", "README.md")),
        licence="that of SLAKE, CC BY 4.0; what the repackaged copy states itself is unverified",
        licence_source="the card of BoKelvin/SLAKE, as quoted by others",
        homepage="https://www.med-vqa.com/slake/",
        unverified="the licence that this repository states",
    ),
    Entry(
        name="vqa-rad",
        about="VQA-RAD, 2,248 questions about 315 images of MedPix, the official files",
        adapter="vqa_rad",
        source=WebSource(
            page="https://osf.io/89kps/",
            files={"VQA_RAD.zip": "https://files.osf.io/v1/resources/89kps/providers/osfstorage/?zip="},
        ),
        licence=f"CC0 1.0. {_MEDPIX_PICTURES}",
        licence_source="the card of flaviagiammarino/vqa-rad, for the project at osf.io/89kps",
        homepage="https://osf.io/89kps/",
        bytes=20_000_000,
        unpack=(Unpack(pattern="VQA_RAD.zip", into="VQA_RAD"),),
        root="VQA_RAD",
        unverified="OSF packs the archive anew for everyone: it states no size or checksum and cannot resume",
    ),
    Entry(
        name="vqa-rad-hub",
        about="VQA-RAD as image, question and answer in Parquet: text lower-cased, 4 training rows removed, no ids",
        adapter="vqa_rad",
        source=HubSource(repository="flaviagiammarino/vqa-rad", files=("*.parquet", "README.md")),
        licence=f"CC0 1.0. {_MEDPIX_PICTURES}",
        licence_source="https://huggingface.co/datasets/flaviagiammarino/vqa-rad",
        homepage="https://osf.io/89kps/",
        bytes=34_496_718,
    ),
    Entry(
        name="medpix",
        about="MedPix 2.0, 671 cases with 2,050 captioned CT and MR images and the official split by case",
        adapter="medpix",
        source=GithubSource(repository="CHILab1/MedPix-2.0", files=("MedPix-2-0/*",)),
        licence=f"none stated in the repository. {_MEDPIX_PICTURES}",
        licence_source="https://github.com/CHILab1/MedPix-2.0",
        homepage="https://github.com/CHILab1/MedPix-2.0",
        root="MedPix-2-0",
        unverified="that the pictures lie in MedPix-2-0/images of the repository, as its README says",
    ),
    Entry(
        name="medpix-zenodo",
        about="MedPix 2.0 as one archive; its version and folders may differ from those at GitHub",
        adapter="medpix",
        source=ZenodoSource(record=12624810),
        licence=f"as the record states; users report CC BY 4.0. {_MEDPIX_PICTURES}",
        licence_source="programs that fetch the record; the record itself was not opened",
        homepage="https://github.com/CHILab1/MedPix-2.0",
        unpack=(Unpack(pattern="*.zip"),),
        hint="as root, give the folder that holds splitted_dataset/ and images/",
        unverified="the record number, read in programs that fetch it, and how its files are laid out",
    ),
    Entry(
        name="medpix-shortqa",
        about="13,225 generated short questions about MedPix 2.0; its split ignores the official one",
        adapter="medpix_qa",
        source=HubSource(repository="adishourya/MEDPIX-ShortQA"),
        hint=_OFFICIAL_SPLIT,
        licence=f"{_MEDM_LICENCE} {_MEDPIX_PICTURES}",
        licence_source="https://github.com/adishourya/MedM",
        homepage="https://github.com/adishourya/MedM",
        unverified="the licence that the hub repository states",
    ),
    Entry(
        name="medpix-clinqa",
        about="20,500 generated clinical questions about MedPix 2.0",
        adapter="medpix_qa",
        source=HubSource(repository="adishourya/MEDPIX-ClinQA"),
        hint=_OFFICIAL_SPLIT,
        licence=f"{_MEDM_LICENCE} {_MEDPIX_PICTURES}",
        licence_source="https://github.com/adishourya/MedM",
        homepage="https://github.com/adishourya/MedM",
        unverified="the licence that the hub repository states",
    ),
    Entry(
        name="rocov2",
        about="ROCOv2, 79,789 captioned radiology images from open-access articles, with concepts",
        adapter="rocov2",
        source=ZenodoSource(record=10821435),
        licence="per image (CC BY or CC BY-NC of its article); the whole is called CC BY-NC-SA 4.0 or CC BY 4.0 by "
        "different pages: look at the record",
        licence_source="the card of eltorio/ROCOv2-radiology and pages about the Zenodo record",
        homepage="https://zenodo.org/records/10821435",
        bytes=6_400_000_000,
        unpack=(
            Unpack(pattern="train_images.zip", into="train", growth=1.1),
            Unpack(pattern="valid_images.zip", into="valid", growth=1.1),
            Unpack(pattern="test_images.zip", into="test", growth=1.1),
        ),
    ),
    Entry(
        name="rocov2-hub",
        about="ROCOv2 as Parquet with image, image_id, caption and cui",
        adapter="rocov2",
        source=HubSource(repository="eltorio/ROCOv2-radiology", files=("*.parquet", "README.md")),
        licence="CC BY-NC-SA 4.0; the images are CC BY or CC BY-NC of their articles",
        licence_source="https://huggingface.co/datasets/eltorio/ROCOv2-radiology",
        homepage="https://zenodo.org/records/10821435",
        bytes=18_621_371_902,
    ),
    Entry(
        name="roco-qa",
        about="generated questions about ROCO v1, validation and test",
        adapter="roco_qa",
        source=HubSource(repository="adishourya/ROCO-QA"),
        licence="MIT for the repository of its makers; pictures and captions under the licences of their articles",
        licence_source="https://github.com/adishourya/MedM",
        homepage="https://github.com/adishourya/MedM",
        unverified="the licence that the hub repository states",
    ),
    Entry(
        name="roco-qa-train",
        about="generated questions about ROCO v1, training",
        adapter="roco_qa",
        source=HubSource(repository="adishourya/ROCO-QA-Train"),
        licence="MIT for the repository of its makers; pictures and captions under the licences of their articles",
        licence_source="https://github.com/adishourya/MedM",
        homepage="https://github.com/adishourya/MedM",
        unverified="the licence that the hub repository states",
    ),
    Entry(
        name="vqa-med-2019",
        about="VQA-Med 2019 (ImageCLEF), 15,292 questions on modality, plane, organ and abnormality of 4,200 images",
        adapter="vqa_med",
        source=ZenodoSource(record=10499039),
        licence=f"CC BY 4.0. {_MEDPIX_PICTURES}",
        licence_source="pages about the Zenodo record, and its makers' repository as quoted by others",
        homepage="https://github.com/abachaa/VQA-Med-2019",
        unpack=(Unpack(pattern="*.zip"), Unpack(pattern="VQAMed2019Test/*.zip")),
    ),
    Entry(
        name="vqa-med-2021",
        about="VQA-Med 2021 (ImageCLEF), questions about abnormalities: validation and test; training is that of 2020",
        adapter="vqa_med",
        source=GithubSource(repository="abachaa/VQA-Med-2021", files=("*.zip", "README.md")),
        licence=f"none stated. {_MEDPIX_PICTURES}",
        licence_source="https://github.com/abachaa/VQA-Med-2021",
        homepage="https://github.com/abachaa/VQA-Med-2021",
        unpack=(Unpack(pattern="*.zip"), Unpack(pattern="*/*.zip")),
        unverified="which archives the repository holds; its training part needs an AIcrowd login (ImageCLEF 2020)",
    ),
    Entry(
        name="pmc-vqa",
        about="PMC-VQA version 1, 227,000 multiple-choice questions about 149,000 figures of open-access articles",
        adapter="pmc_vqa",
        source=HubSource(
            repository="RadGenome/PMC-VQA", files=("train.csv", "test.csv", "test_clean.csv", "images.zip", "README.md")
        ),
        licence="CC BY-SA; the articles are CC0 or CC BY",
        licence_source="https://huggingface.co/datasets/RadGenome/PMC-VQA",
        homepage="https://github.com/xiaoman-zhang/PMC-VQA",
        bytes=19_000_000_000,
        unpack=(Unpack(pattern="images.zip", into="images", growth=1.1),),
    ),
    Entry(
        name="pmc-vqa-2",
        about="PMC-VQA version 2, only figures of one panel",
        adapter="pmc_vqa",
        source=HubSource(
            repository="RadGenome/PMC-VQA", files=("train_2.csv", "test_2.csv", "images_2.zip", "README.md")
        ),
        licence="CC BY-SA; the articles are CC0 or CC BY",
        licence_source="https://huggingface.co/datasets/RadGenome/PMC-VQA",
        homepage="https://github.com/xiaoman-zhang/PMC-VQA",
        unpack=(Unpack(pattern="images_2.zip", into="images_2", growth=1.1),),
        options={"version": 2},
    ),
)

CATALOGUE: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def entry_named(name: str) -> Entry:
    """The entry of this name.

    Raises:
        RecipeError: nothing of this name can be fetched.
    """
    if name not in CATALOGUE:
        raise RecipeError(
            f"no data set {name!r} can be fetched",
            expected=f"one of {', '.join(CATALOGUE)}",
            got=repr(name)[:100],
            fix="see `radvqa data get` without a name",
        )
    return CATALOGUE[name]
