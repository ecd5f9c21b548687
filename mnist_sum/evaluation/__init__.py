"""What a trained model can do: the exhaustive test, where it errs, predictions."""
