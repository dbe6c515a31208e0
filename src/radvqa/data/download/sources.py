"""What a source holds at this moment: its files with sizes and checksums, its revision, the licence it states."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar, assert_never
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from radvqa.data.download.archive import why_unsafe
from radvqa.data.download.catalogue import GithubSource, HubSource, Source, WebSource, ZenodoSource
from radvqa.data.download.transfer import WAIT_STATUS, BrokenError, RemoteFile, Web, require_encrypted
from radvqa.errors import DataError

T = TypeVar("T", bound=BaseModel)

_LATER = "try again later; if it stays, the publisher changed its addresses: fetch the files by hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the services are. ``hub`` is that of the environment (HF_ENDPOINT) where None."""

    hub: str | None = None
    zenodo: str = "https://zenodo.org"
    github_api: str = "https://api.github.com"
    github_files: str = "https://raw.githubusercontent.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of a source at one revision, in order of their path; ``licence`` is what it states, or ``""``."""

    revision: str
    files: tuple[RemoteFile, ...]
    licence: str = ""


def list_source(
    source: Source, web: Web, *, revision: str | None = None, addresses: Addresses | None = None
) -> Listing:
    """What ``source`` holds, at ``revision`` (a commit, branch or tag) or as it is now.

    Raises:
        DataError: the source is not there, refuses, has no such revision, or answers something else than a listing;
            none of the wanted files is there; a path of its listing leaves the folder.
    """
    addresses = addresses or Addresses()
    if isinstance(source, HubSource):
        listing = _list_hub(source, web, revision=revision, endpoint=addresses.hub)
    elif isinstance(source, GithubSource):
        listing = _list_github(source, web, revision=revision, addresses=addresses)
    elif isinstance(source, ZenodoSource):
        _require_no_revision(source, revision, fixed=str(source.record))
        listing = _list_zenodo(source, web, address=addresses.zenodo)
    elif isinstance(source, WebSource):
        _require_no_revision(source, revision, fixed="")
        listing = Listing(
            revision="", files=tuple(RemoteFile(path=path, url=url) for path, url in source.files.items())
        )
    else:
        assert_never(source)
    for file in listing.files:
        if (what := why_unsafe(file.path)) is not None:
            raise DataError(
                f"the source lists a file with {what}",
                where=source.address,
                expected="paths inside the folder",
                got=repr(file.path)[:300],
                fix="do not use this source",
            )
    return listing


def _require_no_revision(source: Source, revision: str | None, *, fixed: str) -> None:
    if revision not in (None, "", fixed):
        raise DataError(
            "this source has no revisions",
            where=source.address,
            expected="no --revision" + (f", or {fixed}" if fixed else ""),
            got=revision,
            fix="leave --revision away; `--manifest FILE` holds the files to those of an earlier download",
        )


def _list_hub(source: HubSource, web: Web, *, revision: str | None, endpoint: str | None) -> Listing:
    from huggingface_hub import HfApi, constants, get_token, hf_hub_url

    endpoint = endpoint or constants.ENDPOINT
    require_encrypted(endpoint)
    if constants.is_offline_mode():
        raise DataError(
            "the Hugging Face hub is switched off",
            where=source.address,
            got="HF_HUB_OFFLINE is set",
            fix="unset HF_HUB_OFFLINE, or fetch on a machine with a network and copy the folder",
        )
    page = source.address.replace("https://huggingface.co", endpoint)
    info = web.patiently(
        lambda _: _hub_info(HfApi(endpoint=endpoint), source, revision=revision, web=web, page=page),
        what=f"the listing of {source.repository}",
        where=page,
    )
    if not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
        raise DataError(
            "the hub names no commit", where=page, expected="40 hexadecimal digits", got=repr(info.sha), fix=_LATER
        )
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    files = [
        RemoteFile(
            path=one.rfilename,
            url=hf_hub_url(source.repository, one.rfilename, repo_type="dataset", revision=info.sha, endpoint=endpoint),
            bytes=one.lfs.size if one.lfs else one.size,
            published=f"sha256:{one.lfs.sha256}" if one.lfs else f"git-sha1:{one.blob_id}" if one.blob_id else "",
            headers=headers,
        )
        for one in info.siblings or ()
    ]
    licence = info.card_data.get("license") if info.card_data else None
    stated = licence if isinstance(licence, str) else ", ".join(map(str, licence)) if licence else ""
    return Listing(revision=info.sha, files=_wanted(files, source.files, where=page), licence=stated)


def _hub_info(api: Any, source: HubSource, *, revision: str | None, web: Web, page: str) -> Any:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return api.dataset_info(
            source.repository, revision=revision, files_metadata=True, timeout=web.patience.read_seconds
        )
    except GatedRepoError as error:
        raise DataError(
            "the data set is gated: its publisher wants its terms accepted",
            where=page,
            got=_http_status(error),
            fix="open the page in a browser, log in, accept the terms, then `hf auth login` and try again",
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(
            "the data set has no such revision",
            where=page,
            expected="a commit, branch or tag of the repository",
            got=revision,
            fix="see the commits on the page, or leave --revision away",
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in WAIT_STATUS:
            raise BrokenError(f"the hub answered {_http_status(error)}", error.response) from error
        # The hub answers 401 for what does not exist too, so as not to tell what is private.
        hidden = isinstance(error, RepositoryNotFoundError) or status in (401, 404)
        raise DataError(
            "the data set is not there, or not for everyone" if hidden else "the hub does not list the data set",
            where=page,
            expected="a public repository",
            got=_http_status(error),
            fix="look at the page; if it is private, `hf auth login` with an account that may read it"
            if hidden or status == 403
            else _LATER,
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            "the hub's answer is no listing", where=page, got=f"{type(error).__name__}: {error}"[:300], fix=_LATER
        ) from error


def _http_status(error: Any) -> str:
    response: httpx2.Response = error.response
    return f"{response.status_code} {response.reason_phrase}".rstrip()


class _ZenodoLinks(BaseModel):
    self: str


class _ZenodoFile(BaseModel):
    key: str
    size: int
    checksum: str
    links: _ZenodoLinks


class _ZenodoLicence(BaseModel):
    id: str


class _ZenodoMetadata(BaseModel):
    license: _ZenodoLicence | None = None


class _ZenodoRecord(BaseModel):
    files: list[_ZenodoFile]
    metadata: _ZenodoMetadata


def _list_zenodo(source: ZenodoSource, web: Web, *, address: str) -> Listing:
    url = f"{address}/api/records/{source.record}"
    record = _parsed(web.json(url, expected=f"the files of record {source.record}"), _ZenodoRecord, where=url)
    files = [
        RemoteFile(path=one.key, url=one.links.self, bytes=one.size, published=_published(one.checksum, where=url))
        for one in record.files
    ]
    licence = record.metadata.license.id if record.metadata.license else ""
    return Listing(revision=str(source.record), files=_wanted(files, source.files, where=url), licence=licence)


def _published(checksum: str, *, where: str) -> str:
    kind, _, digits = checksum.partition(":")
    if kind not in ("md5", "sha256") or not re.fullmatch(r"[0-9a-fA-F]+", digits):
        raise DataError(
            "a checksum of a kind that is not known",
            where=where,
            expected="md5:... or sha256:...",
            got=repr(checksum)[:100],
            fix="fetch the files by hand, and report it",
        )
    return f"{kind}:{digits.lower()}"


class _GithubCommit(BaseModel):
    sha: str


class _GithubBlob(BaseModel):
    path: str
    type: str
    mode: str = ""
    sha: str
    size: int | None = None


class _GithubTree(BaseModel):
    tree: list[_GithubBlob]
    truncated: bool = False


class _GithubLicenceName(BaseModel):
    spdx_id: str | None = None


class _GithubRepository(BaseModel):
    license: _GithubLicenceName | None = None


def _list_github(source: GithubSource, web: Web, *, revision: str | None, addresses: Addresses) -> Listing:
    api = f"{addresses.github_api}/repos/{source.repository}"
    wanted = quote(revision or source.branch, safe="")
    commit = _parsed(web.json(f"{api}/commits/{wanted}", expected="the commit"), _GithubCommit, where=api).sha
    url = f"{api}/git/trees/{commit}?recursive=1"
    tree = _parsed(web.json(url, expected="the files of the repository"), _GithubTree, where=url)
    if tree.truncated:
        raise DataError("the listing is cut short: the repository is too large", where=url, fix=_LATER)
    files = [
        RemoteFile(
            path=one.path,
            url=f"{addresses.github_files}/{source.repository}/{commit}/{quote(one.path)}",
            bytes=one.size,
            published=f"git-sha1:{one.sha}",
        )
        for one in tree.tree
        if one.type == "blob" and one.mode != "120000"
    ]
    repository = _parsed(web.json(api, expected="the repository"), _GithubRepository, where=api)
    stated = (repository.license.spdx_id or "") if repository.license else ""
    return Listing(revision=commit, files=_wanted(files, source.files, where=api), licence=stated)


def _parsed(value: Any, model: type[T], *, where: str) -> T:
    try:
        return TypeAdapter(model).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            "the server's answer is no listing of files",
            where=f"{where}, field {'.'.join(map(str, first['loc'])) or '(all)'}",
            expected=first["msg"],
            got=repr(first["input"])[:200],
            fix=_LATER,
        ) from error


def _wanted(files: Iterable[RemoteFile], patterns: tuple[str, ...], *, where: str) -> tuple[RemoteFile, ...]:
    everything = sorted(files, key=lambda file: file.path)
    found = tuple(one for one in everything if any(fnmatchcase(one.path, pattern) for pattern in patterns))
    names = [pattern for pattern in patterns if not any(fnmatchcase(one.path, pattern) for one in everything)]
    missing = [name for name in names if name != "README.md"]
    if missing or not found:
        raise DataError(
            "the source lacks a file",
            where=where,
            expected=", ".join(missing or patterns),
            got=", ".join(one.path for one in everything[:20]) or "no files at all",
            fix="the publisher renamed it: give an older --revision, or fetch the files by hand",
        )
    return found
