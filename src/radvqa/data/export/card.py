"""The page that is laid beside an export: a data card as the Hugging Face hub shows it."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from radvqa.data.export.layouts import HUB_SPLITS, MANIFEST

_HUB_LICENCES = re.compile(
    r"cc[ -](by(?:-nc)?(?:-sa|-nd)?)[ -]([0-9]\.[0-9])|cc0[ -](1\.0)|(mit|apache-2\.0)", re.IGNORECASE
)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_READING = {
    "hub": 'With the `datasets` library: `load_dataset("FOLDER")`; the column `image` holds pictures.',
    "llava": "`SPLIT.json` is a list with `id`, `image` and `conversations`; the pictures are in `images/`.",
    "messages": "`SPLIT.jsonl` holds `messages` and `images` line by line; the pictures are in `images/`.",
    "paligemma": "`SPLIT.jsonl` holds `image`, `prefix` and `suffix` line by line; the pictures are in `images/`.",
}


def card(manifest: Mapping[str, Any]) -> str:
    """``README.md`` of an export: YAML for the hub, then source, licence, counts, and what was left out and mended."""
    header = yaml.safe_dump(_header(manifest), sort_keys=False, allow_unicode=True, width=1000)
    parts = [f"---\n{header}---", f"# {manifest['name']}", *_body(manifest)]
    return "\n\n".join(parts) + "\n"


def hub_licence(licence: str) -> str:
    """The hub's identifier where the text is exactly one licence that has one, otherwise ``other``."""
    match = _HUB_LICENCES.fullmatch(licence.strip())
    if match is None:
        return "other"
    if match[1]:
        return f"cc-{match[1].lower()}-{match[2]}"
    return "cc0-1.0" if match[3] else match[4].lower()


def _header(manifest: Mapping[str, Any]) -> dict[str, Any]:
    splits, kinds, languages = manifest["splits"], Counter[str](), Counter[str]()
    for one in splits.values():
        kinds.update(one["kinds"])
        languages.update(one["languages"])
    licence = hub_licence(manifest["source"]["licence"])
    total = sum(one["records"] for one in splits.values())
    header: dict[str, Any] = {"pretty_name": manifest["name"], "license": licence}
    if licence == "other":
        header["license_name"] = "as-the-source-states"
    header |= {
        "language": sorted(languages),
        "task_categories": [
            *(["visual-question-answering"] if kinds["vqa"] else []),
            *(["image-to-text"] if kinds["caption"] else []),
        ],
        "tags": ["medical", "radiology"],
        "size_categories": [next((name for limit, name in _SIZES if total < limit), "n>1M")],
    }
    if manifest["format"] == "hub":
        files = [{"split": HUB_SPLITS[split], "path": f"data/{HUB_SPLITS[split]}-*.parquet"} for split in splits]
        header["configs"] = [{"config_name": "default", "data_files": files}]
    return header


def _body(manifest: Mapping[str, Any]) -> list[str]:
    source, splits = manifest["source"], manifest["splits"]
    facts = [
        f"Licence, as the source states it: {source['licence'] or 'none stated'}",
        f"Cite: {source['citation'] or 'nothing stated'}",
        f"Home page: {source['homepage'] or 'none stated'}",
        f"Written by radvqa {manifest['radvqa']} with the adapter `{source['adapter']}`"
        + (f" and the options `{source['options']}`" if source["options"] else ""),
    ]
    parts = [
        "**For research only, not for clinical use.** Answers may be wrong or incomplete; nothing here was checked by "
        "a clinician for this export.",
        "\n".join(f"- {fact}" for fact in facts),
        _READING[manifest["format"]],
    ]
    if manifest["limit"] is not None:
        parts.append(f"This is a part: at most {manifest['limit']:,} records of each split were written.")
    if count := manifest["converted_from_dicom"]:
        parts.append(f"{count:,} DICOM files were converted to 8-bit PNG; nothing of their headers is here.")
    parts += ["## Records", _counts_table(splits)]
    for title, key, about in (
        ("Left out", "rejects", "Rows that did not become a record, one by one in `rejects.jsonl`."),
        ("Mended", "defects", "Values that were mended while reading, one by one in `defects.jsonl`."),
    ):
        rows = [
            f"| {split} | {reason} | {count:,} |" for split, one in splits.items() for reason, count in one[key].items()
        ]
        table = "\n".join(["| split | reason | rows |", "|---|---|---:|", *rows])
        parts += [f"## {title}", f"{about}\n\n{table}" if rows else "Nothing."]
    files = [f"| source | {name} | `{digest}` |" for name, digest in source["files"].items()]
    files += [
        f"| {split} | {name} | `{digest}` |" for split, one in splits.items() for name, digest in one["tables"].items()
    ]
    hashes = "\n".join(["| | file | SHA-256 |", "|---|---|---|", *files])
    parts += ["## Hashes", hashes, f"The same facts for programs: `{MANIFEST}`."]
    return parts


def _counts_table(splits: Mapping[str, Any]) -> str:
    lines = ["| split | records | closed | open | captions | images |", "|---|---:|---:|---:|---:|---:|"]
    for split, one in splits.items():
        types, captions = one["answer_types"], one["kinds"].get("caption", 0)
        numbers = (one["records"], types.get("closed", 0), types.get("open", 0), captions, one["images"])
        lines.append(f"| {split} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    return "\n".join(lines)
