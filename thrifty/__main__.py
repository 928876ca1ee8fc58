"""`python -m thrifty`: the same program as `thrifty`, and what `ray job submit` calls."""

from thrifty.cli import main

if __name__ == "__main__":
    main()
