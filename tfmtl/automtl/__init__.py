"""Architecture search for multi-task ranking (AutoMTL)."""
