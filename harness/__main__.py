"""``python -m harness`` is ``puregen-bench``."""

from harness.cli import main

if __name__ == "__main__":
    main()
