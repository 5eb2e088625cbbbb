"""`python -m pref_dist` is the same program as `pref-dist`."""

from pref_dist.cli import main

if __name__ == "__main__":
    main()
