"""Finding and loading a trained model by name: pipelines, CLIPs, segmenters, word embeddings."""
