"""Paths that come from tables: none may lead out of its data folder."""

from pathlib import Path, PureWindowsPath

from radvqa.errors import DataError


def path_inside(root: Path, relative: str) -> Path:
    """The path ``root / relative``, which is sure to lie inside ``root`` even after following symbolic links.

    The file need not exist. Both slash and backslash count as separators, so a table written on Windows cannot
    smuggle a ``..`` past this check.

    Raises:
        DataError: ``relative`` is empty or absolute, contains ``..``, or leaves ``root`` through a symbolic link.
    """
    foreign = PureWindowsPath(relative)  # knows drives, and both separators
    if not relative.strip() or "\0" in relative:
        raise _outside(root, relative, "an empty path" if "\0" not in relative else "a path with a null character")
    if foreign.drive or foreign.root:
        raise _outside(root, relative, "an absolute path")
    if ".." in foreign.parts:
        raise _outside(root, relative, "a path with '..'")
    path = root / relative
    require_inside(path, root)
    return path


def require_inside(path: Path, root: Path) -> None:
    """Raise ``DataError`` unless ``path`` lies inside ``root`` after following symbolic links."""
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long, a null character
        raise _outside(root, str(path), "a loop of symbolic links, or no possible name") from error
    if not inside:
        # Not where it leads to: messages are passed on in reports and exports.
        linked = path.absolute().is_relative_to(root.absolute())
        got = "a symbolic link that leads out of the folder" if linked else "a path outside the folder"
        raise _outside(root, str(path), got)


def _outside(root: Path, path: str, got: str) -> DataError:
    return DataError(
        "path leaves the data folder",
        where=repr(path),
        expected=f"a relative path inside {root}, also after following symbolic links",
        got=got,
        fix="correct the path in the table, or copy the file into the data folder instead of linking it",
    )
