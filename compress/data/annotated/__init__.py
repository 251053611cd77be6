"""Images of which more is known than a class: boxes, masks."""
