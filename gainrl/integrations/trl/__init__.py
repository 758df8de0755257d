"""To be filled by its owner in this session."""
