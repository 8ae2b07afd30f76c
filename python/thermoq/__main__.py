"""`python -m thermoq`: the command line."""

from thermoq.cli.app import main

if __name__ == "__main__":
    main()
