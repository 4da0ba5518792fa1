"""One question per module; each has ``run(context) -> None``, which records rows, and ``render(rows) -> str``."""
