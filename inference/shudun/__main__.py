"""`python -m shudun`, so that launchers such as `accelerate launch -m shudun` can start the command."""

from shudun.cli import main

if __name__ == "__main__":
    main()
