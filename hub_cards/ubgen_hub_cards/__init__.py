"""Model, dataset and Space cards, and what renders and publishes them. Imports nothing of the other packages."""
