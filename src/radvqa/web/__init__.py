"""Local pages: who may ask, how they are served, pictures for the browser.

What they show is private (pictures of data sets with their own terms), so a server listens on the loopback address; on
any other it asks for a token. Needs the optional packages of ``pip install radvqa[serve]``.
"""

from radvqa.errors import RunError


def missing_packages(error: ImportError) -> RunError:
    """The error for an installation without the packages of a server."""
    return RunError(
        "the packages that serve pages are not installed",
        expected="the optional extra `serve`",
        got=str(error),
        fix="pip install 'radvqa[serve]'",
    )
