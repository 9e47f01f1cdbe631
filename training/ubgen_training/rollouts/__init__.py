"""What trainings share that draw samples, score them, and then train on them for a while."""
