"""`python -m fedrai`: the command line, where the script `fedrai` is not on the path."""

from fedrai.cli import main

if __name__ == "__main__":
    main()
