"""The trainer base, which knows no model: checkpoints complete or absent, exact on resume, no pickle; averages."""
