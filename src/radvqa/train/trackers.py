"""Where training is followed besides the run folder: accelerate's trackers by name."""

from collections.abc import Sequence

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from radvqa.errors import TrainError

_PACKAGES = {"tensorboard": "tensorboardX"}


def require_trackers(names: Sequence[str]) -> None:
    """Refuse names that accelerate does not know or whose package is not installed: it would leave them out silently.

    Raises:
        TrainError: names the first of them.
    """
    available = [str(getattr(one, "value", one)) for one in get_available_trackers()]
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise TrainError(
                "there is no such tracker", where="trackers", expected=", ".join(sorted(LOGGER_TYPE_TO_CLASS)), got=name
            )
        if name not in available:
            raise TrainError(
                "the package of a tracker is not installed",
                where="trackers",
                got=name,
                fix=f"pip install {_PACKAGES.get(name, name)}, or leave {name} out of trackers",
            )
