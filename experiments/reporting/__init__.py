"""From run directories to a page: what is on disk (``record``), what to say of it, and how it is written down."""
