"""Base classifiers and their data, and the two LightningModules."""
