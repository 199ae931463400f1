"""`python -m softguard`, which is how launchers of several processes start the command."""

from softguard.cli.main import main

if __name__ == "__main__":
    main()
