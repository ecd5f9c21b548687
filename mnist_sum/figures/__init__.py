"""Pictures (plots, errors) and the layer table (layers)."""
