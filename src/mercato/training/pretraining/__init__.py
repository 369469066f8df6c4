"""Pretraining: what the encoders learn of a market before the stages (Taobao)."""
