"""`python -m heatserve`, which is also what `torchrun -m heatserve` runs."""

from heatserve.cli import main

if __name__ == "__main__":
    main()
