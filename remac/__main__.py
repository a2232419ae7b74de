"""``remac <command>``, as a script and by ``python -m remac``: the commands of ``experiments``."""

from experiments.__main__ import main

if __name__ == "__main__":
    main()
