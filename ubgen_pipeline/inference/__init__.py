"""A loaded pipeline made ready to sample many images, and the record of how."""
