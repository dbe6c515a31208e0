"""What may leave a DICOM header, and the named windows.

A header names persons, places, dates and devices, and free text may stand anywhere. So only the tags of
``ALLOWED_TAGS`` are ever looked at, and of those only values that a closed list knows: a surname written into
*Body Part Examined* stays inside.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from radvqa.errors import RecipeError

Window = str | tuple[float, float]
"""``"stored"``, ``"percentile"``, the name of a preset, or (centre, width) after the modality table or rescale."""
Frame = int | Literal["first", "middle", "last"]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
PERCENTILE = "percentile"
STORED = "stored"


class Preset(NamedTuple):
    """A named window: what becomes mid-gray, and how wide the range of grays is, both in Hounsfield units."""

    centre: float
    width: float


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "brain": Preset(40, 80),
        "subdural": Preset(80, 200),
        "stroke": Preset(40, 40),
        "temporal_bone": Preset(600, 2800),
        "head_neck": Preset(40, 375),
        "lung": Preset(-600, 1500),
        "mediastinum": Preset(50, 350),
        "abdomen": Preset(50, 400),
        "soft_tissue": Preset(50, 400),
        "liver": Preset(30, 150),
        "spine": Preset(50, 250),
        "bone": Preset(400, 1800),
    }
)
"""Windows in common use, for CT only.

They follow the table in "Windowing (CT)" (Murphy, Wilczek, Feger et al., Radiopaedia.org, rID 52108); where it gives a
range (subdural, stroke, head and neck) one value inside it. They are conventions of display, not of measurement:
departments differ by tens of units.
"""

_MODALITIES = (
    "AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT "
    "IVUS KER KO LEN LP LS M3D MA MG MR NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX "
    "REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN "
    "TEXTUREMAP TG US VA VF XA XAPROTOCOL XC CD CF CP CS DD DF DM DS EC FA FS MS OPTCT ST VC"
)
_BODY_PARTS = (
    "ABDOMEN ABDOMENPELVIS ADRENAL ANKLE ANUS AORTA ARM AXILLA BACK BILEDUCT BLADDER BRAIN BREAST BRONCHUS "
    "BUTTOCK CALCANEUS CALF CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CIRCLEOFWILLIS "
    "CLAVICLE COCCYX COLON CORNEA CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW ENDOARTERIAL ESOPHAGUS "
    "EXTREMITY EYE EYELID FACE FEMUR FINGER FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS IAC "
    "ILEUM ILIUM INTRACRANIAL JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER LOWEREXTREMITY LOWERLEG LSPINE LSSPINE "
    "LUNG MANDIBLE MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY "
    "PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX PITUITARY PROSTATE RADIUS RECTUM RIB SACROILIACJOINT SCALP "
    "SCAPULA SCLERA SCROTUM SHOULDER SINUS SKULL SPINE SPLEEN SSPINE STERNUM STOMACH SUBMANDIBULAR TESTIS THIGH "
    "THORAX THUMB THYMUS THYROID TIBIA TIBIAFIBULA TLSPINE TMJ TOE TONGUE TRACHEA TSPINE ULNA UPPERARM "
    "UPPEREXTREMITY URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA"
)
_VIEWS = "AP PA LL RL RLD LLD RLO LLO RAO LAO RPO LPO LAT LATERAL CC MLO ML LM LMO SIO FB XCC XCCL XCCM ISO DL VD DV"
_PHOTOMETRIC = (
    "MONOCHROME1 MONOCHROME2 RGB YBR_FULL YBR_FULL_422 YBR_ICT YBR_RCT YBR_PARTIAL_420 YBR_PARTIAL_422 HSV ARGB CMYK"
)

ALLOWED_TAGS: Mapping[str, frozenset[str] | Literal["number"]] = MappingProxyType(
    {
        "Modality": frozenset(_MODALITIES.split()),
        "BodyPartExamined": frozenset(_BODY_PARTS.split()),
        "ViewPosition": frozenset(_VIEWS.split()),
        "Laterality": frozenset("LRBU"),
        "ImageLaterality": frozenset("LRBU"),
        "PhotometricInterpretation": frozenset({*_PHOTOMETRIC.split(), "PALETTE COLOR"}),
        "BurnedInAnnotation": frozenset({"YES", "NO"}),
        "LossyImageCompression": frozenset({"00", "01"}),
        "Rows": "number",
        "Columns": "number",
        "BitsStored": "number",
        "NumberOfFrames": "number",
    }
)
"""Keyword of each tag that may leave a header, with its known values (DICOM PS3.3 and PS3.16, Annex L) or "number"."""


def allowed_value(keyword: str, value: object) -> str | None:
    """The value of an allow-listed tag as its list spells it, or None if the list does not know it.

    Blanks, hyphens, underscores and case are overlooked in codes, because scanners differ in them ("C-SPINE").
    """
    known = ALLOWED_TAGS[keyword]
    if known == "number":
        return str(value) if isinstance(value, int) and 0 <= value < 2**31 else None
    if not isinstance(value, str):
        return None
    return {_bare(one): one for one in known}.get(_bare(value))


def is_dicom(source: Path | bytes) -> bool:
    """Whether a file, or its first bytes, look like DICOM: the mark ``DICM``, or a first element without it.

    Never raises: a file that cannot be read is none, and so is what is no regular file (a named pipe would wait).
    """
    if isinstance(source, bytes):
        head = source[:132]
    else:
        try:
            if not source.is_file():
                return False
            with source.open("rb") as file:
                head = file.read(132)
        except (OSError, ValueError):
            return False
    return head[128:132] == b"DICM" or _starts_with_element(head)


def check_window(window: Window) -> None:
    """Nothing, if ``window`` can be asked for. Raises ``RecipeError`` for an unknown name or an impossible width."""
    if isinstance(window, str):
        if window not in (STORED, PERCENTILE, *PRESETS):
            raise RecipeError(
                "there is no such window",
                expected=f"{STORED}, {PERCENTILE}, {', '.join(PRESETS)}, or [centre, width]",
                got=repr(window)[:100],
                fix="correct window",
            )
    elif not (math.isfinite(window[0]) and math.isfinite(window[1]) and window[1] > 0):
        raise RecipeError(
            "the window is impossible",
            expected="[centre, width], both finite and width above 0",
            got=repr(window)[:100],
            fix="correct window",
        )


def _starts_with_element(head: bytes) -> bool:
    """Whether the bytes begin with an early element of group 2 or 8, as in files without the 128-byte preamble."""
    if len(head) < 8:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHI", head[:8])
        if (group == 2 and element in (0, 1, 2, 16)) or (group == 8 and element in (0, 1, 5, 8, 0x12, 0x16, 0x18)):
            explicit = head[4:6] in (b"UL", b"OB", b"UI", b"CS", b"DA", b"TM", b"SH", b"LO")
            return explicit or length < 0x10000
    return False


def _bare(code: str) -> str:
    return code.strip().upper().replace(" ", "").replace("-", "").replace("_", "")
