"""Small markets, encoders and processes that tests share."""
