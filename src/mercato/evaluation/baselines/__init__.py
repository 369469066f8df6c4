"""What a trained model is measured against: BM25, and encoders as they were pretrained."""
