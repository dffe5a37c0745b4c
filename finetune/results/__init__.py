"""What a fine-tuning run leaves: its model, scores, predictions, picture and card."""
