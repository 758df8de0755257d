"""`python -m gainrl` is the command line."""

from gainrl.cli import main

if __name__ == "__main__":
    main()
