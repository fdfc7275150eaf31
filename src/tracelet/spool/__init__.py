"""The durable middle: records are on disk here before the call that logged them returns."""
