"""One model written by many workers: each shard of its target by whoever comes first."""
