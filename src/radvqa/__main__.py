"""``python -m radvqa``."""

from radvqa.cli.app import main

if __name__ == "__main__":
    main()
