"""What is handed to others: model cards and uploads to the Hugging Face hub."""
