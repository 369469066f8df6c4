"""Ranking: what is known of a query and its candidates as features, and the two stages that order by them."""
